"""State space models that install, run and train anywhere. Submodules are imported when they are first used."""

from importlib import import_module

from ssmlab import _timm

__version__ = "0.1.0"
_SUBMODULES = ("ops", "nn", "models", "data", "tasks", "training", "profiling", "reports")


def __getattr__(name: str):
    if name in _SUBMODULES:
        return import_module(f"ssmlab.{name}")
    raise AttributeError(f"module 'ssmlab' has no attribute {name!r}")


def __dir__():
    return [*globals(), *_SUBMODULES]


_timm.register()
