"""`fit`, `evaluate`, `predict` and `generate` of `import ssmlab`: any model, any dataset, any task, no files needed."""

import json
import tempfile
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn
from transformers import set_seed

from ssmlab.core.device import choose_compute
from ssmlab.core.errors import UserError
from ssmlab.core.files import read_json, write_json, write_records
from ssmlab.core.progress import Progress
from ssmlab.core.record import Record
from ssmlab.core.text import did_you_mean
from ssmlab.core.world import world_of
from ssmlab.generation.generate import Generated
from ssmlab.tasks.items import Remembered, name_of, several
from ssmlab.tasks.opening import Opened, open_model
from ssmlab.tasks.options import EvaluateOptions
from ssmlab.tasks.overrides import explain
from ssmlab.tasks.recipe import load_recipe
from ssmlab.tasks.results import Fitted, History, Records
from ssmlab.tasks.saving import save
from ssmlab.tasks.table import TASKS, load_data
from ssmlab.training.config import FitConfig
from ssmlab.training.fit import fit as fit_task
from ssmlab.training.predict import predict as outputs_for

NAMES = (
    "classify",
    "segment",
    "language",
    "classify_sequence",
    "translate",
    "vision_language",
)  # tasks with a python.py
STATE = "fit.json"  # in the folder of a fit: what a call that goes on with it must agree with
BATCH = 32  # items that are predicted at once, where nothing says it


