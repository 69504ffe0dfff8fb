"""Adapting a trained model: adapters, factorised weights, freezing, and what is forgotten.

Nothing heavy is imported before one of the names below is asked for.
"""

from importlib import import_module
from typing import Any

_NAMES = {
    "METHODS": "presets",
    "Adapted": "applying",
    "Spec": "applying",
    "apply": "applying",
    "base_state": "applying",
    "disabled": "applying",
    "merge": "applying",
    "Report": "checking",
    "check": "checking",
    "choose": "dimensions",
    "load": "saving",
    "prepare": "preparing",
    "save": "saving",
    "Distillation": "forgetting",
    "EWC": "forgetting",
    "Rehearsal": "forgetting",
    "Remembering": "forgetting",
    "fisher_diagonal": "forgetting",
    "Reward": "reward",
    "GradientNorms": "freeze",
    "freeze_parameters": "freeze",
    "merge_orthogonal": "orthogonal",
    "tune_orthogonally": "orthogonal",
    "choose_ranks": "ranks",
    "spectra": "spectrum",
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
