"""A comparison: the request is checked, the models are built and measured, the results written at the end."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmlab.core.options import Count, Positive
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.studies.compare.model_refs import ModelRef, find_model_refs
from ssmlab.studies.compare.seed_groups import with_all_seeds
from ssmlab.studies.study import ImageOptions, open_test_images, stamp_of

if TYPE_CHECKING:
    from ssmlab.studies.compare.page import Result

IMAGENET_CLASSES = 1000  # of networks by name where no data say otherwise


@dataclass(frozen=True, kw_only=True)
class Options(ImageOptions):
    """How models are compared."""

    study = "compare"
    result = "comparison that is there"
    what = "a comparison"

    data: str | None = None
    """As data.path of a recipe; accuracy is measured on its test part."""
    batch: Positive = 32
    """Images of a batch, besides batches of one."""
    repeats: Positive = 10
    """Rounds, in each of which every model has its turn."""
    train: bool = True
    """Measure training steps too."""
    limit: Count = 0
    """At most so many test images; 0: all."""


def compare(
    models: list[str],
    options: Options,
    *,
    runs: Path = Path("runs"),
    command: str | None = None,
    progress: Progress | None = None,
) -> "Result":
    """Measure models side by side and write records.jsonl, table.md, plots and report.html.

    Nothing is written before everything is measured.

    Args:
        models: see `find_model_refs`; a model that a run has trained with several seeds is one, its quality their mean.
    Returns:
        the `Result`, with its folder.
    Raises:
        UserError: a model, the data, the folder or a size is not in order.
    """
    progress = progress or Progress()
    refs = with_all_seeds(find_model_refs(models, options.weights, runs))
    folder = options.folder(runs, [ref.label for ref in refs])
    options.check(refs)
    data = open_test_images(options, refs, "leave the model or --data out") if options.data is not None else None
    from ssmlab.reports.caveats import doubts
    from ssmlab.studies.compare.page import Result, write_result
    from ssmlab.tasks.table import report_of

    found = doubts(((ref.folder, ref.title) for ref in refs), report_of)
    result = Result(
        folder=folder, models=refs, doubts=found, **_measure(refs, options, data, command, folder, progress)
    )
    write_result(result)
    return result


def _measure(
    refs: list[ModelRef], options: Options, data: Any, command: str | None, folder: Path, progress: Progress
) -> dict[str, Any]:
    """What the `Result` holds besides models and folder."""
    import torch

    import ssmlab.studies.compare.measure as measure
    from ssmlab.core.stamp import now

    started = now()
    device = options.start()
    stamp = stamp_of(options.study, folder, command, device)
    measure.warm_up(device)
    classes = tuple(data.classes) if data else tuple(map(str, range(IMAGENET_CLASSES)))
    trained = [ref.preprocess["image_size"] for ref in refs if ref.preprocess]
    size = options.image_size or max(trained, default=None)
    built, found = [], {}
    progress.start("building", len(refs), unit="models")
    for done, ref in enumerate(refs, start=1):
        several = bool(data and data.several)
        model = measure.with_reason(ref.label, partial(measure.build, ref, classes, size, device, several))
        built.append(model)
        found[model.label] = [
            *measure.with_reason(ref.label, partial(measure.cold_and_memory, model, options.batch, device)),
            *measure.with_reason(ref.label, partial(measure.counts, model, device)),
        ]
        progress.update(done, ref.label)
    progress.stop()
    for label, rows in measure.inference(built, options.batch, options.repeats, device, progress).items():
        found[label] += rows
    reasons, tested, pairs = _tested(built, data, options, device, found, progress)
    if options.train:
        for label, rows in measure.training(built, options.batch, options.repeats, device, progress).items():
            found[label] += rows
    records = [record for label, rows in found.items() for record in stamp.on(rows, model=label)]
    records = [replace(r, split="test") if r.metric in measure.PARTS else r for r in records]
    records += [record for pair in pairs for record in stamp.on([pair], model=pair.model, split="test")]
    settings = options.settings() | {"device": device, "threads": torch.get_num_threads()} | tested
    settings |= {"split_hash": data.split_hash, "format": data.format} if data else {}
    return {
        "records": records,
        "reasons": reasons,
        "settings": settings,
        "stamp": stamp,
        "started": started,
        "finished": now(),
    }


def _tested(built, data, options: Options, device: str, found: dict[str, list[Record]], progress):
    """Add quality to `found`; returns why a model has none, what was tested on, and the differences of all pairs."""
    if data is None:
        return {model.label: "no --data" for model in built}, {"test_images": 0, "test_groups": 0}, []
    import ssmlab.studies.compare.measure as measure
    from ssmlab.tasks.classify.data import spread_over_classes, strata_of

    part, classes = data.test, tuple(data.classes)
    if options.limit and options.limit < len(part):
        part = part.take(spread_over_classes(strata_of(part.labels), options.limit, 0))
    models = [model for model in built if model.unmeasured is None]
    logits: dict[str, list] = {}
    for size, fit in dict.fromkeys((model.image_size, model.fit) for model in models):
        progress.start(f"reading {len(part):,} test images", len(part))
        try:
            images = part.array(size, lambda done, total: progress.update(done), fit)
        finally:
            progress.stop()
        for model in models:
            if (model.image_size, model.fit) == (size, fit):
                logits[model.label] = [
                    measure.predicted(each, images, part.labels, classes, options.batch, device, progress)
                    for each in (model, *measure.other_seeds(model, device))
                ]
    for label, rows in logits.items():
        found[label] += measure.over_seeds([measure.quality(row, part.labels, classes, part.groups) for row in rows])
    ordered = {model.label: logits[model.label] for model in models}
    pairs = measure.differences(ordered, part.labels, part.groups) if len(ordered) > 1 else []
    tested = {"test_images": len(part) if models else 0, "test_groups": len(set(part.groups or ()))}
    reasons = {model.label: model.unmeasured for model in built if model.unmeasured}
    return reasons, tested | {"seeds": max(map(len, logits.values()), default=1)}, pairs
