"""`ssmlab robustness`: models tested under every transformation, their scores, table, plots and page."""

from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ssmlab.core.errors import UserError
from ssmlab.core.files import write_json
from ssmlab.core.options import Count, Option, Positive
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.studies.compare.model_refs import ModelRef, find_model_refs
from ssmlab.studies.compare.seed_groups import SeedGroup, seed_groups
from ssmlab.studies.study import ImageOptions, marker_file, open_test_images, some_classes, stamp_of

if TYPE_CHECKING:
    from ssmlab.studies.robustness.page import Result


def _fraction(text: str) -> float:
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise UserError(f"--epsilon must be a fraction such as 4/255 or 0.0157, got {text!r}") from None


@dataclass(frozen=True, kw_only=True)
class Options(ImageOptions):
    """How models are tested. The keys of a recipe's [evaluation.robustness] are fields of the same names."""

    study = "robustness"
    result = "finished test that is there"
    what = "a test of robustness"

    data: str
    """As data.path of a recipe."""
    per_class: Count = 15
    """Images of every class, drawn by the seed; 0: all."""
    part: str = "test"
    """test, val, train, or all where no model was trained on the data."""
    transformations: str = "twenty"
    """twenty, or imagenet-c for its fifteen."""
    severities: Annotated[tuple[int, ...], Option(flag="--severity")] = ()
    """1 to 5, several times for several; 3 for the twenty, all for imagenet-c."""
    seed: Count = 0
    """Of the choice of images and of the transformations."""
    attacks: Annotated[tuple[str, ...], Option(flag="--attack")] = ()
    """fgsm or pgd, besides the transformations."""
    epsilon: Annotated[float, Option(read=_fraction, text="1/255")] = 1 / 255
    """The most that an attack changes a value, of the range."""
    steps: Positive = 10
    """Of PGD."""
    batch: Positive = 64
    resamples: Annotated[int, Option(command=False)] = 1000
    """Of the bootstrap."""


def robustness(
    models: list[str],
    options: Options,
    *,
    runs: Path = Path("runs"),
    command: str | None = None,
    progress: Progress | None = None,
    write: bool = True,
) -> "Result":
    """Test models under transformations and write records.jsonl, table.md, plots, grid.png and report.html.

    What a model answers under one condition is a file, `outcomes/<model>/<condition>.npz`: a run that was killed goes
    on after the last of them when it is started again.

    Args:
        models: see `find_model_refs`.
        options: with `overwrite`, what models answered under equal conditions is used again.
        write: False leaves tables and page to a later call with more models.
    Returns:
        the `Result`, with its folder.
    Raises:
        UserError: a model, the data, the folder or a size is not in order.
    """
    progress = progress or Progress()
    refs = find_model_refs(models, options.weights, runs)
    random = [ref.label for ref in refs if ref.state == "random"]
    if random:
        raise UserError(f"{random[0]} has random weights; give it some: --weights {random[0]}=FILE")
    options.check(refs)
    groups = seed_groups(refs)
    folder = options.folder(runs, list(dict.fromkeys(group.label.split("/")[-1] for group in groups)))
    data = open_test_images(options, refs, "leave the model out, or give data with its classes")
    if data.several and options.attacks:
        raise UserError("attacks are of models that choose one class, these images have several labels; leave them out")
    from ssmlab.reports.caveats import doubts
    from ssmlab.studies.robustness.page import Result, write_result
    from ssmlab.studies.robustness.sample import draw_sample
    from ssmlab.tasks.table import report_of

    sample = draw_sample(data, options.part, options.per_class, options.seed)
    found = Evaluation(options, sample, folder, progress).run(groups, command)
    doubted = doubts(((ref.folder, group.title) for group in groups for ref in group.models), report_of)
    result = Result(groups=groups, sample=sample, folder=folder, doubts=doubted, **found)
    if write:
        write_result(result)
    return result


