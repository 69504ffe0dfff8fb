"""Conversion maps as data: which key of an original state_dict becomes which of ours, and nothing left unsaid."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ssmlab.core.errors import ModelError


class Rule(NamedTuple):
    """One line of a map. The first rule that matches a key decides; a key that none matches keeps its name.

    pattern: regular expression that must match the whole original key.
    target: our key, with groups as `re.sub` writes them (r"\\1"); None drops the key, on purpose. Several cut the
        tensor along its first axis into as many equal parts.
    change: applied to the tensor on its way.
    alias: the key repeats another one: where both are there they must hold the same values.
    join: (i, n), the tensor is part i of n of ours along its first axis.
    """

    pattern: str
    target: str | tuple[str, ...] | None
    change: Callable[[Tensor], Tensor] | None = None
    alias: bool = False
    join: tuple[int, int] = (0, 1)


@dataclass(frozen=True, kw_only=True)
class Original:
    """How weights of an original implementation are read, and where there is a way back, written.

    licence: of its published weights.
    build: our network, with initial values, for the original's own arguments.
    rules: its names and ours.
    export, inverse: the way back, the original's arguments for a config of ours, and our names and the original's.
    """

    licence: str
    build: Callable[[dict[str, Any]], nn.Module]
    rules: Sequence[Rule] = ()
    export: Callable[[Any], dict[str, Any]] | None = None
    inverse: Sequence[Rule] = ()


def convert(state: dict[str, Tensor], rules: Sequence[Rule] = ()) -> dict[str, Tensor]:
    """Our names and layouts for an original state_dict.

    Raises:
        ModelError: two original keys become one of ours, or repeat each other with other values; all are listed.
    """
    found: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    aliases: set[str] = set()
    problems = []
    for key, value in state.items():
        matches = ((rule, re.fullmatch(rule.pattern, key)) for rule in rules)
        rule, match = next(((r, m) for r, m in matches if m), (Rule(key, key), None))
        if rule.target is None:
            continue
        names = (rule.target,) if isinstance(rule.target, str) else rule.target
        for name, piece in zip(names, value.chunk(len(names)) if len(names) > 1 else (value,), strict=True):
            target = name if match is None else match.expand(name)
            piece = piece if rule.change is None else rule.change(piece)
            if rule.alias:
                aliases.add(key)
            if rule.join[1] > 1:
                parts.setdefault(target, {})[rule.join[0]] = piece
                if len(parts[target]) == rule.join[1]:
                    found[target] = torch.cat([parts[target][i] for i in range(rule.join[1])])
                    del parts[target]
            elif target not in origin:
                origin[target] = key
                found[target] = piece
            elif not rule.alias and origin[target] not in aliases:
                problems.append(f"{origin[target]} and {key} both become {target}")
            elif found[target].shape != piece.shape or not (  # on the meta device, without values, shapes are compared
                found[target].is_meta or piece.is_meta or torch.equal(found[target], piece)
            ):
                problems.append(f"{origin[target]} and {key} must be one tensor and differ")
    problems += [f"{target} has only {len(held)} of its parts" for target, held in parts.items()]
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise ModelError(f"the conversion map is ambiguous for {len(problems)} keys:{lines}")
    return found
