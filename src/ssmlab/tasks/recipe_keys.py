"""Every key of a recipe: meaning, range, default, and the recipe's own value. torch is not imported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ssmlab.tasks.recipe import load_recipe

BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
LENGTHS = {"min_length": "at least {} of them", "max_length": "at most {} of them", "multiple_of": "a multiple of {}"}


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key.

    name: as an override writes it, such as "training.lr"; of models "models.*.name", which is models.0.name for the
        first.
    kind: of its values, with the range: "float, above 0".
    values: the recipe's own, one, or one for every model.
    default: None where the recipe must say it.
    meaning: in words, "" where nobody wrote them.
    """

    name: str
    kind: str
    values: list[Any]
    default: Any
    required: bool
    meaning: str


def recipe_keys(source: str | Path) -> list[Key]:
    """The keys of a recipe, in the order of its tables.

    Args:
        source: a packaged name, a TOML file, or a run's folder.
    Raises:
        RecipeError: there is no such recipe, or it is none.
    """
    return list(_keys([load_recipe(source, need_path=False)], ""))


def _keys(tables: list[BaseModel], prefix: str) -> Iterator[Key]:
    """The keys of one table, or of the tables of several models."""
    kinds = {type(table): None for table in tables}
    texts: dict[str, str] = {}  # a class that narrows a field of its base need not repeat what it means
    for base in (base for kind in kinds for base in kind.__mro__ if issubclass(base, BaseModel)):
        for name, field in base.model_fields.items():
            texts[name] = texts.get(name) or field.description or ""
    for name, field in {name: field for kind in kinds for name, field in kind.model_fields.items()}.items():
        values = [getattr(table, name) for table in tables if name in type(table).model_fields]
        inside = [item for value in values for item in (value if isinstance(value, list) else [value])]
        if inside and all(isinstance(item, BaseModel) for item in inside):
            yield from _keys(inside, f"{prefix}{name}.{'*.' if isinstance(values[0], list) else ''}")
            continue
        yield Key(
            name=prefix + name, kind=describe_kind(field), values=values, required=field.is_required(),
            default=None if field.is_required() else field.get_default(call_default_factory=True),
            meaning=" ".join(texts[name].split()),
        )  # fmt: skip


def describe_kind(field: FieldInfo) -> str:
    """What a field may be, in words: "int, at least 1", "adam | adamw"."""
    parts = [_kind(field.annotation)]
    for each in field.metadata:
        parts += [f"{word} {getattr(each, name)}" for name, word in BOUNDS.items() if hasattr(each, name)]
        parts += [word.format(getattr(each, name)) for name, word in LENGTHS.items() if hasattr(each, name)]
    return ", ".join(parts)


def _kind(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " or ".join(map(_kind, arguments))
    if origin is Annotated:
        return _kind(arguments[0])
    if origin is list:
        return f"list of {_kind(arguments[0])}"
    if origin in (dict, tuple):
        return "table" if origin is dict else f"[{', '.join(map(_kind, arguments))}]"
    names = {str: "text", int: "whole number", float: "number", bool: "true | false", Any: "any"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))
