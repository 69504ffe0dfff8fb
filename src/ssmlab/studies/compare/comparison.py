"""A comparison: what is asked for is checked, the models are built and measured, the results written at the end."""

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ssmlab.core.errors import UserError
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.reports.caveats import doubts
from ssmlab.studies.compare.members import joined
from ssmlab.studies.compare.subjects import Subject, find_subjects
from ssmlab.studies.study import check_report_folder

IMAGENET_CLASSES = 1000  # of networks by name where no data say otherwise
MARK = "compare.json"  # the file that says a folder holds a comparison


@dataclass(frozen=True, kw_only=True)
class Options:
    """How models are compared.

    Args:
        data: a path as in a recipe's data.path; without it, costs alone are measured. `group` and `labels` as there.
        limit: at most so many test images, spread over the classes; 0 takes all.
        image_size: for networks by name; without it that of the trained models beside them, else their own.
        batch: images of a batch, for speed and memory.
        repeats: rounds; in each, every model has its turn.
        threads: on the CPU; 0 takes torch's number.
        device: "auto", "cuda", "mps" or "cpu".
        train: whether training steps are measured too.
    """

    data: str | None = None
    group: str | None = None
    labels: str = "fine"
    limit: int = 0
    image_size: int | None = None
    batch: int = 32
    repeats: int = 10
    threads: int = 0
    device: str = "auto"
    train: bool = True
    weights: tuple[str, ...] = ()


def compare(
    models: list[str],
    options: Options,
    *,
    output: Path | None = None,
    overwrite: bool = False,
    runs: Path = Path("runs"),
    command: str | None = None,
    progress: Progress | None = None,
):
    """Measure models side by side and write records.jsonl, table.md, plots and report.html.

    Nothing is written before everything is measured.

    Args:
        models: see `find_subjects`; a model that a run has trained with several seeds is one, its quality their mean.
        output: the folder; `runs/compare-<models>` if None.
        overwrite: a comparison that is there is replaced.
    Returns:
        the `Result`, with its folder.
    Raises:
        UserError: a model, the data, the folder or a size is not in order.
    """
    progress = progress or Progress()
    subjects = joined(find_subjects(models, options.weights, runs))
    folder = check_report_folder(output or runs / _name(subjects), MARK, "a comparison", overwrite=overwrite)
    if options.image_size and all(subject.folder for subject in subjects):
        raise UserError("--image-size is for networks by name; trained models keep the size that they were trained at")
    if options.device not in ("auto", "cpu"):  # these are always there; torch need not be imported yet
        from ssmlab.core.device import choose_compute

        choose_compute(options.device, "float32")
    data = _open(options, subjects)
    from ssmlab.studies.compare.page import Result, write_result

    records, reasons, stamp, settings = _measure(subjects, options, data, command, folder.name, progress)
    found = doubts((subject.folder, subject.title) for subject in subjects)
    result = Result(
        folder=folder, subjects=subjects, records=records, reasons=reasons, settings=settings, doubts=found, **stamp
    )
    write_result(result)
    return result


def _name(subjects: list[Subject]) -> str:
    """A folder's name of the models' names, cut where it would become long."""
    words = [subject.label.split("/")[-1] for subject in subjects]
    text = "-".join(["compare", *words])
    return text if len(text) <= 100 else f"compare-{words[0]}-and-{len(words) - 1}-more"


def _open(options: Options, subjects: list[Subject]):
    """The data, whose classes every trained model must know."""
    if options.data is None:
        return None
    from ssmlab.data import open_images

    data = open_images(options.data, group=options.group, labels=options.labels)
    for subject in subjects:
        known = set(subject.preprocess["classes"]) if subject.preprocess else set(data.classes)
        if known != set(data.classes):
            raise UserError(
                f"{subject.label} was trained on {_some(subject.preprocess['classes'])}, {options.data} has "
                f"{_some(data.classes)}; leave the model or --data out"
            )
    return data