def fit(
    model: nn.Module,
    task: Any,
    train: Any,
    val: Any = None,
    config: FitConfig | dict[str, Any] | None = None,
    *,
    folder: Path | str | None = None,
    device: str | None = None,
    seed: int = 0,
    progress: bool | Progress = True,
    resume: bool = True,
    **options: Any,
) -> Fitted:
    """Train a model: result = fit(model, "classify", train, val, epochs=3, learning_rate=1e-3).

    Args:
        model: ours, timm's, or any module, which is trained in place.
        task: "classify" for (image, label), "segment" for (image, mask), "language" for texts or tokens, or one's own
            `Task`; "classify_sequence" for (text or tokens, label), "translate" for (source, target),
            "vision_language" for (picture, question, answer).
        train, val: datasets of torch, map-style or iterable, or lists of items.
        config: how it is trained; the fields of `FitConfig` may also be given one by one, as epochs=3.
        folder: where the model, checkpoints and records are saved; None writes no file. A fit that was killed goes on
            when it is called again with the same arguments, and ends with the same weights to the bit (on the CPU).
        device: "cpu", "cuda" or "mps"; None takes the fastest.
        seed: decides the order of the items, dropout and augmentation.
        progress: whether a bar is shown, in a terminal and in a notebook.
        resume: False begins anew in a folder that holds a fit.
        options: fields of `FitConfig`, and what the task needs and would else find itself: ABOUT and TRAINING of its
            python.py, such as classes, mean, std, augment (`classify`), patch_size (`segment`), tokenizer, length
            (`language`), source, target (`translate`), template, trained (`vision_language`).
    Raises:
        UserError: an unknown option, data that do not fit the model, or a folder that holds another fit.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"fit trains a module, got {type(model).__name__}; create_model(...) or load_model(...)[0]")
    settings, show, (place, _scratch) = _config(config, options), _progress(progress), _place(folder)
    state: dict[str, Any] = {}
    if place is not None:
        kind = task if isinstance(task, str) else type(task).__name__
        state = _check_folder(place, settings, resume, model=name_of(model), task=kind, items=_length(train),
                              val=_length(val), seed=seed, options=options)  # fmt: skip
    if "inputs" in state:  # the fit goes on with what it found in the data when it began
        model.preprocess_config = state["inputs"]
    set_seed(seed)
    model, task, train, val, inputs = _prepared(model, task, train, val, options, show)
    if place is not None:
        write_json(place / STATE, state | {"inputs": inputs})
    found = fit_task(model, task, train, val, settings, folder=place, device=device, seed=seed, progress=show,
                     resume=resume)  # fmt: skip
    model.eval()
    model.preprocess_config = inputs  # type: ignore[assignment]
    records = Records(found.records)
    if place is not None:
        if why := save(model, place, inputs):
            show.say(f"note: {why}; load_state_dict reads them")
        write_records(place / "records.jsonl", records)
    return Fitted(model=model, task=task, history=History.of(found.history), records=records, seconds=found.seconds,
                  steps=found.steps, epoch=found.epoch, folder=place)  # fmt: skip


def evaluate(
    model: Any,
    data: Any = None,
    task: Any = None,
    config: EvaluateOptions | None = None,
    *,
    progress: bool | Progress = True,
    **options: Any,
) -> Records:
    """Measure a model on data.

        evaluate(result, test).value("accuracy")
        evaluate("runs/pets", part="val").plot()

    Args:
        model: a module, what `fit` returned, the folder of a trained model or of a run.
        data, task: as for `fit`, also in its order, evaluate(model, task, data); the task may be left out where the
            model says it. Of language models also questions {"question", "choices", "answer"}. Or the path of data in
            any format that is read. None, or the path that a run was trained on: the run's own part, which gives the
            run's own numbers.
        config: how it is measured; the fields of `EvaluateOptions` may also be given one by one: part of the data in a
            path, device, batch_size; positive (`classify`); length, stride, tokenizer, documents (`language`).
        options: those, and further ones of the task: classes, mean, std (`classify`); overlap, mirror, tolerance
            (`segment`); tokenizer, beams, length_penalty (`translate`); answers, max_tokens, template
            (`vision_language`).
    Raises:
        UserError: the data do not fit the model. DataError: they cannot be read.
    """
    own = [field.name for field in fields(EvaluateOptions)]
    config = EvaluateOptions.of(config, {name: options.pop(name) for name in own if name in options}, "evaluate")
    options |= config.changed("part", "device", "batch_size")
    part, batch_size = config.part, config.batch_size
    opened, show = open_model(model), _progress(progress)
    if task is not None and (data in NAMES if isinstance(data, str) else hasattr(data, "collate")):
        data, task = task, data
    if opened.note:
        show.say(opened.note)
    compute = choose_compute(config.device or "auto", "float32")
    network = opened.network.to(compute.device).eval()
    if task is not None and not isinstance(task, str):
        return _validated(network, task, data, compute, batch_size or BATCH, show)
    name, about = _task_name(opened, task), opened.about
    module = _module(name)
    _known(options, (*module.ABOUT, "tolerance", "overlap", "mirror"), f"evaluate for {name!r}")
    text = isinstance(data, str) and name == "language" and ("\n" in data or len(data) > 999 or not Path(data).exists())
    if data is None or (isinstance(data, str | Path) and not text):
        data, how = _read(module, opened, data, part, options, show)
        options = how | options
    elif name in ("classify", "segment"):
        about = module.describe(network, data, options)
    elif name == "vision_language":
        about = about | {key: options.pop(key) for key in ("tokenizer", "length") if key in options}
    elif "classes" in options or (name in ("classify_sequence", "translate") and "tokenizer" in options):
        about = about | {key: options[key] for key in ("classes", "tokenizer") if key in options}
    for key in ("classes", "mean", "std", "patch_size", *(("tokenizer", "length") if name != "language" else ())):
        options.pop(key, None)  # they are in `about`
    size = options.pop("batch_size", BATCH)
    return Records(
        module.evaluate(network, data, about, compute=compute, batch_size=batch_size or size, progress=show, **options)
    )


def predict(
    model: Any,
    inputs: Any,
    task: str | None = None,
    *,
    device: str | None = None,
    batch_size: int = BATCH,
    progress: bool | Progress = False,
    **options: Any,
) -> list[Any]:
    """What a model predicts, one result for every input.

    Args:
        model: as for `evaluate`.
        inputs: images of PIL, their file names, arrays (h, w[, c]), tensors (c, h, w), texts or sequences of tokens;
            a list, a batch, a dataset (whose labels are not read), or a single one.
        task: as for `fit`, where the model does not say it.
        options: of the task, as for `evaluate`; of classes also calibrated, probabilities at the temperature of the
            validation part, and threshold, the class of two by its threshold.
    Returns:
        of images and sequences with classes `ClassPrediction`; of segmentation networks `Segmentation`; of language
        models `ScoredText`; of translation models `Translation`; of vision-language models `Answer`, of every
        (picture, question).
    Raises:
        UserError: the inputs do not fit the model. DataError: files cannot be read.
    """
    opened = open_model(model)
    name, about = _task_name(opened, task), opened.about
    module, compute = _module(name), choose_compute(device or "auto", "float32")
    taken = (*module.ABOUT, *getattr(module, "PREDICTING", ()))
    _known(options, (*taken, "overlap", "mirror"), f"predict for {name!r}")
    items = several(inputs, images=name in ("classify", "segment"))
    if not items:
        return []
    about = about | {key: options[key] for key in taken if key in options}
    own = ("overlap", "mirror", *(("tokenizer",) if name == "language" else ()))
    kept = {key: value for key, value in options.items() if key in own}
    network = opened.network.to(compute.device).eval()
    return module.predict(
        network, items, about, compute=compute, batch_size=batch_size, progress=_progress(progress), **kept
    )


def generate(model: Any, prompts: Any, *, tokenizer: Any = None, **options: Any) -> list[Generated]:
    """Continue texts with a language model.

        generate("runs/text", "It was a dark", max_tokens=50)[0].text

    Args:
        model: a language model, what `fit` returned, or a folder.
        prompts: a text, a list of texts, or sequences of tokens.
        tokenizer: "bytes", a file, or an object with `encode` and `decode`; None takes the model's own.
        options: `options`, a `GenerateOptions`, or its fields one by one (max_tokens, temperature, top_k, top_p, min_p,
            repetition_penalty, seed, beams, stop, logprobs), eos, on_text; see `ssmlab.generation.generate`.
    Raises:
        UserError: an option that is unknown or out of range, or a prompt that cannot be read.
    """
    opened = open_model(model)
    if opened.task != "language":
        raise UserError(f"generate continues texts with a language model, got {name_of(opened.network)}")
    return _module("language").generate(opened.network.eval(), prompts, opened.about, tokenizer, **options)


def _module(task: str) -> Any:
    if task not in NAMES:
        hint = did_you_mean(task, NAMES) or f"; there are {', '.join(NAMES)}"
        raise UserError(f"no task {task!r}{hint}")
    return import_module(f"{TASKS[task].folder}.python")


def _task_name(opened: Opened, task: str | None) -> str:
    name = task or opened.task
    if not name:
        raise UserError(
            f"nothing says what {name_of(opened.network)} is for; give task= one of {', '.join(map(repr, NAMES))}"
        )
    return name


def _known(options: dict[str, Any], names: Iterable[str], where: str) -> None:
    names = tuple(dict.fromkeys(names))
    for option in options:
        if option not in names:
            raise UserError(
                f"{where} has no option {option!r}" + (did_you_mean(option, names) or f"; there are {', '.join(names)}")
            )


def _config(config: Any, options: dict[str, Any]) -> FitConfig:
    """A `FitConfig` of all that is given about it; single options win."""
    if not isinstance(config, FitConfig | dict | None):
        raise UserError(f"config must be a FitConfig or a dictionary, got {type(config).__name__}")
    values = config.model_dump() if isinstance(config, FitConfig) else dict(config or {})
    values |= {name: value for name, value in options.items() if name in FitConfig.model_fields}
    try:
        return FitConfig(**values)
    except ValidationError as error:
        raise UserError(explain(error, "fit", FitConfig)) from None


def _prepared(model: nn.Module, task: Any, train: Any, val: Any, options: dict[str, Any], show: Progress) -> Any:
    """Model, task, both parts as training reads them, and what inputs go through before the model."""
    fields = tuple(FitConfig.model_fields)
    if not isinstance(task, str):
        _known(options, fields, "fit with a task of one's own")
        return model, task, train, val, {}
    module = _module(task)
    _known(options, (*fields, *module.ABOUT, *module.TRAINING), f"fit for {task!r}")
    given = {name: value for name, value in options.items() if name not in fields}
    found = module.prepare(model, train, val, given)
    if found[-1].get("normalised"):
        show.say("note: images have values outside of 0 to 1; they are taken as normalised and used as they are")
    return found


def _progress(progress: bool | Progress) -> Progress:
    if isinstance(progress, Progress):
        return progress
    from ssmlab.core.display import Display

    return Display() if progress and not world_of().rank else Progress()


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:  # a stream without an end, or no data
        return None


def _written(value: Any) -> Any:
    """Of an argument that is no JSON: its numbers, name or fields, else its kind."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value) if isinstance(value, Path) or is_dataclass(value) else type(value).__name__


