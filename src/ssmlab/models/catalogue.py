"""Published weights by name: where authors have put them, under which licence, and what a user has agreed to.

The table is weights.toml. Nothing here reaches a network, and nothing heavy is imported; `download` fetches.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ssmlab.core.errors import ModelError
from ssmlab.core.files import write_json
from ssmlab.models.entry import TIMM

log = logging.getLogger(__name__)
TABLE = Path(__file__).with_name("weights.toml")
CLASSES = {"imagenet-1k": 1000}
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, kw_only=True)
class Licence:
    """A licence of weights; with `accept`, a user must say once that it is accepted."""

    title: str
    address: str
    accept: bool


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """A row of the table: one file, or the folder of a language model.

    models: names of this package that it is for.
    repository, file: on the Hugging Face Hub, or with `release`, the address of a release, on GitHub.
    size, sha256: as the authors state them, or "". tokenizer: a repository that has it where this one has none.
    classes: what the outputs mean, of `CLASSES`, or "" for language models.
    source: where the row was read.
    """

    models: tuple[str, ...]
    repository: str
    file: str
    licence: Licence
    source: str
    release: str = ""
    size: str = ""
    sha256: str = ""
    tokenizer: str = ""
    classes: str = ""

    @property
    def name(self) -> str:
        """What messages call it: our name, or the repository's."""
        return self.models[0] if self.models else self.repository

    @property
    def address(self) -> str:
        return self.release or hub_address(self.repository, self.file)


@cache
def catalogue() -> tuple[PublishedWeights, ...]:
    """The rows of the table."""
    table = tomllib.loads(TABLE.read_text("utf-8"))
    licences = {name: Licence(**row) for name, row in table["licence"].items()}
    return tuple(
        PublishedWeights(**row | {"models": tuple(row["models"]), "licence": licences[row["licence"]]})
        for row in table["weights"]
    )


def find_weights(name: str) -> PublishedWeights | None:
    """The row of a model by our name or by its repository's; None where the table has none.

    Of a repository with several files the first one's row is meant.
    """
    return next((row for row in catalogue() if name in row.models or name == row.repository), None)


def published(name: str | Path) -> PublishedWeights | None:
    """The row that a name in a command means; None where a file or folder of that name is there, which the log says."""
    row = find_weights(str(name))
    if row is not None and Path(name).exists():
        say_once(f"{name} is a folder or file here; it is taken, not the weights published under that name")
        return None
    return row


@cache
def say_once(message: str) -> None:
    """A notice on stderr, however often a command comes to it."""
    log.warning("%s", message)


def class_names(classes: str) -> tuple[str, ...]:
    """What the outputs of published weights mean: of ImageNet-1K the synonyms, "tench, Tinca tinca", in their order."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return tuple(info.index_to_description(i, detailed=False) for i in range(CLASSES[classes]))


def is_repository(name: str) -> bool:
    """Whether a text means `owner/name` on the Hugging Face Hub.

    `timm/<name>` is a model of timm instead, a name in runs/ is that of a run, and others are misspelt paths where
    there is a folder of the owner's name.
    """
    if find_weights(name) is not None:
        return "/" in name
    shaped = not name.startswith((TIMM, "runs/")) and _REPOSITORY.fullmatch(name) is not None
    return shaped and not Path(name).parent.is_dir()


def hub_address(repository: str, file: str) -> str:
    """The address of a file on the hub, or on the server that HF_ENDPOINT names."""
    return f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co').rstrip('/')}/{repository}/resolve/main/{file}"


def user_folder(variable: str, default: str) -> Path:
    """Our folder below one of the user's: `user_folder("XDG_CACHE_HOME", ".cache")`."""
    return Path(os.environ.get(variable) or Path.home() / default) / "ssmlab"


def hand_placed(repository: str, file: str) -> Path:
    """Where a file that was fetched by hand is looked for, before any network is."""
    return user_folder("XDG_CACHE_HOME", ".cache") / "weights" / repository / file


def check_licence(row: PublishedWeights, accept: bool = False) -> None:
    """Refuse weights whose licence must be accepted and is not; what is accepted is remembered for the user.

    Raises:
        ModelError: it is not accepted.
    """
    licence = row.licence
    if not licence.accept:
        return
    file = user_folder("XDG_CONFIG_HOME", ".config") / "licences.json"
    try:
        known = json.loads(file.read_text("utf-8"))
        accepted = known if isinstance(known, list) else []
    except (OSError, ValueError):
        accepted = []
    if licence.title in accepted:
        return
    if not accept:
        raise ModelError(
            f"the weights of {row.name} are under {licence.title}, see {licence.address}; if you accept that, say so "
            "once with --accept-licence (in Python accept_licence=True)"
        )
    write_json(file, [*accepted, licence.title])
    log.warning("%s accepted for %s; %s remembers it", licence.title, row.name, file)
