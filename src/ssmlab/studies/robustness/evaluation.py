"""`ssmlab robustness`: models tested under every transformation, their scores, table, plots and page."""

import sys
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

from ssmlab.core.errors import UserError
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.reports.caveats import doubts
from ssmlab.studies.compare.subjects import find_subjects
from ssmlab.studies.study import check_report_folder

MARK = "robustness.json"  # the file that says a folder holds the test of robustness


@dataclass(frozen=True, kw_only=True)
class Options:
    """How models are tested.

    Args:
        data: a path as in a recipe's data.path. `group` and `labels` as there.
        part: "test", "val", "train" or "all"; all is for data that no model was trained on.
        per_class: images of every class, drawn by `seed`; 0 takes all.
        transformations: "twenty" or "imagenet-c".
        severities: 1 to 5; none takes those of the set.
        seed: of the choice of images and of the transformations.
        attacks: "fgsm", "pgd", besides the transformations. epsilon: the most that a value changes, a fraction.
        steps: of PGD.
        image_size: for networks by name.
        threads: on the CPU; 0 takes torch's number.
        resamples: of the bootstrap.
    """

    data: str
    part: str = "test"
    per_class: int = 15
    transformations: str = "twenty"
    severities: tuple[int, ...] = ()
    seed: int = 0
    attacks: tuple[str, ...] = ()
    epsilon: float = 1 / 255
    steps: int = 10
    group: str | None = None
    labels: str = "fine"
    image_size: int | None = None
    batch: int = 64
    threads: int = 0
    device: str = "auto"
    weights: tuple[str, ...] = ()
    resamples: int = 1000


def robustness(
    models: list[str],
    options: Options,
    *,
    output: Path | None = None,
    runs: Path = Path("runs"),
    command: str | None = None,
    progress: Progress | None = None,
    write: bool = True,
    overwrite: bool = False,
):
    """Test models under transformations and write records.jsonl, table.md, plots, grid.png and report.html.

    What a model says under one condition is a file, `outcomes/<model>/<condition>.npz`: a run that was killed goes on
    after the last of them when it is asked for again.

    Args:
        models: see `find_subjects`. output: the folder; `runs/robustness-<models>` if None.
        write: False leaves tables and page to a later call with more models.
        overwrite: a finished test that is there is replaced; what models said there under equal conditions is used.
    Returns:
        the `Result`, with its folder.
    Raises:
        UserError: a model, the data, the folder or a size is not in order.
    """
    from ssmlab.studies.compare.members import members_of
    from ssmlab.studies.robustness.sample import draw_sample

    progress = progress or Progress()
    members = members_of(find_subjects(models, options.weights, runs))
    random = [member.subject.label for member in members if member.subject.state == "random"]
    if random:
        raise UserError(f"{random[0]} has random weights; give it some: --weights {random[0]}=FILE")
    if options.image_size and all(member.subject.folder for member in members):
        raise UserError("--image-size is for networks by name; trained models keep the size that they were trained at")
    folder = output or runs / _name(members)
    check_report_folder(folder, MARK, "a test of robustness", overwrite=overwrite)
    sample = draw_sample(_open(options, members), options.part, options.per_class, options.seed)
    from ssmlab.studies.robustness.page import Result, write_result

    test = Evaluation(members, options, sample, folder, progress).run(command or " ".join(sys.argv))
    found = doubts((member.subject.folder, member.title) for member in members)
    result = Result(members=members, sample=sample, folder=folder, doubts=found, **test)
    if write:
        write_result(result)
    return result


def _name(members) -> str:
    words = list(dict.fromkeys(member.group.split("/")[-1] for member in members))
    text = "-".join(["robustness", *words])
    return text if len(text) <= 100 else f"robustness-{words[0]}-and-{len(words) - 1}-more"


def _open(options: Options, members):
    """The data, whose classes every trained model must know."""
    from ssmlab.data import open_images

    data = open_images(options.data, group=options.group, labels=options.labels)
    for member in members:
        preprocess = member.subject.preprocess
        if preprocess and set(preprocess["classes"]) != set(data.classes):
            raise UserError(
                f"{member.subject.label} was trained on {_some(preprocess['classes'])}, {options.data} has "
                f"{_some(data.classes)}; leave the model out, or give data with its classes"
            )
    return data


def _some(classes) -> str:
    shown = ", ".join(map(str, classes[:4]))
    return f"{len(classes)} classes ({shown}{', ...' if len(classes) > 4 else ''})"