def _place(folder: Path | str | None) -> tuple[Path | None, Any]:
    """Where a fit is saved, and what keeps that folder: the first of several processes alone writes into its own."""
    if folder is None or not world_of().rank:
        return (None if folder is None else Path(folder)), None
    scratch = tempfile.TemporaryDirectory()  # it goes with the call
    return Path(scratch.name), scratch


def _check_folder(place: Path, config: FitConfig, resume: bool, **about: Any) -> dict[str, Any]:
    """What fit.json must hold: of a new fit, or with "inputs" of the one that goes on.

    Args:
        about: what a fit is besides its config, by name; of "options" those that are no fields of the config count.
    Raises:
        UserError: the folder holds another fit, or files that are no fit's.
    """
    own = {name: value for name, value in about["options"].items() if name not in FitConfig.model_fields}
    wanted: dict[str, Any] = {"config": config.model_dump()} | about | {"options": own}
    wanted = json.loads(json.dumps(wanted, default=_written))
    if place.exists() and not place.is_dir():
        raise UserError(f"{place} is a file; give a folder")
    there = read_json(place / STATE)
    if not there and place.is_dir() and any(place.iterdir()):
        raise UserError(f"{place} holds files that are no fit's; give another folder")
    if not there or not resume:
        return wanted
    defaults = FitConfig().model_dump(mode="json")  # of fields that the folder's version did not have
    one, other = (defaults | values["config"] | values | values.get("options", {}) for values in (there, wanted))
    for name in dict.fromkeys((*other, *there.get("options", {}))):
        if name not in ("config", "options") and one.get(name) != other.get(name):
            raise UserError(
                f"{place} holds a fit with {name}={one.get(name)!r}, not {other.get(name)!r}; give the same arguments "
                "to go on with it, another folder, or resume=False to begin anew there"
            )
    return there


