"""Configurations as data: tables of the original's names and ours, read in both directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ssmlab.core.errors import ModelError


def read(
    where: str, values: Mapping[str, Any], table: Mapping[str, str], ignored: Iterable[str] | None = None
) -> dict[str, Any]:
    """Our fields for an original's.

    Args:
        where: what the message calls the configuration.
        values: the original's.
        table: the original's names and ours.
        ignored: the names besides these that change no output; None passes over every other one.
    Raises:
        ModelError: names that are neither in the table nor ignored; all of them are listed.
    """
    unknown = [] if ignored is None else [name for name in values if name not in table and name not in ignored]
    if unknown:
        known = ", ".join([*table, *(ignored or ())])
        raise ModelError(f"{where} of the original has no {', '.join(unknown)}; it has {known}")
    return {table[name]: value for name, value in values.items() if name in table}


def write(config: Any, table: Mapping[str, str]) -> dict[str, Any]:
    """The original's fields for ours; a value of None is left out, since the original then takes its own."""
    own = {name: getattr(config, field) for name, field in table.items()}
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in own.items() if value is not None
    }


def refuse(where: str, config: Any, fixed: Mapping[str, Any]) -> None:
    """Say what a layout cannot hold.

    Args:
        where: what the message calls the layout.
        fixed: fields that it has no name for, with the value that it stands for.
    Raises:
        ModelError: fields with another value; all of them are listed.
    """
    lost = [f"{name}={getattr(config, name)!r}" for name, value in fixed.items() if getattr(config, name) != value]
    if lost:
        raise ModelError(f'{where} cannot hold a model with {", ".join(lost)}; save it with layout="ssmlab"')
