"""What reports say of vision-language models: first of all whether they look at the image."""

from ssmlab.core import formats
from ssmlab.core.record import Record
from ssmlab.reports import theme
from ssmlab.reports.markup import Html, el, join
from ssmlab.reports.plots import Plot
from ssmlab.reports.primary_metric import PrimaryMetric, signed
from ssmlab.reports.run_folder import Run
from ssmlab.reports.sections import figure, legend
from ssmlab.reports.tables import plain_table
from ssmlab.reports.task_report import QUALITY, Measure, TaskReport
from ssmlab.tasks.shared.measures import LOSS, share

OTHER, GREY = "another image", "grey image"
CHANCE = 0.5  # of records that are likelier with their own image, where nothing is looked at
FEWEST = 4  # records, of which all would have to be likelier for an interval above chance


def _of(run: Run, label: str, metric: str, class_: str | None = None) -> Record | None:
    """The record of the first seed."""
    found = run.finals.get((label, metric, class_), {})
    return next(iter(found.values()), None)


def verdict(loss: float, other: float, likelier: Record) -> str:
    """Whether a model looks, in words.

    Args:
        loss, other: with the own image and with another. likelier: share of records that are likelier with their own.
    """
    low = (likelier.spread or (0.0, 1.0))[0]
    share_ = f"{likelier.value:.0%} of {likelier.n} records are likelier with their own image"
    if low > CHANCE and other > loss:
        return f"It looks: {share_}."
    if (likelier.n or 0) < FEWEST:
        return f"Too few records to tell whether it looks: {share_}."
    return (
        f"It does not look at the image, as far as this can tell: {share_}, and guessing gives half (interval from "
        f"{low:.0%}). Check that images belong to their records, train longer, or raise the projector's learning rate."
    )


def looking(run: Run, drawn: dict[str, Plot]) -> Html | None:
    """The loss with the right image, with another and with a grey one."""
    rows, words = [], []
    for label in run.labels:
        own, other, grey = (_of(run, label, "loss", class_) for class_ in (None, OTHER, GREY))
        likelier = _of(run, label, "own_image_likelier", OTHER)
        title = run.titles[label]
        if own is None or other is None or grey is None or likelier is None:
            words.append(el("p", f"{title}: no record of the test part has an image."))
            continue
        cells = [formats.decimal(4)(record.value) for record in (own, other, grey)]
        low, high = likelier.spread or (0.0, 1.0)
        rows.append((title, [*cells, f"{likelier.value:.1%} [{low:.1%}, {high:.1%}]", formats.whole(likelier.n or 0)]))
        words.append(el("p", f"{title}: {verdict(own.value, other.value, likelier)}"))
    if not rows:
        return join(words) if words else None
    note = (
        "Nats a token of the answers of the test part. Another image is that of another record; grey is one colour. "
        "Likelier: share of records whose answer is likelier with their own image than with another; one that does not "
        "look has 50 %."
    )
    heads = ["Own image", "Another image", "Grey image", "Likelier with own", "Records"]
    table = plain_table("Loss, test part", heads, rows, caption=note, class_="wide")
    return join([*words, el("div", el("div", table, class_="scroll", tabindex="0"), class_="card")])


def answers(run: Run, drawn: dict[str, Plot]) -> Html | None:
    """Answers by kind of question, with the own image and a grey one, next to the commonest answer."""
    rows = []
    for label in run.labels:
        kinds = [class_ for (own, metric, class_) in run.finals if own == label and metric == "commonest_answer"]
        for kind in kinds:
            own = _of(run, label, "exact_match", kind)
            blind = _of(run, label, "exact_match", f"{kind}, grey image" if kind else GREY)
            common = _of(run, label, "commonest_answer", kind)
            if own is None or blind is None or common is None or _of(run, label, "caption_cider"):
                continue  # captions are hardly ever those of a record; they have scores of their own
            name = f"{run.titles[label]}: {kind}" if kind else run.titles[label]
            low, high = own.spread or (0.0, 1.0)
            cells = [f"{own.value:.1%} [{low:.1%}, {high:.1%}]", f"{blind.value:.1%}", f"{common.value:.1%}"]
            rows.append((name, [*cells, formats.whole(own.n or 0)]))
    if not rows:
        return None
    note = (
        "Answers of the test part that are the reference's, upper and lower case and a last full stop aside. The "
        "commonest answer is what a model would get that always gives it."
    )
    heads = ["Own image", "Grey image", "Commonest answer", "Questions"]
    table = plain_table("Same as the reference", heads, rows, caption=note, class_="wide")
    return el("div", el("div", table, class_="scroll", tabindex="0"), class_="card")


def retrieval(run: Run, drawn: dict[str, Plot]) -> Html | None:
    """How often the right one is among the first, by likelihood."""
    rows = []
    for label in run.labels:
        for way in ("image of a text", "text of an image"):
            found = [_of(run, label, f"recall_at_{k}", way) for k in (1, 5, 10)]
            if all(record is not None for record in found):
                n = found[0].n or 0  # type: ignore[union-attr]
                cells = [f"{r.value:.1%} ({min(k / n, 1):.1%})" for r, k in zip(found, (1, 5, 10), strict=True) if r]
                rows.append((f"{run.titles[label]}: {way}", [*cells, formats.whole(n)]))
    if not rows:
        return None
    note = "By log p(text | image) − its mean over images of the training part; in brackets what guessing gives."
    table = plain_table(
        "Found among all", ["First", "First 5", "First 10", "Images"], rows, caption=note, class_="wide"
    )
    return el("div", el("div", table, class_="scroll", tabindex="0"), class_="card")


