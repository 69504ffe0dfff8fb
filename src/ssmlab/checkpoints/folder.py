"""Models in folders: save and load one of any kind, see `find` for finding.

kind                   config.json                                   weights, and further files
"vision"               {"kind", "model": name, "config": {...}}      model.safetensors, preprocess.json
"segmentation"         the same                                      the same
"language"             the same, or another layout (see `files`)     model.safetensors, or the layout's
"translation"          the same as of "language"                      model.safetensors, preprocess.json
"vision_language"      the same, or another layout                    the same, or the layout's, see `vision_language`
"sequence_classifier"  that of its layers, a language model          head.safetensors, head.json, preprocess.json

An ensemble of models of images or of segmentation networks is a folder whose config.json names other folders, relative
to it, as "members"; its preprocess.json is that of the first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ssmlab.checkpoints.files import load_language_model, save_language_model
from ssmlab.checkpoints.find import CONFIG, HEAD, HEAD_WEIGHTS, KINDS, PREPROCESS, WEIGHTS, kind_of, read_object
from ssmlab.checkpoints.vision_language import load_vision_language, save_vision_language
from ssmlab.core.checksums import FILE as CHECKSUMS
from ssmlab.core.checksums import damages
from ssmlab.core.errors import ModelError, UserError
from ssmlab.core.files import write_json, write_tensors
from ssmlab.models.ensemble import Ensemble, Normalised
from ssmlab.models.language.sequence_classifier import SequenceClassifier
from ssmlab.models.registry import create_model
from ssmlab.models.registry import kind_of as kind_of_name
from ssmlab.models.seq2seq.marian import marks
from ssmlab.models.weights import check_sizes, fit, one_line, read_state_dict
from ssmlab.nn.factorized import factorize_like_, factorized_ranks

NAMES = {kind: f"{kind} model" for kind in KINDS}
NAMES |= {
    "vision_language": "vision-language model",
    "vision": "model of images",
    "sequence_classifier": "classifier of sequences",
}
COMMANDS = {
    "vision": "`ssmlab classify` is for classifiers",
    "segmentation": "use `ssmlab segment`",
    "language": "`ssmlab generate` writes with it",
    "translation": "`ssmlab translate` translates with it",
    "sequence_classifier": "`ssmlab classify` is for it",
    "vision_language": "`ssmlab vlm chat` answers with it",
}


def save_model(model: Any, folder: str | Path, preprocess: dict[str, Any] | None = None) -> Path:
    """Write a model so that `load_model` builds it again.

    Every file gets a temporary name first, so that a folder never holds half a file.

    Args:
        model: of `create_model`, or a classifier of sequences.
        folder: made where it is missing.
        preprocess: what inputs go through before the model, preprocess.json: image_size, mean, std, classes, channels
            of images; kind, tokenizer, length, rate, classes of sequences. Models of images need it.
    Raises:
        ModelError: the model was not built by `create_model`, so that nobody could build it again.
    """
    folder, name = Path(folder), getattr(model, "registry_name", None)
    if isinstance(model, SequenceClassifier):
        return _save_classifier(model, folder, preprocess or {})
    if kind_of_name(name) == "vision_language":
        return save_vision_language(model, folder, preprocess)
    if (kind := kind_of_name(name)) in ("language", "translation"):
        save_language_model(model, folder, kind=str(kind))
        if preprocess is not None:
            write_json(folder / PREPROCESS, preprocess)
        return folder
    if isinstance(model, Ensemble):
        raise ModelError("an ensemble has no weights of its own; save_ensemble(folder, members) names those of others")
    if name is None:
        raise ModelError(f"{type(model).__name__} has no name in the table; build it with create_model to save it")
    if getattr(model, "pooling", "avg") != "avg":
        raise ModelError(
            "a model without pooling is not saved: config.json does not say so; reset_classifier(n, 'avg')"
        )
    config = {"kind": kind, "model": name, "config": asdict(model.config)}
    if ranks := factorized_ranks(model):
        config["factorized"] = ranks
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    write_json(folder / CONFIG, config)
    write_json(folder / PREPROCESS, preprocess or {})
    write_tensors(folder / WEIGHTS, state, {"format": "pt"})
    return folder


ALIKE = ("classes", "image_size", "fit", "channels", "patch_size", "spacing", "directions", "numbers", "several")


def save_ensemble(folder: str | Path, members: Sequence[str | Path], more: Mapping[str, Any] | None = None) -> Path:
    """Make a folder a model that is the mean of others' probabilities. The members stay where they are.

    Args:
        folder: made where it is missing.
        members: folders of trained models of images or of segmentation networks; of ensembles their members.
        more: further entries of its preprocess.json, such as a calibration of its own.
    Raises:
        ModelError: there is none, one is no such model, or they differ in classes or in what they read.
    """
    folder = Path(folder)
    chosen: list[Path] = []
    for member in map(Path, members):
        stored = read_object(member / CONFIG)
        chosen += [(member / name).resolve() for name in stored.get("members", [])] or [member.resolve()]
    if len(chosen) < 2 or len(set(chosen)) < len(chosen):
        raise ModelError(f"an ensemble needs two different models at least, got {len(set(chosen))}")
    kinds, abouts = [kind_of(member) for member in chosen], [read_object(member / PREPROCESS) for member in chosen]
    for member, kind, about in zip(chosen, kinds, abouts, strict=True):
        if kind not in ("vision", "segmentation") or kind != kinds[0]:
            raise ModelError(f"{member} is a {NAMES[kind]}; members of an ensemble are all of images, or all segment")
        for key in ALIKE:
            if about.get(key) != abouts[0].get(key):
                raise ModelError(
                    f"{member} has {key} {about.get(key)}, {chosen[0]} has {abouts[0].get(key)}; members must agree"
                )
    place = folder.resolve()
    names = [Path(os.path.relpath(member, place)).as_posix() for member in chosen]
    same = {key: value for key, value in abouts[0].items() if all(about.get(key) == value for about in abouts)}
    own = {key: abouts[0][key] for key in ("mean", "std") if key in abouts[0]}  # what the first member reads
    same.pop("calibration", None)  # is of one member
    write_json(folder / PREPROCESS, same | own | dict(more or {}))
    model = read_object(chosen[0] / CONFIG)["model"]
    write_json(folder / CONFIG, {"kind": kinds[0], "model": model, "members": names})
    return folder


def load_model(folder: str | Path, wanted: str | None = None) -> tuple[Any, dict[str, Any]]:
    """The model in a folder, on the CPU and in evaluation mode, and its preprocessing, {} where there is none.

    The model keeps it too, with the folder, as `preprocess_config`.

    Args:
        wanted: the kind that the model must be of.
    Raises:
        ModelError: a file is missing or does not fit, all disagreeing keys listed, or the model is of another kind.
    """
    folder = Path(folder)
    read = (".json", ".safetensors", ".model")  # adapters and predictions in folders below are none of this
    if damaged := damages(folder, lambda name: name.endswith(read) and "/" not in name):
        raise ModelError(
            f"{damaged[0]}; copy the folder again, train the model again, or delete {folder / CHECKSUMS} if you have "
            "changed it"
        )
    kind = kind_of(folder) if (folder / CONFIG).is_file() else wanted or "vision"
    if wanted not in (None, kind):
        raise ModelError(f"{folder} is a {NAMES[kind]}, a {NAMES[wanted]} is needed; {COMMANDS[kind]}")
    model: Any
    if kind == "sequence_classifier":
        model, preprocess = _load_classifier(folder)
    elif kind == "vision_language":
        model, preprocess = load_vision_language(folder)
    elif kind in ("language", "translation"):
        about = folder / PREPROCESS
        model, preprocess = load_language_model(folder), read_object(about) if about.is_file() else {}
        if kind == "translation" and not preprocess:  # of transformers
            preprocess = marks(read_object(folder / CONFIG))
    elif (folder / CONFIG).is_file() and (members := read_object(folder / CONFIG).get("members")):
        model, preprocess = _load_ensemble(folder, members)
    else:
        model, preprocess = _load_network(folder)
    model.preprocess_config = preprocess | {"folder": str(folder)}
    return model, preprocess


def _load_ensemble(folder: Path, members: Any) -> tuple[Ensemble, dict[str, Any]]:
    """The models that a config.json names, as one."""
    if not isinstance(members, list) or not all(isinstance(name, str) for name in members):
        raise ModelError(f"{folder / CONFIG}: members must be a list of folders")
    missing = [name for name in members if not (folder / name / CONFIG).is_file()]
    if missing:
        raise ModelError(f"{folder} is an ensemble, and {len(missing)} of its members are missing ({missing[0]})")
    found = [load_model(folder / name) for name in members]
    normalised = [Normalised(*(tuple(about.get(key, ())) for key in ("mean", "std"))) for _, about in found]
    preprocess = read_object(folder / PREPROCESS)
    return Ensemble([model for model, _ in found], normalised, bool(preprocess.get("several"))).eval(), preprocess


def _load_network(folder: Path) -> tuple[Any, dict[str, Any]]:
    """A model of images or a segmentation network."""
    files = [folder / name for name in (CONFIG, PREPROCESS, WEIGHTS)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ModelError(
            f"{folder} has no {', '.join(missing)}; give the folder of a trained model, runs/<name>/models/<model>"
        )
    stored, preprocess = (read_object(file) for file in files[:2])
    name, config = stored.get("model"), stored.get("config")
    if not isinstance(name, str) or not isinstance(config, dict):
        raise ModelError(f"{files[0]} must name a model and its config; copy the folder again")
    try:
        check_sizes(files[0], config, files[2], lambda: _rebuilt(name, dict(config)))
        model = _rebuilt(name, dict(config))
        factorize_like_(model, stored.get("factorized", {}))
    except UserError:
        raise
    except (TypeError, AttributeError, KeyError, ValueError, RuntimeError, MemoryError) as error:
        raise ModelError(f"{files[0]} has values that make no model: {one_line(error)}") from error
    fit(model, read_state_dict(files[2]), str(files[2]))
    return model.eval(), preprocess


def _rebuilt(name: str, config: dict[str, Any]) -> Any:
    """The network whose config `save_model` wrote, with initial values."""
    if kind_of_name(name) == "segmentation":
        missing = [field for field in ("plan", "num_classes", "in_chans") if field not in config]
        if missing:
            raise ModelError(f"the config of {name} has no {missing[0]}")
        return create_model(name, **{field: config[field] for field in ("plan", "num_classes", "in_chans")})
    options = config.pop("options", {})
    if not isinstance(options, dict):
        raise ModelError(f"config.json: options must be an object, got {type(options).__name__}")
    forbidden = sorted({"name", "pretrained", "weights"} & (options.keys() | config.keys()))
    if forbidden:
        raise ModelError(f"config.json has {', '.join(forbidden)}: a folder does not decide what is downloaded or read")
    return create_model(name, **(options | config))


def _save_classifier(model: SequenceClassifier, folder: Path, preprocess: dict[str, Any]) -> Path:
    """The layers as of a language model, whose head is the embedding; head.safetensors and head.json next to them."""
    save_language_model(model.language_model(), folder, kind="sequence_classifier")
    head = {name: tensor.detach().cpu().contiguous() for name, tensor in model.head.state_dict().items()}
    write_tensors(folder / HEAD_WEIGHTS, head, {"format": "pt"})
    write_json(folder / HEAD, {"pool": model.pool, "classes": model.head.out_features})
    write_json(folder / PREPROCESS, preprocess)
    return folder


def _load_classifier(folder: Path) -> tuple[SequenceClassifier, dict[str, Any]]:
    about, preprocess = read_object(folder / HEAD, "pool", "classes"), read_object(folder / PREPROCESS)
    state = read_state_dict(folder / HEAD_WEIGHTS)
    model = SequenceClassifier(load_language_model(folder), about["classes"], about["pool"])
    fit(model.head, state, str(folder / HEAD_WEIGHTS))
    return model.eval(), preprocess