def _some(classes) -> str:
    shown = ", ".join(map(str, classes[:4]))
    return f"{len(classes)} classes ({shown}{', ...' if len(classes) > 4 else ''})"


def _measure(subjects, options: Options, data, command, name: str, progress: Progress):
    """All records with their circumstances, why accuracies are missing, the circumstances, what was set."""
    import torch

    from ssmlab.core.device import choose_compute
    from ssmlab.core.stamp import Stamp, commit, machine, now, versions
    from ssmlab.studies.compare import measure

    started = now()
    device = choose_compute(options.device, "float32").device
    if options.threads:
        torch.set_num_threads(options.threads)
    stamp = Stamp(
        run=name,
        task="compare",
        command=command or " ".join(sys.argv),
        commit=commit(),
        machine=machine(device),
        versions=versions(),
    )
    _warm_up(device)
    classes = tuple(data.classes) if data else tuple(map(str, range(IMAGENET_CLASSES)))
    trained = [subject.preprocess["image_size"] for subject in subjects if subject.preprocess]
    size = options.image_size or max(trained, default=None)
    built, found = [], {}
    progress.start("building", len(subjects), unit="models")
    for done, subject in enumerate(subjects, start=1):
        model = measure.with_reason(subject.label, lambda s=subject: measure.build(s, classes, size, device))
        built.append(model)
        found[model.label] = measure.with_reason(
            subject.label,
            lambda m=model: measure.cold_and_memory(m, options.batch, device) + measure.counts(m, device),
        )
        progress.update(done, subject.label)
    progress.stop()
    for label, rows in measure.inference(built, options.batch, options.repeats, device, progress).items():
        found[label] += rows
    reasons, tested = _accuracies(built, data, options, device, found, progress)
    if options.train:
        for label, rows in measure.training(built, options.batch, options.repeats, device, progress).items():
            found[label] += rows
    records = [record for label, rows in found.items() for record in stamp.on(rows, model=label)]
    records = [replace(r, split="test") if r.metric in measure.PARTS else r for r in records]
    settings = asdict(options) | {"device": device, "threads": torch.get_num_threads(), "test_images": tested}
    settings |= {"split_hash": data.split_hash, "format": data.format} if data else {}
    return records, reasons, {"stamp": stamp, "started": started, "finished": now()}, settings


def _warm_up(device: str) -> None:
    """What torch itself prepares when it first computes must not count as the first model's cold call."""
    import torch

    from ssmlab.profiling import TrainingStep

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.Flatten(), torch.nn.Linear(64 * 30 * 30, 2))
    batch, labels = torch.randn(8, 3, 32, 32, device=device), torch.zeros(8, dtype=torch.int64, device=device)
    TrainingStep(network.to(device), batch, labels)()


def _accuracies(built, data, options: Options, device: str, found: dict[str, list[Record]], progress):
    """Adds quality to `found`; returns why a model has none, and how many images were used."""
    if data is None:
        return {model.label: "no --data" for model in built}, 0
    from ssmlab.studies.compare import measure
    from ssmlab.tasks.classify.data import spread_over_classes

    part = data.test
    if options.limit and options.limit < len(part):
        part = part.take(spread_over_classes(part.labels, options.limit, 0))
    tested = [model for model in built if model.unmeasured is None]
    for size, fit in dict.fromkeys((model.image_size, model.fit) for model in tested):
        progress.start(f"reading {len(part):,} test images", len(part))
        try:
            images = part.array(size, lambda done, total: progress.update(done), fit)
        finally:
            progress.stop()
        for model in tested:
            if (model.image_size, model.fit) == (size, fit):
                rows = [
                    measure.accuracy(each, images, part.labels, tuple(data.classes), options.batch, device, progress)
                    for each in (model, *measure.other_seeds(model, device))
                ]
                found[model.label] += measure.over_seeds(rows)
    return {model.label: model.unmeasured for model in built if model.unmeasured}, len(part) if tested else 0
