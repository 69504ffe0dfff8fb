"""A trained model with factorised layers, at several ranks: what that costs and saves, before and after fine-tuning."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ssmlab.core.errors import UserError
from ssmlab.core.options import Count, Option, Positive
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.studies.compress.kinds import IMAGES, TEXTS, Kind, find_model
from ssmlab.studies.study import ImageOptions, stamp_of

if TYPE_CHECKING:
    from ssmlab.studies.compress.result import Result

ENERGIES = (0.5, 0.8, 0.9, 0.95, 0.99)


def _numbers(name: str, kind: type) -> Option:
    """An option of numbers with commas between them."""

    def read(text: str) -> tuple:
        try:
            return tuple(dict.fromkeys(kind(part) for part in text.split(",")))
        except ValueError:
            raise UserError(f"--{name} takes numbers with commas between them, got {text!r}") from None

    return Option(read=read)


@dataclass(frozen=True, kw_only=True)
class Options(ImageOptions):
    """How a model is compressed and measured. Each value of rank, energy or flops makes a model."""

    study = "compress"
    models = "model"
    result = "results that are there"
    what = "results of ssmlab compress"

    rank: Annotated[tuple[int, ...], _numbers("rank", int)] = ()
    """Ranks, such as 4,8,16."""
    energy: Annotated[tuple[float, ...], _numbers("energy", float)] = ()
    """Shares of the energy; 0.5,0.8,0.9,0.95,0.99 if nothing is given."""
    flops: Annotated[tuple[float, ...], _numbers("flops", float)] = ()
    """Shares of the layers' operations, spread over them, such as 0.25,0.5."""
    targets: Annotated[
        tuple[str, ...], Option(read=lambda text: tuple(text.replace(",", " ").split()), text="in_proj")
    ] = ("in_proj",)
    """Linear layers, by name or pattern, with commas."""
    residual_rank: Count = 0
    """Rank of a side path of its own next to P Q."""
    data: str | None = None
    """As data.path of a recipe: accuracy, or bits and perplexity, before and after."""
    epochs: Count = 3
    """Of fine-tuning, with --data; 0: none."""
    learning_rate: float = 3e-4
    """Of fine-tuning."""
    weights: Annotated[tuple[str, ...], Option(read=lambda file: (file,))] = ()
    """Weights of a vision model by name."""
    image_size: Annotated[int | None, Option(least=8)] = None
    """For a vision model by name."""
    length: Count = 0
    """Tokens of a row; 0: as the model was trained, or 256."""
    tokenizer: str = ""
    """Of --data, if not the model's own."""
    batch: Positive = 32
    """Images or rows of a batch."""
    repeats: Positive = 10
    """Rounds, in each of which every model has its turn."""
    train: bool = True
    """Time training steps too."""
    limit: Count = 0
    """At most so many images or rows of each part; 0: all."""
    group: str | None = None
    """The images' column whose members stay on one side."""

    def __post_init__(self):
        super().__post_init__()
        given = [f"--{name}" for name in ("rank", "energy", "flops") if getattr(self, name)]
        if len(given) > 1:
            raise UserError(f"give one of --rank, --energy and --flops, got {' and '.join(given)}")

    @property
    def rule(self) -> tuple[str, tuple[float, ...]]:
        """The one of rank, energy and flops that is given, and its values."""
        given = ((name, getattr(self, name)) for name in ("rank", "energy", "flops"))
        return next((rule for rule in given if rule[1]), ("energy", ENERGIES))

    @property
    def training(self) -> dict[str, Any]:
        """The table of a recipe that fine-tuning follows."""
        return {
            "epochs": max(self.epochs, 1),
            "learning_rate": self.learning_rate,
            "batch_size": self.batch,
            "weight_decay": 0.05,
        }

    def settings(self) -> dict[str, Any]:
        """As of any study, with the rule and its values."""
        rule, values = self.rule
        others = {name: value for name, value in super().settings().items() if name not in ("rank", "energy", "flops")}
        return {"rule": rule, "values": values} | others