class Evaluation:
    """The tests of one call, model after model, on the same images."""

    def __init__(self, options: Options, sample: Any, folder: Path, progress: Progress):
        from ssmlab.robustness.attacks import Attack
        from ssmlab.robustness.conditions import Condition, conditions

        self.options, self.sample, self.folder, self.progress = options, sample, folder, progress
        attacks = [
            Attack(name=name, epsilon=options.epsilon, steps=options.steps) for name in dict.fromkeys(options.attacks)
        ]
        self.conditions: list[Condition | Attack] = [*conditions(options.transformations, options.severities), *attacks]
        self.device = options.start()
        self._held: tuple = (None, None)  # size and crop of the images that were read last, and they

    def run(self, groups: list[SeedGroup], command: str | None) -> dict[str, Any]:
        """Everything that a `Result` holds besides groups, sample and folder."""
        import torch

        from ssmlab.core.stamp import now
        from ssmlab.robustness.conditions import reference
        from ssmlab.robustness.scores import Answers, area_under_changes, mean_right, scores

        started, options = now(), self.options
        stamp = stamp_of(options.study, self.folder, command, self.device)
        unfinished = {"settings": options.settings(), "started": started, "finished": None}
        write_json(self.folder / marker_file(options.study), unfinished)
        records: list[Record] = []
        right: dict[str, list] = defaultdict(list)
        areas: dict[str, Any] = {}
        several = self.sample.labels.ndim == 2
        for group in groups:
            every = []
            for ref, seed in zip(group.models, group.seeds, strict=True):
                answers = Answers(
                    outcomes=self._outcomes(ref),
                    classes=len(self.sample.classes),
                    apart=options.attacks,
                    reference={} if several else reference(self.conditions),
                    truths=self.sample.labels if several else None,
                )
                found = scores(answers, resamples=options.resamples, seed=options.seed)
                records += stamp.on(found, model=group.label, seed=seed, split=options.part)
                right[group.label].append(mean_right(answers))
                if several:  # else nobody needs them any more, and they are large
                    every.append(answers)
            if several:
                areas[group.label] = area_under_changes(every)
        settings = options.settings() | {"device": self.device, "threads": torch.get_num_threads()}
        return {
            "records": records,
            "right": dict(right),
            "areas": areas,
            "conditions": self.conditions,
            "settings": settings,
            "stamp": stamp,
            "started": started,
            "finished": now(),
        }

    def _outcomes(self, ref: ModelRef) -> dict[str, list]:
        """By name of the condition, one outcome for every severity. What is there already is read."""
        from ssmlab.robustness.measure import fingerprint, measure, read_outcome, write_outcome

        place = self.folder / "outcomes" / ref.label.replace("/", "+")
        shared = {"weights": ref.digest, "sample": self.sample.digest, "size": self.options.image_size}
        shared |= {"seed": self.options.seed, "model": ref.name, "how": ref.preprocess}
        built = images = None
        found: dict[str, list] = defaultdict(list)
        for done, condition in enumerate(self.conditions, start=1):
            file = place / f"{condition.key}.npz"
            mark = fingerprint(condition=condition, **shared)
            outcome = read_outcome(file, mark)
            if outcome is None:
                if built is None or images is None:
                    built, images = self._ready(ref)
                outcome = measure(
                    built.network,
                    built.task,
                    condition,
                    images,
                    self.sample.labels,
                    self.sample.keys,
                    self.sample.classes,
                    seed=self.options.seed,
                    batch=self.options.batch,
                    device=self.device,
                    title=f"{ref.title}: {condition.title} ({done} of {len(self.conditions)})",
                    progress=self.progress,
                )
                write_outcome(file, outcome, mark)
            found[condition.name].append(outcome)
        return dict(found)

    def _ready(self, ref: ModelRef) -> tuple[Any, Any]:
        """The network, and the images at its size; the last size's are kept."""
        from ssmlab.studies.compare import measure as compare

        built = compare.with_reason(
            ref.label, lambda: compare.build(ref, self.sample.classes, self.options.image_size, self.device)
        )
        if built.unmeasured:
            classes = some_classes(self.sample.classes)
            raise UserError(f"{ref.label} cannot be tested: {built.unmeasured}; give weights for {classes}")
        network: Any = built.network.eval().requires_grad_(False)
        how = ref.preprocess if ref.folder else network.default_cfg
        wanted = built.image_size, float((how or {}).get("crop_pct") or 1.0), built.fit
        if self._held[0] != wanted:
            self._held = (None, None)  # two sizes at once may not fit into memory
            size, crop, fit = wanted
            self.progress.start("reading images", len(self.sample.ids))
            try:
                read = self.sample.read(size, crop, lambda done, _: self.progress.update(done), fit)
            finally:
                self.progress.stop()
            self._held = (wanted, read)
        return built, self._held[1]
