"""Adapting a trained model: adapters, factorised weights, freezing, and what is forgotten.

Nothing heavy is imported before one of the names below is used.
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
    "choose": "methods.dimensions",
    "load": "saving",
    "count_methods": "trying",
    "open_network": "trying",
    "try_method": "trying",
    "prepare": "preparing",
    "save": "saving",
    "add_adapter": "peft_files",
    "load_peft": "peft_files",
    "save_peft": "peft_files",
    "Distillation": "forgetting.terms",
    "EWC": "forgetting.terms",
    "Rehearsal": "forgetting.terms",
    "Remembering": "forgetting.terms",
    "fisher_diagonal": "forgetting.terms",
    "Reward": "forgetting.reward",
    "GradientNorms": "ssmlab.training.gradient_norms",
    "freeze_parameters": "ssmlab.training.gradient_norms",
    "merge_orthogonal": "methods.orthogonal",
    "tune_orthogonally": "methods.orthogonal",
    "choose_ranks": "ranks",
    "spectra": "spectrum",
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _NAMES[name]
    return getattr(import_module(module if module.startswith("ssmlab.") else f"{__name__}.{module}"), name)