class Evaluation:
    """The work of one call, model after model."""

    def __init__(self, members, options: Options, sample, folder: Path, progress: Progress):
        from ssmlab.core.device import choose_compute
        from ssmlab.robustness.attacks import Attack
        from ssmlab.robustness.conditions import conditions

        self.members, self.options, self.sample, self.folder, self.progress = members, options, sample, folder, progress
        attacks = [
            Attack(name=name, epsilon=options.epsilon, steps=options.steps) for name in dict.fromkeys(options.attacks)
        ]
        self.conditions = [*conditions(options.transformations, options.severities), *attacks]
        self.device = choose_compute(options.device, "float32").device
        self._held: tuple = (None, None)  # size and crop of the images that were read last, and they

    def run(self, command: str) -> dict:
        """Everything that a `Result` holds besides members, sample and folder."""
        import torch

        from ssmlab.core.files import write_json
        from ssmlab.core.stamp import Stamp, commit, machine, now, versions
        from ssmlab.robustness.conditions import reference
        from ssmlab.robustness.scores import Answers, mean_right, scores

        started = now()
        if self.options.threads:
            torch.set_num_threads(self.options.threads)
        stamp = Stamp(
            run=self.folder.name,
            task="robustness",
            command=command,
            commit=commit(),
            machine=machine(self.device),
            versions=versions(),
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / MARK, {"settings": asdict(self.options), "started": started, "finished": None})
        records: list[Record] = []
        right: dict[str, list] = defaultdict(list)
        for member in self.members:
            outcomes = self._outcomes(member)
            answers = Answers(
                outcomes=outcomes,
                classes=len(self.sample.classes),
                apart=self.options.attacks,
                reference=reference(self.conditions),
            )
            found = scores(answers, resamples=self.options.resamples, seed=self.options.seed)
            records += stamp.on(found, model=member.group, seed=member.seed, split=self.options.part)
            right[member.group].append(mean_right(answers))
        settings = asdict(self.options) | {"device": self.device, "threads": torch.get_num_threads()}
        return {
            "records": records,
            "right": dict(right),
            "conditions": self.conditions,
            "settings": settings,
            "stamp": stamp,
            "started": started,
            "finished": now(),
        }

    def _outcomes(self, member) -> dict[str, list]:
        """By name of the condition, one outcome for every severity. What is there already is read."""
        from ssmlab.robustness.measure import fingerprint, measure, read_outcome, write_outcome

        place = self.folder / "outcomes" / member.subject.label.replace("/", "+")
        shared = {"weights": member.digest, "sample": self.sample.digest, "size": self.options.image_size}
        shared |= {"seed": self.options.seed, "model": member.subject.name, "how": member.subject.preprocess}
        built = images = None
        found: dict[str, list] = defaultdict(list)
        for done, condition in enumerate(self.conditions):
            file = place / f"{condition.key}.npz"
            mark = fingerprint(condition=condition, **shared)
            outcome = read_outcome(file, mark)
            if outcome is None:
                if built is None or images is None:
                    built, images = self._ready(member)
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
                    title=f"{member.subject.title}: {condition.title} ({done + 1} of {len(self.conditions)})",
                    progress=self.progress,
                )
                write_outcome(file, outcome, mark)
            found[condition.name].append(outcome)
        return dict(found)

    def _ready(self, member):
        """The network, and the images at its size; the last size's are kept."""
        from ssmlab.studies.compare import measure as compare

        built = compare.with_reason(
            member.subject.label,
            lambda: compare.build(member.subject, self.sample.classes, self.options.image_size, self.device),
        )
        if built.unmeasured:
            classes = _some(self.sample.classes)
            raise UserError(f"{member.subject.label} cannot be tested: {built.unmeasured}; give weights for {classes}")
        built.network.eval().requires_grad_(False)
        how = member.subject.preprocess if member.subject.folder else built.network.default_cfg
        crop = float((how or {}).get("crop_pct") or 1.0)
        return built, self.images(built.image_size, crop, built.fit)

    def images(self, size: int, crop: float = 1.0, fit: str = "crop"):
        if self._held[0] != (size, crop, fit):
            self._held = (None, None)  # two sizes at once may not fit into memory
            self.progress.start("reading images", len(self.sample.ids))
            try:
                read = self.sample.read(size, crop, lambda done, _: self.progress.update(done), fit)
            finally:
                self.progress.stop()
            self._held = ((size, crop, fit), read)
        return self._held[1]