def compress(
    model: str,
    options: Options,
    *,
    runs: Path = Path("runs"),
    command: str | None = None,
    progress: Progress | None = None,
) -> "Result":
    """Factorise a model by every setting and write records.jsonl, table.md, plots, models and report.html.

    Args:
        model: a trained model's folder (of images, texts or sequences with labels), a run with one model, a name of the
            table, or timm/<name>.
    Returns:
        the `Result`, with its folder.
    Raises:
        UserError: the model, a target, a setting, the data or the folder is not in order.
    """
    progress = progress or Progress()
    kind, ref = find_model(model, options.weights, runs)
    folder = options.folder(runs, [ref.label.replace("/", "-")])
    from ssmlab.core.device import choose_compute
    from ssmlab.studies.compress.page import write_result

    options.start()
    compute = choose_compute(options.device, "float32", "no")
    if kind == IMAGES:
        from ssmlab.studies.compress.images import Images

        opened: Kind = Images(ref, options, compute, progress)
    elif kind == TEXTS:
        from ssmlab.studies.compress.tokens import Texts

        opened = Texts(ref, options, compute, progress)
    else:
        from ssmlab.studies.compress.tokens import Classifier

        opened = Classifier(ref, options, compute, progress)
    result = _measure(opened, options, folder, command)
    write_result(result)
    return result


def _measure(kind: Kind, options: Options, folder: Path, command: str | None) -> "Result":
    """Factorise, count, time, test, fine-tune, test again and save."""
    from ssmlab.core.stamp import now
    from ssmlab.reports.caveats import doubt
    from ssmlab.studies.compress.result import AFTER, BEFORE, DENSE, Result
    from ssmlab.tasks.table import report_of

    started = now()
    layers, networks, replaced = _factorised(kind, options, DENSE)
    records = {label: kind.counts(network) for label, network in networks.items()}
    for label, found in replaced.items():
        for x in found:
            rank = Record(metric="rank", value=x.rank + x.residual_rank, unit="count", class_=x.name)
            records[label] += [rank, Record(metric="energy", value=x.energy, unit="fraction", class_=x.name)]
    for label, rows in kind.inference(networks).items():
        records[label] += rows
    if kind.unmeasured is None:
        for label, network in networks.items():
            records[label] += [replace(row, split="test", class_=BEFORE) for row in kind.test(label, network)]
            if options.epochs:
                records[label].append(kind.fine_tune(label, network))
                records[label] += [replace(row, split="test", class_=AFTER) for row in kind.test(label, network)]
    for label, network in networks.items():
        if kind.kept and label != DENSE:
            kind.save(network, folder / "models" / label.replace(" ", "-"))
    if options.train:
        for label, rows in kind.training(networks).items():
            records[label] += rows
    stamp = stamp_of(options.study, folder, command, kind.compute.device)
    return Result(
        folder=folder,
        ref=kind.ref,
        terms=kind.terms,
        records=[record for label, rows in records.items() for record in stamp.on(rows, model=label)],
        spectra={layer.name: layer.shares.tolist() for layer in layers},
        replaced=replaced,
        unmeasured=kind.unmeasured,
        settings=options.settings() | {"device": kind.compute.device} | kind.size,
        stamp=stamp,
        started=started,
        finished=now(),
        doubt=doubt(kind.ref.folder, kind.ref.title, report_of),
    )


def _factorised(kind: Kind, options: Options, dense: str) -> tuple[list, dict[str, Any], dict[str, list]]:
    """The layers' spectra; the networks and what was replaced in them, by label, the dense one first."""
    from ssmlab.adapt.factorize import factorize
    from ssmlab.adapt.spectrum import spectra

    layers = spectra(kind.network, options.targets, kind.example)
    networks, replaced = {dense: kind.network}, {dense: list[Any]()}
    rule, values = options.rule
    for value in values:
        label = f"{rule} {value:g}"
        networks[label] = copy.deepcopy(kind.network)
        how: dict[str, Any] = {rule: value, "residual_rank": options.residual_rank, "decomposed": layers}
        replaced[label] = factorize(networks[label], options.targets, **how)
    return layers, networks, replaced