def _read(
    module: Any, opened: Opened, data: Any, part: str, options: dict[str, Any], show: Progress
) -> tuple[Any, dict[str, Any]]:
    """Data in a path, or where none is given or it is the same, the part of the run that the model belongs to."""
    run = opened.folder.parent.parent if opened.folder is not None else None
    recipe = load_recipe(run) if run is not None and (run / "recipe.toml").is_file() else None
    if recipe is not None and data is not None and Path(recipe.data.path).resolve() != Path(data).resolve():
        recipe = None
    if recipe is None and data is None:
        raise UserError("there is nothing to evaluate on: the model belongs to no run; give the path of data")
    if recipe is None:
        show.say(f"reading {data}")
        return module.read(Path(data), opened.about, part, None, None, options, show)
    if part == "all":
        raise UserError(f"the model learned from {recipe.data.path}: name a part of it, train, val or test")
    show.say(f"the {part} part of {recipe.data.path}, as the run has it")
    return module.read(Path(recipe.data.path), opened.about, part, recipe, load_data(recipe, show), options, show)


def _validated(network: Any, task: Any, data: Any, compute: Any, batch_size: int, show: Progress) -> Records:
    """The numbers that a task of one's own gives for a part."""
    batches = Remembered(data, task)
    found = outputs_for(
        network, task, batches, batch_size=batch_size, compute=compute, title="evaluating", progress=show
    )
    values = task.validation(found.values, batches.labels)
    return Records(Record(metric=name, value=float(value), n=len(batches)) for name, value in values.items())
