"""Finding models: what a name or a path means, and which kind of model a folder holds. Nothing heavy is imported."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssmlab.core.errors import ModelError
from ssmlab.core.record import read_records
from ssmlab.core.text import did_you_mean
from ssmlab.models.entry import KINDS as NETWORKS
from ssmlab.models.registry import MODELS
from ssmlab.models.registry import kind_of as kind_of_name

KINDS = (*NETWORKS, "sequence_classifier")
SEQUENCES = ("language", "sequence_classifier")
CONFIG, PREPROCESS, WEIGHTS = "config.json", "preprocess.json", "model.safetensors"
# validation metrics by which one of several models is chosen: the first that any of them has
WAYS = (
    ("dice", 1, "highest validation Dice"),
    ("label_auc", 1, "highest validation area under the ROC curve"),
    ("accuracy", 1, "highest validation accuracy"),
    ("bleu", 1, "highest validation BLEU"),
    ("loss", -1, "lowest validation loss"),
)
# other authors' models, by model_type, that transformers' classes run
HYBRIDS = {"bamba": "Bamba", "jamba": "Jamba", "zamba2": "Zamba2", "falcon_h1": "Falcon-H1"}
LLAVA = ("llava", "llava_llama")  # model_type of the originals
HEAD, HEAD_WEIGHTS = "head.json", "head.safetensors"  # only classifiers of sequences have these


def kind_of(folder: Path) -> str:
    """The kind of the model in a folder, of `KINDS`: what config.json says, or in older folders, what the files are.

    Raises:
        ModelError: config.json is damaged.
    """
    stored = read_object(folder / CONFIG)
    if stored.get("kind") in KINDS:
        return stored["kind"]
    if (folder / HEAD).is_file():
        return "sequence_classifier"
    if isinstance(stored.get("model"), dict) or stored.get("model_type") in LLAVA:  # Cobra's, LLaVA's and llava-hf's
        return "vision_language"
    if "model" not in stored:  # another layout
        return "translation" if stored.get("model_type") == "marian" else "language"
    return kind_of_name(str(stored["model"])) or "vision"


def model_folders(path: Path) -> list[Path]:
    """The folders of the models that a path means: a model's folder or a file in it, or the folder of a run."""
    folder = path.parent if path.is_file() else path
    if (folder / CONFIG).is_file():
        return [folder]
    return sorted(file.parent for file in folder.glob(f"models/*/{CONFIG}"))


def is_hybrid(folder: Path) -> bool:
    """Whether a folder holds one of `HYBRIDS`."""
    return (folder / CONFIG).is_file() and read_object(folder / CONFIG).get("model_type") in HYBRIDS


def find_folder(path: Path, kinds: tuple[str, ...] = (), *, choose: bool = False) -> tuple[Path, str]:
    """The folder of the trained model that a path means, and where there was a choice, how it was made.

    Args:
        path: a run's folder, a model's folder, or a file in it.
        kinds: of several models only those of these kinds count.
        choose: of several models the one with the highest accuracy or Dice on the validation part is taken, of language
            models the one with the lowest loss; never the one that is best on the test. That a run is not finished is
            noted too.
    Raises:
        ModelError: there is none, or several and nothing chooses.
    """
    found = model_folders(path)
    finished: Any = True
    if path.is_dir() and not (path / CONFIG).is_file():
        with suppress(ModelError):  # no run's folder, or its file is damaged
            finished = read_object(path / "run.json").get("finished")
    unfinished = "" if finished else f"{path} is not finished; `ssmlab run {path} --resume` goes on with it"
    if not found:
        where = f"{path}, it has no {CONFIG}" if path.exists() and not unfinished else f"{path}"
        form = "give runs/<name>, runs/<name>/models/<model> or the weights file in it"
        if (path / "fit.json").is_file() and (path / WEIGHTS).is_file():
            form = f"it is a fit of a class of your own: build the model and load_state_dict {path / WEIGHTS}"
        raise ModelError(f"no trained model in {where}; {unfinished or form}")
    if len(found) > 1 and kinds:
        of = {folder: kind_of(folder) for folder in found}
        if not set(kinds) & set(of.values()):
            raise ModelError(
                f"none of the {len(found)} models in {path} is of the kind {' or '.join(kinds)}; they are "
                f"{', '.join(sorted(set(of.values())))} models"
            )
        found = [folder for folder in found if of[folder] in kinds]
    if len(found) > 1 and not choose:
        raise ModelError(f"{path} has {len(found)} models; name one: {', '.join(map(str, found))}")
    best, why = _best(found) if len(found) > 1 else (found[0], "")
    return best, "; ".join(filter(None, (unfinished if choose else "", why)))


