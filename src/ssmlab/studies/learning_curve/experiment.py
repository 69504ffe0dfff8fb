"""Classification with growing shares of the training part: one training a share, each within the next."""

from dataclasses import replace
from typing import Any

from ssmlab.core.files import write_records
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record, read_records
from ssmlab.studies.learning_curve.recipe import LearningCurveRecipe
from ssmlab.studies.learning_curve.subsets import nested
from ssmlab.tasks.classify.data import Images, channel_statistics, strata_of
from ssmlab.tasks.classify.experiment import EXPERIMENT as CLASSIFY
from ssmlab.tasks.shared.experiment import Records, estimate_job
from ssmlab.tasks.shared.experiment import fit_job as train_and_measure
from ssmlab.tasks.shared.job import Job

SHOWN = ("accuracy", "balanced_accuracy", "roc_auc", "loss")


def shares(recipe: LearningCurveRecipe, data: Images, seed: int) -> list[Images]:
    """The data with growing training parts; mean and standard deviation are those of what is trained on.

    The subsets are drawn anew for every seed, so that an interval over seeds holds the choice of the images too.
    """
    part = data.train
    own = nested(part.ids, strata_of(part.labels).tolist(), part.groups, recipe.fractions, seed)
    found = []
    for positions in own:
        train = part.take(positions)
        mean, std = channel_statistics(train.images)
        counts = data.describe["counts"] | {"train": len(positions)}
        found.append(replace(data, train=train, mean=mean, std=std, describe=data.describe | {"counts": counts}))
    return found


def estimate(recipe: LearningCurveRecipe, data: Images, job: Job) -> float:
    """Seconds of all shares together."""
    return sum(estimate_job(CLASSIFY, recipe, each, job) for each in shares(recipe, data, job.seed))


def fit_job(recipe: LearningCurveRecipe, data: Images, job: Job, *, progress: Progress, **how: Any) -> Records:
    """Train and test a model with every share; one that is finished is not trained again.

    Records of a share have the class "<share> %" and n, the test images; those without a class, and the model that is
    saved, are of the largest share.
    """
    found: list[Record] = []
    last: Records = {}
    parts = shares(recipe, data, job.seed)
    for fraction, seen in zip(recipe.fractions, parts, strict=True):
        name = f"{100 * fraction:g} %"
        whole = fraction == recipe.fractions[-1]
        folder = job.folder if whole else job.folder / f"share{100 * fraction:g}"
        file = folder / "share.jsonl"
        if not whole and file.is_file():
            found += read_records(file)
            continue
        own = Job(job.model, job.seed, folder, root=job.run)
        logs = how["logs"].with_name(f"{how['logs'].name}_{100 * fraction:g}")
        last = train_and_measure(CLASSIFY, recipe, seen, own, progress=progress, **how | {"logs": logs})
        rows = [
            replace(record, class_=name) for record in last["test"] if record.metric in SHOWN and record.class_ is None
        ]
        rows.append(Record(metric="train_images", value=len(seen.train.ids), class_=name, unit="count"))
        found += rows
        if not whole:
            write_records(file, rows)
            (folder / "model.safetensors").unlink(missing_ok=True)  # one model a share would fill disks
            (folder / "config.json").unlink(missing_ok=True)
    last["test"] = [*last["test"], *found]
    return last


EXPERIMENT = replace(CLASSIFY, estimate=estimate, fit_job=fit_job, pool=None)
