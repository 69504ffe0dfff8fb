"""Vision-language models in a run: built, trained in stages, tested once with right and wrong images."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import nn
from transformers import set_seed

from ssmlab import adapt
from ssmlab.core.errors import RecipeError
from ssmlab.core.files import write_atomically, write_tensors
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.core.statistics import score_interval, statistics_of, wilson
from ssmlab.data.conversations import Conversation, find_template
from ssmlab.models.catalogue import user_folder
from ssmlab.models.vision_language.encoder import FeatureCache
from ssmlab.profiling import count_parameters, peak_memory
from ssmlab.tasks.language.task import COUNT, NLL
from ssmlab.tasks.shared.experiment import Experiment, Records, Trained, compute_of
from ssmlab.tasks.shared.job import Job
from ssmlab.tasks.shared.tables import NONE
from ssmlab.tasks.vision_language.answering import answer_records, retrieval_records, turn_records
from ssmlab.tasks.vision_language.building import build_model, save
from ssmlab.tasks.vision_language.data import NAMES, Album, as_lines
from ssmlab.tasks.vision_language.examples import SHOWN, Examples, Shown, tokens_of
from ssmlab.tasks.vision_language.recipe import LINES, PARTS, Stage, VisionLanguageModel, VisionLanguageRecipe
from ssmlab.tasks.vision_language.task import VisionLanguage
from ssmlab.training.dataset import batch_of
from ssmlab.training.distributed import agree, shared_world
from ssmlab.training.estimate import estimate_seconds
from ssmlab.training.fit import FitResult, fit
from ssmlab.training.predict import predict
from ssmlab.training.resume import contiguous

WRONG = {"other": "another image", "grey": "grey image"}  # classes of the records
WEIGHTS, HISTORY = "stage.safetensors", "history.json"


def build(recipe: VisionLanguageRecipe, data: Album, model: VisionLanguageModel, seed: int) -> nn.Module:
    """The network with its initial weights."""
    set_seed(seed)
    return build_model(model, data.tokenizer)


def features(recipe: VisionLanguageRecipe, network: Any) -> FeatureCache | None:
    """Where the encoder's features are kept; in memory alone where the recipe says none."""
    where = recipe.data.features
    folder = user_folder("XDG_CACHE_HOME", ".cache") / "features" if not where else Path(where)
    return FeatureCache(network.encoder, None if where == "none" else folder)


def examples(
    recipe: VisionLanguageRecipe,
    network: Any,
    records: Sequence[Conversation],
    cache: FeatureCache | None,
    *,
    template: str = "",
    shown: Shown = "own",
    joined: bool = False,
) -> Examples:
    """Records as a model reads them.

    Raises:
        DataError: records of which nothing can be learned; all are listed.
    """
    speech = network.speech
    form = find_template(template) if template else speech.template
    found = tokens_of(records, form, speech.tokenizer, network.image_tokens, recipe.data.length)
    return Examples(records, found.rows, network.encoder, cache, shown, joined=joined)


def learn(network: Any, stage: Stage) -> None:
    """Freeze all but what a stage trains, and put its adapters on the language model.

    Raises:
        RecipeError: it names a part that is not there.
    """
    network.requires_grad_(False)
    modules = dict(network.named_modules())
    for name in stage.train:
        if name not in modules:
            raise RecipeError(f"stage {stage.name}: there is no part {name!r}; the parts are {', '.join(PARTS)}")
        modules[name].requires_grad_(True)
    if stage.lora and stage.lora != NONE:
        adapt.apply(network.language, stage.lora, rank=stage.rank)


def config_of(recipe: VisionLanguageRecipe, model: VisionLanguageModel, stage: Stage) -> Any:
    """How a stage is trained."""
    training = recipe.training_of(model)
    rates = {"rates": stage.train, "learning_rate": max(stage.train.values())}
    return type(training).model_validate(training.model_dump() | stage.training | rates)


def stage_parts(recipe: VisionLanguageRecipe, data: Album, network: Any, stage: Stage) -> tuple[Examples, Examples]:
    """Training and validation part of a stage."""
    trains = any(name.partition(".")[0] == "encoder" for name in stage.train)
    cache = None if trains else features(recipe, network)
    records = data.stages.get(stage.name, data.parts["train"])
    joined = recipe.data.join == "batch"
    train = examples(recipe, network, records, cache, template=stage.template, joined=joined)
    val = data.parts["val"]
    if stage.kind == LINES:  # what is learned from texts alone is validated on such
        val = as_lines([record.answer for record in val])
    return train, examples(recipe, network, val, cache, template=stage.template)