def _best(found: list[Path]) -> tuple[Path, str]:
    """Of several models the one with the best validation, by the first of the metrics that any of them has."""
    for metric, sign, which in WAYS:
        values = {}
        for folder in found:
            file = folder / "records.jsonl"  # none where the model has not got that far
            records = read_records(file) if file.is_file() else []
            final = [r.value for r in records if r.split == "val" and r.metric == metric and r.step is None]
            values[folder] = [sign * value for value in final if value is not None]
        if any(values.values()):
            best = max(found, key=lambda folder: max(values[folder], default=-math.inf))
            return best, f"using {best} ({which} of {len(found)} models)"
    return found[0], f"using {found[0]} (the first of {len(found)} models, of which none was validated)"


@dataclass(frozen=True, kw_only=True)
class FoundModel:
    """What a name or a path means.

    kind: of `KINDS`.
    name: of a model of the table, timm/<name>, or owner/name on the Hugging Face Hub; of a folder, what it holds, ""
        where its config.json has no name of ours.
    folder: of a trained model; None for one by name.
    note: how the folder was chosen, where there was a choice.
    """

    kind: str
    name: str
    folder: Path | None = None
    note: str = ""


def find_model(
    model: str | Path, *, runs: Path | None = None, kinds: tuple[str, ...] = (), choose: bool = False
) -> FoundModel:
    """The model that a name or a path means; nothing is built or downloaded. A path wins over a name.

    Args:
        model: a run's folder, a model's folder or a file in it, a name of the table, timm/<name>, or owner/name of a
            published model.
        runs: where runs are looked for by their names.
        kinds, choose: as for `find_folder`.
    Raises:
        ModelError: there is no such model, or several and nothing chooses.
    """
    name = str(model)
    places = [Path(model)] if runs is None else [Path(model), runs / name]
    for place in places:
        if place.exists():
            folder, note = find_folder(place, kinds, choose=choose)
            stored = str(read_object(folder / CONFIG).get("model", ""))
            return FoundModel(kind=kind_of(folder), name=stored, folder=folder, note=note)
    from ssmlab.models.catalogue import find_weights, is_repository

    row = find_weights(name)
    if row is not None and name not in MODELS and row.models:
        name = row.models[0]
    if kind := kind_of_name(name):
        return FoundModel(kind=kind, name=name)
    if is_repository(name):
        return FoundModel(kind="language", name=name)
    known = [*MODELS, *(folder.name for folder in runs.glob("*") if folder.is_dir())] if runs else list(MODELS)
    hint = did_you_mean(name, known) or "; give the folder of a run or of a model, or a name of `ssmlab models`"
    raise ModelError(f"there is no model {name!r}{hint}")


def read_object(file: Path, *keys: str) -> dict[str, Any]:
    """The object in a JSON file, with these keys.

    Raises:
        ModelError: the file is missing, no JSON, or holds something else.
    """
    try:
        found = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"{file} cannot be read ({error.strerror}); copy it again, or train again") from error
    except ValueError as error:  # no JSON, or no text
        raise ModelError(f"{file} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{file} must hold an object, got {type(found).__name__}")
    if not found.keys() >= set(keys):
        raise ModelError(f"{file} must hold an object with {', '.join(keys)}; copy it again, or train again")
    return found
