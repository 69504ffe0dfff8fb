"""Translation models in a run: built, trained (`tasks.shared.experiment`), chosen by BLEU, tested once, compared."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn
from transformers import set_seed

from ssmlab.checkpoints.folder import load_model, save_model
from ssmlab.core.errors import ModelError, RecipeError
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.generation.options import BeamOptions
from ssmlab.generation.translate import carries_state
from ssmlab.models import create_model
from ssmlab.models.download import local_folder
from ssmlab.profiling.language import pair_costs
from ssmlab.tasks.shared.experiment import Experiment, Records, compute_of, estimate_job
from ssmlab.tasks.shared.job import Job
from ssmlab.tasks.translate.batches import EvaluationBatches, TrainingBatches, joined
from ssmlab.tasks.translate.data import Corpus
from ssmlab.tasks.translate.decoding import Decoding, Translated
from ssmlab.tasks.translate.noise import robustness_records
from ssmlab.tasks.translate.recipe import TranslationModel, TranslationRecipe
from ssmlab.tasks.translate.scores import Scores, records_of, score_differences, score_lines, validation_scores
from ssmlab.tasks.translate.speed import decoding_records
from ssmlab.tasks.translate.task import Translate
from ssmlab.training.distributed import gather, shared_world
from ssmlab.training.parameters import freeze
from ssmlab.training.predict import predict

UNITS = {"loss": "nats", "token_accuracy": "fraction", "bleu": "points", "chrf": "points"}
TIMED = 8  # sentences


def build(recipe: TranslationRecipe, data: Corpus, model: TranslationModel, seed: int) -> nn.Module:
    """The network with its initial weights, or those of the folder that it starts from, and what is frozen in it.

    Raises:
        ModelError: the folder's model is none for translation, or another one than named.
        RecipeError: the state is to go on from sentence to sentence, and the network reads each source anew.
    """
    set_seed(seed)
    start, places, config = recipe.start_of(model), model.dropout.options(), recipe.training_of(model)
    network: Any
    if start:
        network, _ = load_model(start if Path(start).is_dir() else local_folder(start))
        if not hasattr(network, "read_source"):
            raise ModelError(f"{start} holds {type(network).__name__}, which does not translate; give another folder")
        if places:
            trained = network.state_dict()
            config_ = asdict(network.config) | {f"dropout_{place}": p for place, p in model.dropout}
            config_["residual_dropout"] = config_["dropout_branch"]
            network = create_model(network.registry_name, **config_)
            network.load_state_dict(trained)
    else:
        size = data.words[start].size
        network = create_model(recipe.name_of(model), vocab_size=size, **places, **model.options)
    if config.carry_state and not carries_state(network):
        raise RecipeError(
            f"training.carry_state: {model.label} has an encoder, which reads every source anew; compare decoder-only "
            "models, or train it with carry_state=false"
        )
    network.backbone.gradient_checkpointing = config.gradient_checkpointing
    freeze(network, config.freeze)
    return network


def decoding_of(
    recipe: TranslationRecipe, data: Corpus, model: TranslationModel, beams: int, max_tokens: int | None = None
) -> Decoding:
    """How a model translates: as documents where it was trained on such and the evaluation has some."""
    config, training = recipe.evaluation, recipe.training_of(model)
    words = data.words[recipe.start_of(model)]
    together = training.documents if not training.carry_state else config.documents
    return Decoding(
        separator=words.sep, eos=words.eos, suppress=(words.pad,),
        options=BeamOptions(beams=beams, length_penalty=config.length_penalty),
        group=min(config.documents, together) if training.documents > 1 else 1,
        carry=training.carry_state, batch_tokens=config.batch_tokens, max_tokens=max_tokens,
    )  # fmt: skip


def translated(
    recipe: TranslationRecipe,
    data: Corpus,
    model: TranslationModel,
    network: nn.Module,
    part: str,
    beams: int,
    progress: Progress | None = None,
    title: str = "",
    texts: Sequence[str] | None = None,
) -> tuple[list[str], list[Translated]]:
    """A part's sources, or `texts`, in the other language, as text and as tokens. The network is on its device."""
    start, progress = recipe.start_of(model), progress or Progress()
    read = data.tokens(part, start)[0] if texts is None else data.words[start].encode_all(texts)
    sources: list[Any] = [
        tokens if text.strip() else []  # a mark of OPUS-MT's is no text
        for text, tokens in zip(data.pairs[part].sources if texts is None else texts, read, strict=True)
    ]
    progress.start(title, len(sources), unit="sentences", per_step=1)
    try:
        decoding, world = decoding_of(recipe, data, model, beams), shared_world()
        documents = world.share(-(-len(sources) // decoding.group))  # whole ones
        own = sources[documents.start * decoding.group : documents.stop * decoding.group]
        found = [line for part in gather(world, decoding.lines(network.eval(), own, progress)) for line in part]
    finally:
        progress.stop()
    return [data.words[start].target.decode(one.tokens) for one in found], found


def task_of(recipe: TranslationRecipe, data: Corpus, model: TranslationModel, network: Any = None) -> Translate:
    """The task, which translates the validation part greedily."""
    words = data.words[recipe.start_of(model)]

    def decode(network: nn.Module) -> dict[str, float]:
        lines, _ = translated(recipe, data, model, network, "val", beams=1)
        return validation_scores(data.sets["val"], lines)

    smoothing, marks = recipe.training_of(model).label_smoothing, data.marks(recipe.start_of(model))
    return Translate(vocab_size=words.size, label_smoothing=smoothing, marks=marks, decode=decode)


def parts(
    recipe: TranslationRecipe, data: Corpus, model: TranslationModel
) -> tuple[TrainingBatches, EvaluationBatches]:
    """Training and validation part, in batches."""
    config, start = recipe.training_of(model), recipe.start_of(model)
    sources, targets = data.tokens("train", start)
    how = {"documents": config.documents, "carry": config.carry_state, "seed": recipe.data.split_seed}
    examples = joined(sources, targets, **how, marks=data.marks(start))
    train = TrainingBatches(*examples, config.tokens_per_batch, config.updates_per_evaluation, data.marks(start))
    return train, _batches(recipe, data, model, "val")


def _batches(recipe: TranslationRecipe, data: Corpus, model: TranslationModel, part: str) -> EvaluationBatches:
    most, start = recipe.training_of(model).tokens_per_batch, recipe.start_of(model)
    return EvaluationBatches(*data.tokens(part, start), most, data.marks(start))


def losses(
    recipe: TranslationRecipe, data: Corpus, job: Job, network: nn.Module, task: Translate, part: str
) -> dict[str, float]:
    """Loss and correct tokens of a part's own translations, each after the source and what comes before it."""
    compute = compute_of(recipe, job.model)
    found = predict(network, task, _batches(recipe, data, job.model, part), batch_size=1, compute=compute)
    return task.validation(found.values)


def validate(
    recipe: TranslationRecipe, data: Corpus, job: Job, network: nn.Module, task: Translate
) -> dict[str, float]:
    """The numbers of the validation part, which is translated greedily."""
    found = losses(recipe, data, job, network, task, "val") | task.decoded(network)
    return {f"val_{name}": value for name, value in found.items()}


def measure(
    recipe: TranslationRecipe, data: Corpus, job: Job, network: nn.Module, task: Translate, progress: Progress
) -> Records:
    """Save the model, translate the validation part with and without beams and once the test part; costs."""
    config = recipe.evaluation
    records: Records = {}
    save(recipe, data, job.model, network, job.folder)
    found = validate(recipe, data, job, network, task)
    n = {part: len(data.sets[part].sources) for part in data.sets}
    records["val"] = [
        Record(metric=name.removeprefix("val_"), value=value, unit=UNITS.get(name.removeprefix("val_")), n=n["val"])
        for name, value in found.items()
    ]
    if config.beams > 1:
        how = (network, "val", config.beams, progress, f"{job.folder.name}: validation, {config.beams} beams")
        lines, _ = translated(recipe, data, job.model, *how)
        for name, value in validation_scores(data.sets["val"], lines).items():
            record = Record(metric=name, value=value, unit="points", n=n["val"], class_=f"{config.beams} beams")
            records["val"].append(record)
    begin = time.perf_counter()
    how = (network, "test", config.beams, progress, f"{job.folder.name}: test")
    lines, tokens = translated(recipe, data, job.model, *how)
    seconds = time.perf_counter() - begin
    scores = score_lines(data.sets["test"], lines, [one.cut for one in tokens])
    scores.save(job.folder)
    records["test"] = records_of(data.sets["test"], scores, config.bootstrap)
    for name, value in losses(recipe, data, job, network, task, "test").items():
        records["test"].append(Record(metric=name, value=value, unit=UNITS.get(name), n=n["test"]))
    if config.robustness:
        records["test"] += robustness_records(
            lambda changed: translated(recipe, data, job.model, *how, texts=changed)[0],
            data.sets["test"], scores, resamples=config.bootstrap,
        )  # fmt: skip
    separator = data.marks(recipe.start_of(job.model)).separator
    written = sum(len(one.tokens) for one in tokens)
    records[None] = [
        *costs(recipe, data, job.model, network),
        Record(metric="test_seconds", value=seconds, unit="seconds", n=n["test"]),
        Record(metric="tokens_per_second", value=written / seconds, unit="tokens/s", n=written,
               class_=f"{config.beams} beams"),
        *decoding_records(network, separator, config.decoding),
    ]  # fmt: skip
    return records


def save(recipe: TranslationRecipe, data: Corpus, model: TranslationModel, network: Any, folder: Path) -> None:
    """The model, its tokenizer, and what it translates."""
    words, training = data.words[recipe.start_of(model)], recipe.training_of(model)
    about = {"task": "translate", "source": data.source, "target": data.target}
    marks = {"separator_id": words.sep, "eos": words.eos, "pad": words.pad}
    how = {"documents": training.documents, "carry_state": training.carry_state}
    save_model(network, folder, about | marks | how)
    words.save(folder)


def costs(recipe: TranslationRecipe, data: Corpus, model: TranslationModel, network: nn.Module) -> list[Record]:
    """Parameters, with and without embeddings, operations of a pair as long as the test part's are on average, and the
    state of one translation."""
    sides = data.tokens("test", recipe.start_of(model))
    lengths = [max(1, round(sum(map(len, side)) / len(side))) for side in sides]
    found = pair_costs(network, lengths[0], lengths[1] + 1)
    work = "multiply-accumulates"
    return [
        Record(metric="parameters", value=found.parameters, unit="count"),
        Record(metric="parameters_without_embeddings", value=found.parameters - found.embeddings, unit="count"),
        Record(metric="macs_per_pair", value=found.counts.macs, unit=work),
        Record(metric="scan_macs_per_pair", value=found.counts.scan_macs, unit=work),
        Record(metric="state_bytes", value=found.state_bytes, unit="bytes"),
        Record(metric="state_growth", value=found.growth_bytes, unit="bytes"),
    ]


def evaluated(recipe: TranslationRecipe, data: Corpus, epochs: int) -> int:
    """Pairs whose loss is computed during and after training."""
    counts = data.describe["counts"]
    return (epochs + 1) * counts["val"] + counts["test"]


def estimate(recipe: TranslationRecipe, data: Corpus, job: Job) -> float:
    """Seconds for training, and for translating the validation part after every stretch of it and the test part."""
    seconds = estimate_job(TRAINING, recipe, data, job)
    config, model = recipe.training_of(job.model), job.model
    network = build(recipe, data, model, job.seed).to(compute_of(recipe, model).device).eval()
    sources, targets = data.tokens("val", recipe.start_of(model))
    length = max(2, round(sum(map(len, targets)) / len(targets)))  # an untrained model does not end by itself
    counts, beams = data.describe["counts"], recipe.evaluation.beams
    epochs, _ = config.length(config.updates_per_evaluation)
    for width, sentences in ((1, (epochs + 1) * counts["val"]), (beams, counts["val"] + counts["test"])):
        how = decoding_of(recipe, data, model, width, length)
        begin = time.perf_counter()
        how.lines(network, sources[:TIMED])
        seconds += (time.perf_counter() - begin) / min(TIMED, len(sources)) * sentences
    return seconds


def compare(recipe: TranslationRecipe, data: Corpus, jobs: Sequence[Job]) -> list[tuple[str, Record]]:
    """The difference of every two models in BLEU and chrF++, with intervals and p-values over sentences and seeds."""
    arms: dict[str, list[Scores]] = {}
    for job in jobs:
        arms.setdefault(job.model.label, []).append(Scores.load(job.folder))
    return score_differences(arms, recipe.evaluation.bootstrap, recipe.evaluation.trials)


def finish(recipe: TranslationRecipe, data: Corpus, jobs: Sequence[Job], folder: Path) -> None:
    """Write test.src and test.ref, next to which anybody can score the models' test.hyp."""
    data.sets["test"].save(folder)


TRAINING = Experiment(build=build, task_of=task_of, parts=parts, evaluated=evaluated)
EXPERIMENT = Experiment(
    build=build,
    task_of=task_of,
    parts=parts,
    validate=validate,
    measure=measure,
    primary_metric=lambda data: "bleu",
    higher_is_better=True,
    evaluated=evaluated,
    estimate=estimate,
    compare=compare,
    finish=finish,
)