def train_job(
    recipe: VisionLanguageRecipe,
    data: Album,
    job: Job,
    *,
    logs: Path | None = None,
    progress: Progress | None = None,
    resume: bool = False,
) -> Trained:
    """Build a model and train it, stage after stage; one that was finished before a kill is not repeated."""
    progress = progress or Progress()
    network: Any = build(recipe, data, job.model, job.seed)
    compute, task = compute_of(recipe, job.model), VisionLanguage()
    network.to(compute.device)
    network.language.backbone.gradient_checkpointing = recipe.training_of(job.model).gradient_checkpointing
    results: list[FitResult] = []
    stages = recipe.training_of(job.model).stages
    with peak_memory(compute.device) as peak:
        for number, stage in enumerate(stages, 1):
            folder = job.checkpoints / f"stage{number}"
            if not resume:
                shutil.rmtree(folder, ignore_errors=True)
            learn(network, stage)
            done = folder.absolute() if (folder / HISTORY).is_file() else None
            if done := agree(shared_world(), done):  # as the first of several processes has it
                progress.say(f"{job.folder.name}: {stage.name} is finished already")
                if hasattr(network.language, "adaptation"):
                    adapt.merge(network.language)
                network.load_state_dict(load_file(done / WEIGHTS), strict=True)
                results.append(FitResult(model=network, **json.loads((done / HISTORY).read_text("utf-8"))))
                continue
            train, val = stage_parts(recipe, data, network, stage)
            result = fit(
                network, task, train, val, config_of(recipe, job.model, stage), folder=folder, device=compute,
                label=f"{job.folder.name}, {stage.name}", seed=job.seed, progress=progress, resume=resume, logs=logs,
            )  # fmt: skip
            finish_stage(network, folder, result)
            results.append(result)
    for name, parameter in network.named_parameters():  # what was trained in any stage, which the records count
        parameter.requires_grad_(any(name.startswith(f"{part}.") for stage in stages for part in stage.train))
    return Trained(network, task, joined(network, results), peak)


def finish_stage(network: Any, folder: Path, result: FitResult) -> None:
    """Make adapters part of the weights, and keep what a stage left for a run that goes on after a kill."""
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(network.language, "adaptation"):
        adapt.save(network.language, folder / "adapter")
        adapt.merge(network.language)
    write_tensors(folder / WEIGHTS, contiguous(network.state_dict()), {"format": "pt"})
    kept = {"history": result.history, "seconds": result.seconds, "steps": result.steps, "epoch": result.epoch}
    write_atomically(folder / HISTORY, json.dumps(kept))


def joined(network: Any, results: Sequence[FitResult]) -> FitResult:
    """What all stages left, their steps and epochs counted on."""
    history: list[dict] = []
    steps, epoch = 0, 0.0
    for result in results:
        for row in result.history:
            history.append(row | {"step": row["step"] + steps, "epoch": row.get("epoch", 0.0) + epoch})
        steps, epoch = steps + result.steps, epoch + result.epoch
    return FitResult(
        model=network, history=history, seconds=sum(result.seconds for result in results), steps=steps, epoch=epoch
    )


def sums_of(
    recipe: VisionLanguageRecipe, data: Album, job: Job, network: Any, part: str, shown: Shown, progress: Progress
) -> np.ndarray:
    """Sums (n, 3) of every record of a part, of its own image or a wrong one."""
    cache = data.cache.setdefault((job.folder, "features"), features(recipe, network))
    found = predict(
        network, VisionLanguage(), examples(recipe, network, data.parts[part], cache, shown=shown),
        batch_size=recipe.evaluation.batch_size, compute=compute_of(recipe, job.model),
        title=f"{job.folder.name}: {part}, {WRONG.get(shown, 'own image')}", progress=progress,
    )  # fmt: skip
    return found.values


def validate(
    recipe: VisionLanguageRecipe, data: Album, job: Job, network: nn.Module, task: VisionLanguage
) -> dict[str, float]:
    """The numbers of the validation part."""
    network.to(compute_of(recipe, job.model).device)
    found = task.validation(sums_of(recipe, data, job, network, "val", "own", Progress()))
    return {f"val_{name}": value for name, value in found.items()}


