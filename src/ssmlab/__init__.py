"""State space models that install, run and train anywhere. Functions and packages are imported when first used."""

from typing import TYPE_CHECKING

from ssmlab import _timm

if TYPE_CHECKING:
    from ssmlab.checkpoints.folder import load_model as load_model
    from ssmlab.models import create_model as create_model
    from ssmlab.models import list_models as list_models
    from ssmlab.tasks.api import evaluate as evaluate
    from ssmlab.tasks.api import fit as fit
    from ssmlab.tasks.api import generate as generate
    from ssmlab.tasks.api import predict as predict
    from ssmlab.tasks.translate.translator import translate as translate

__version__ = "0.1.0"
_FROM = {
    "create_model": "models", "list_models": "models", "load_model": "checkpoints.folder",
    "generate": "tasks.api", "fit": "tasks.api", "evaluate": "tasks.api", "predict": "tasks.api",
    "translate": "tasks.translate.translator",
}  # fmt: skip
__all__ = [  # noqa: RUF022 - functions first; names are found by __getattr__
    "create_model", "list_models", "load_model", "generate", "translate", "fit", "evaluate", "predict",
    "adapt", "checkpoints", "compat", "core", "data", "experiments", "generation", "interpret", "models", "nn", "ops",
    "profiling", "reports", "robustness", "studies", "tasks", "training",
]  # fmt: skip


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module 'ssmlab' has no attribute {name!r}")
    import importlib

    module = importlib.import_module(f"{__name__}.{_FROM.get(name, name)}")
    found = globals()[name] = getattr(module, name) if name in _FROM else module
    return found


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


_timm.register()
