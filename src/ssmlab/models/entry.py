"""What the table of models is made of. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

KINDS = ("vision", "language", "segmentation", "translation", "vision_language")
FOLDERS = {kind: kind for kind in KINDS} | {"translation": "seq2seq"}  # under `ssmlab.models`
TIMM = "timm/"  # any name of timm after it is a vision model too


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A model of the table: its name, family, kind, module under `ssmlab.models` and title."""

    name: str
    family: str
    kind: str
    module: str
    title: str


@dataclass(frozen=True)
class Family:
    """A line of the table.

    name: the family. kind: of `KINDS`; `FOLDERS` has the folder of its file.
    titles: what each of its models is, by name; the file's `CONFIGS` has the same names.
    file: its module in that folder; the family's name if not given.
    originals: implementations whose weights it reads, each with the module in that folder that has it in `ORIGINALS`.
    """

    name: str
    kind: str
    titles: Mapping[str, str]
    file: str = ""
    originals: Mapping[str, str] = field(default_factory=dict)

    def entries(self) -> dict[str, ModelEntry]:
        """Its models."""
        module = f"{FOLDERS[self.kind]}.{self.file or self.name}"
        return {
            name: ModelEntry(name=name, family=self.name, kind=self.kind, module=module, title=title)
            for name, title in self.titles.items()
        }


class Preset(NamedTuple):
    """What a family's CONFIGS table holds for a name: the network, its config, and the values that differ from it."""

    network: Any
    config: Any
    values: dict[str, Any]