def measure(
    recipe: VisionLanguageRecipe, data: Album, job: Job, network: Any, task: VisionLanguage, progress: Progress
) -> Records:
    """Save the model; the losses of validation and test part with right and wrong images; answers."""
    save(network, job.folder)
    network.eval()
    records: Records = {}
    for part in ("val", "test"):
        seen = np.array([bool(record.images) for record in data.parts[part]])
        own = sums_of(recipe, data, job, network, part, "own", progress)
        sums = {
            shown: own
            if shown == "own" or not seen.any()
            else sums_of(recipe, data, job, network, part, shown, progress)
            for shown in SHOWN
        }
        records[part] = look_records(task, sums, seen, recipe.evaluation.bootstrap)
        if part == "test":
            np.savez_compressed(
                job.folder / "sums.npz", seen=seen, own=sums["own"], other=sums["other"], grey=sums["grey"]
            )
    config, test = recipe.evaluation, data.parts["test"]
    records["test"] += answer_records(
        network, test, data.parts["train"], answers=config.answers, max_tokens=config.max_tokens,
        batch_size=config.batch_size, progress=progress, folder=job.folder,
    )  # fmt: skip
    records["test"] += retrieval_records(network, test, data.parts["train"], config.retrieval, progress)
    records[None] = [
        Record(metric="parameters", value=count_parameters(network), unit="count"),
        Record(metric="image_tokens", value=network.image_tokens, unit="count"),
        *turn_records(network, test, config.turns),
    ]
    return records


def look_records(task: VisionLanguage, sums: dict[Shown, np.ndarray], seen: np.ndarray, resamples: int) -> list[Record]:
    """The task's numbers with the own image, the loss with wrong ones, and how many records are likelier with the own.

    Args:
        sums: (n, 3), by what was shown. seen: (n,), records that have an image.
    """
    own = sums["own"]
    found = task.validation(own)
    _, low, high = score_interval(statistics_of(own[:, NLL], own[:, COUNT]), resamples=resamples)
    units = {"loss": "nats", "token_accuracy": "fraction"}
    records = [
        Record(metric=name, value=value, unit=units.get(name), n=int(own[:, COUNT].sum()),
               spread=(low, high) if name == "loss" else None)
        for name, value in found.items()
    ]  # fmt: skip
    if not seen.any():
        return records
    for shown, class_ in WRONG.items():
        wrong = sums[shown][seen]  # type: ignore[index]
        loss = task.validation(wrong)["loss"]
        lower = int((own[seen][:, NLL] < wrong[:, NLL]).sum())
        count = len(wrong)
        records += [
            Record(metric="loss", class_=class_, value=loss, unit="nats", n=int(wrong[:, COUNT].sum())),
            Record(metric="own_image_likelier", class_=class_, value=lower / count, unit="fraction", n=count,
                   spread=wilson(lower, count)),
        ]  # fmt: skip
    return records


def estimate(recipe: VisionLanguageRecipe, data: Album, job: Job) -> float:
    """Seconds for all stages, from a few steps of each. Records that cannot be learned are reported here."""
    seconds = 0.0
    network: Any = build(recipe, data, job.model, job.seed)
    for stage in recipe.training_of(job.model).stages:
        learn(network, stage)
        config = config_of(recipe, job.model, stage)
        train, val = stage_parts(recipe, data, network, stage)
        for part, found in data.parts.items():
            if part != "train":
                examples(recipe, network, found, None, template=stage.template)
        epochs, steps = config.length(len(train))
        rows = list(range(min(config.batch_size, len(train))))
        evaluated = epochs * len(val) + 3 * sum(len(data.parts[part]) for part in NAMES if part != "train")
        seconds += estimate_seconds(
            network, VisionLanguage(), config, batch_of(train, rows, VisionLanguage()), steps=steps,
            evaluated=evaluated * len(train) // len(train.rows),  # an item may hold several records
            compute=compute_of(recipe, job.model),
        )  # fmt: skip
        if hasattr(network.language, "adaptation"):
            adapt.merge(network.language)
    return seconds


EXPERIMENT = Experiment(
    build=build,
    task_of=lambda recipe, data, model, network=None: VisionLanguage(),
    validate=validate,
    measure=measure,
    primary_metric=lambda data: "loss",
    higher_is_better=False,
    estimate=estimate,
    train_job=train_job,
)
