"""Conversion maps as data: which key of an original state_dict becomes which of ours, and nothing left unsaid."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from ssmlab.errors import ModelError


class Rule(NamedTuple):
    """One line of a map. The first rule that matches a key decides; a key that none matches keeps its name.

    pattern: regular expression that must match the whole original key.
    target: our key, with groups as `re.sub` writes them (r"\\1"); None drops the key, on purpose.
    change: applied to the tensor on its way.
    """

    pattern: str
    target: str | None
    change: Callable[[Tensor], Tensor] | None = None


def convert(state: dict[str, Tensor], rules: Sequence[Rule] = ()) -> dict[str, Tensor]:
    """Our names and layouts for an original state_dict.

    Raises:
        ModelError: two original keys become one of ours; all of them are listed.
    """
    found: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    problems = []
    for key, value in state.items():
        target, change = _translated(key, rules)
        if target is None:
            continue
        if target in origin:
            problems.append(f"{origin[target]} and {key} both become {target}")
            continue
        origin[target] = key
        found[target] = value if change is None else change(value)
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise ModelError(f"the conversion map is ambiguous for {len(problems)} keys:{lines}")
    return found


def _translated(key: str, rules: Sequence[Rule]) -> tuple[str | None, Callable[[Tensor], Tensor] | None]:
    for rule in rules:
        match = re.fullmatch(rule.pattern, key)
        if match:
            return None if rule.target is None else match.expand(rule.target), rule.change
    return key, None
