"""What is compared: trained models, and networks by name with random weights or with those of a file."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ssmlab.checkpoints.find import SEQUENCES, model_folders, read_object
from ssmlab.checkpoints.find import kind_of as kind_in
from ssmlab.core.errors import ModelError, UserError
from ssmlab.core.text import did_you_mean
from ssmlab.models.entry import TIMM
from ssmlab.models.registry import describe, kind_of, list_models


@dataclass(frozen=True, kw_only=True)
class ModelRef:
    """One model that a command names.

    Args:
        label: its name in the records, unique. title: what people call it.
        name: in the table of models, or timm/<name>.
        folder: of a trained model, with the preprocessing in `preprocess`; None for a network by name.
        weights: a file for a network by name; None leaves its weights random.
        others: folders of the same model trained with other seeds.
    """

    label: str
    title: str
    name: str
    folder: Path | None = None
    preprocess: dict | None = None
    weights: Path | None = None
    others: tuple[Path, ...] = ()

    @property
    def several(self) -> bool:
        """Whether it was trained to give an image several labels."""
        return bool((self.preprocess or {}).get("several"))

    @property
    def state(self) -> str:
        """Where its weights come from, in words."""
        if self.folder is not None:
            more = f", mean of {1 + len(self.others)} seeds" if self.others else ""
            return f"trained, {self.folder}{more}"
        return "random" if self.weights is None else str(self.weights)

    @property
    def digest(self) -> str:
        """Of the file of weights, or of those of an ensemble's members."""
        folder = self.folder or Path()
        members = read_object(folder / "config.json").get("members", ()) if self.folder else ()
        files = [folder / name / "model.safetensors" for name in members]
        digests = []
        for file in files or [self.weights or folder / "model.safetensors"]:
            with open(file, "rb") as content:
                digests.append(hashlib.file_digest(content, "sha256").hexdigest())
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def find_model_refs(models: Sequence[str], weights: Sequence[str] = (), runs: Path = Path("runs")) -> list[ModelRef]:
    """The models that a command names. Nothing is built.

    Args:
        models: each a run's folder (all its models), a trained model's folder or its weights file, the name of a run
            under `runs`, a name of the table, or timm/<name>.
        weights: files for networks by name: FILE where there is one of them, else NAME=FILE.
    Raises:
        ModelError: models that there are not, all of them listed. UserError: one is named twice, or a file belongs to
            no network.
    """
    found: list[ModelRef] = []
    problems = []
    for model in models:
        try:
            found += _find(model, runs)
        except ModelError as error:
            problems.append(str(error))
    if problems:
        many = f"{len(problems)} of {len(models)} models cannot be opened:"
        raise ModelError(problems[0] if len(problems) == 1 else "\n  ".join([many, *problems]))
    labels = [ref.label for ref in found]
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise UserError(f"{twice[0]} is there twice; name every model once")
    titles = [ref.title for ref in found]
    found = [s if titles.count(s.title) == 1 else replace(s, title=s.label) for s in found]
    files: dict[str, Path] = {}
    named = [ref.label for ref in found if ref.folder is None]
    for text in weights:
        name, equals, file = text.partition("=")
        if not (equals and name in named):
            if len(named) != 1 or (equals and not Path(text).exists()):
                hint = ", ".join(f"--weights {n}=FILE" for n in named) or "a trained model has its own"
                raise UserError(f"--weights {text}: which model are these weights of? Give {hint}")
            name, file = named[0], text
        path = Path(file)
        path = path / "model.safetensors" if path.is_dir() else path
        if not path.is_file():
            raise UserError(f"--weights {text}: there is no file {path}")
        files[name] = path
    return [replace(s, weights=files[s.label]) if s.label in files else s for s in found]


def _find(model: str, runs: Path) -> list[ModelRef]:
    path = Path(model)
    if model.startswith(TIMM) and not path.exists():
        from ssmlab.models.vision.backbones import check_timm

        check_timm(model.removeprefix(TIMM))  # before anything is built, which takes long
        return [ModelRef(label=model, title=describe(model), name=model)]
    if kind_of(model) == "vision" and not path.exists():
        return [ModelRef(label=model, title=describe(model), name=model)]
    if kind_of(model) == "language":
        raise ModelError(f"{model} is a language model, compare takes vision models; ssmlab models {model} shows it")
    place = next((p for p in (path, runs / model) if p.exists()), None)
    if place is None:
        known = [*list_models("vision"), *(folder.name for folder in runs.glob("*") if folder.is_dir())]
        hint = did_you_mean(model, known) or "; give a run's folder, a trained model's, a name of `ssmlab models`"
        raise ModelError(f"there is no model {model!r}{hint}")
    inside, found = model_folders(place), []
    if not inside:
        hint = "a file of weights needs a name: NAME --weights FILE" if place.is_file() else "train one first"
        raise ModelError(f"no trained model in {model}; {hint}")
    for folder in inside:
        if kind_in(folder) in SEQUENCES:
            raise ModelError(f"{folder} is a model of texts or other sequences; this command takes models of images")
        name, preprocess = read_object(folder / "config.json")["model"], read_object(folder / "preprocess.json")
        missing = [key for key in ("image_size", "mean", "std", "classes") if key not in preprocess]
        if missing:
            raise ModelError(f"{folder / 'preprocess.json'} lacks {', '.join(missing)}; train the model again")
        folder = folder.resolve() if str(folder) == "." else folder
        in_run, title = folder.parent.name == "models", describe(name, "vision")
        if members := read_object(folder / "config.json").get("members"):
            title = f"{title}, ensemble of {len(members)}"
        label = f"{folder.parent.parent.resolve().name}/{folder.name}" if in_run else str(folder)
        found.append(ModelRef(label=label, title=title, name=name, folder=folder, preprocess=preprocess))
    return found