def captions(run: Run, drawn: dict[str, Plot]) -> Html | None:
    """Captions on their own images against the same captions on others."""
    rows = []
    for label in run.labels:
        for metric, name in (("caption_cider", "CIDEr-D"), ("caption_bleu", "BLEU-4")):
            found = [_of(run, label, metric, class_) for class_ in (None, "shuffled", "gain")]
            if any(record is None for record in found):
                continue
            cells = [
                f"{r.value:.3f} [{(r.spread or (0, 0))[0]:.3f}, {(r.spread or (0, 0))[1]:.3f}]" for r in found if r
            ]
            rows.append((f"{run.titles[label]}: {name}", [*cells, formats.whole(found[0].n or 0)]))  # type: ignore[union-attr]
    if not rows:
        return None
    note = (
        "Captions of test images on their own references, the same captions on those of other images, and the "
        "difference; 95 % intervals over images. A model that does not look has no difference."
    )
    table = plain_table(
        "Captions", ["Own image", "Shuffled", "Own − shuffled", "Images"], rows, caption=note, class_="wide"
    )
    return el("div", el("div", table, class_="scroll", tabindex="0"), class_="card")


TURNS = (("turn_state_bytes", "state, MiB", 2**-20), ("turn_seconds_per_token", "seconds a token", 1.0))


def plots(run: Run) -> list[Plot]:
    """Memory of the state and seconds a token over the turns of a conversation."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for record in run.records:
        if record.step is not None and record.metric in ("turn_state_bytes", "turn_seconds_per_token") and record.model:
            lines = found.setdefault(record.metric, {})
            lines.setdefault(record.model, []).append((record.step, record.value))
    if not found:
        return []

    def paint(figure):
        for place, (metric, label, scale) in enumerate(TURNS):
            axes = figure.add_subplot(1, len(TURNS), place + 1)
            for index, model in enumerate(run.labels):
                points = sorted(found.get(metric, {}).get(model, []))
                axes.plot([x for x, _ in points], [y * scale for _, y in points], color=theme.colour(index))
            axes.set(xlabel="turns", title=label, ylim=(0, None))

    names = ", ".join(run.titles[label] for label in run.labels)
    caption = (
        "One conversation of the first seed; a recurrent state keeps its size, keys and values grow with every turn."
    )
    return [Plot("turns", theme.draw((520, 230), paint, "turns"), f"Over turns: {names}. {caption}", caption)]


def turns(run: Run, drawn: dict[str, Plot]) -> Html | None:
    """How soon a model answers, and what a long conversation costs."""
    rows = []
    for label in run.labels:
        cold, warm = (_of(run, label, "seconds_to_first_word", c) for c in ("image not read", "image read"))
        if cold is None or warm is None:
            continue
        cells = [f"{cold.value:.3f}", f"{warm.value:.3f}"]
        for metric, _, scale in TURNS:
            found = sorted((r.step, r.value * scale) for r in run.records
                           if r.model == label and r.metric == metric and r.step is not None)  # fmt: skip
            cells += [f"{found[0][1]:.3g}", f"{found[-1][1]:.3g}"] if found else ["", ""]
        rows.append((run.titles[label], cells))
    if not rows:
        return None
    last = max((r.step for r in run.records if r.metric == TURNS[0][0] and r.step is not None), default=1)
    heads = ["First word, image not read, s", "Image read, s", "State after turn 1, MiB", f"Turn {last}, MiB"]
    heads += ["A token after turn 1, s", f"Turn {last}, s"]
    note = "A time is the shortest of several; the next word is written after the same words by all models."
    table = plain_table("Costs", heads, rows, caption=note, class_="wide")
    box = el("div", el("div", table, class_="scroll", tabindex="0"), class_="card")
    return join([legend(run), *(figure(plot) for name, plot in drawn.items() if name == "turns"), box])


REPORT = TaskReport(
    items=("token", "tokens"),
    passes=("record", "records"),
    primary=(
        PrimaryMetric(
            "loss", "loss", False, "nats", " fewer", lambda value: f"{formats.decimal(3)(value)} nats a token", signed,
            (0, float("inf")),
        ),
    ),
    measures=(
        LOSS,
        share("exact_match", "Answers as the reference"),
        Measure("token_accuracy", "Next tokens right", QUALITY, 1, formats.percent, help="share foretold correctly"),
        Measure("perplexity", "Perplexity", QUALITY, -1, formats.rate, help="exp of the loss", bounded=False),
    ),
    interval="The interval of the loss is a 95 % percentile interval of a bootstrap over records.",
    resampled="records",
    plots=(plots,),
    sections=(
        ("looking", "Does it look?", looking),
        ("answers", "Answers", answers),
        ("captions", "Captions", captions),
        ("turns", "A long conversation", turns),
        ("retrieval", "Found by likelihood", retrieval),
    ),
)  # fmt: skip
