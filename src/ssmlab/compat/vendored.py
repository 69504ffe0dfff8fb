"""Programs that bring a copy of mamba_ssm along: its Python keeps its names, what only a GPU runs is ours.

A copy has any name (`mamba_ssm`, `mamba_plus`, `models.vim.mamba`), its compiled modules have the originals', which the
finder lends. What remains are its kernels in Triton, TileLang and CuTe, `<copy>.ops.triton.<file>` and the like, and
names that transformers has changed.
"""

from __future__ import annotations

import importlib.util
import re
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_KERNELS = re.compile(r"(?P<copy>.+)\.ops\.(?P<file>(triton|tilelang|cute)\.[\w.]+)")
_OURS = f"{__package__}.mamba_ssm.ops"
# generate()'s results had one class for each way of decoding until transformers 4.39; mamba_ssm before 2.0 imports them
_RESULTS = {
    f"{way}{kind}Output": f"{now}{kind}Output"
    for now, ways in {
        "Generate": ("GreedySearch", "Sample", "ContrastiveSearch"), "GenerateBeam": ("BeamSearch", "BeamSample"),
    }.items()
    for way in ways
    for kind in ("DecoderOnly", "EncoderDecoder")
}  # fmt: skip


def find_kernels(fullname: str, path) -> ModuleSpec | None:
    """Our file of functions for a copy's file of kernels, where we have one and no GPU runs the copy's."""
    match = _KERNELS.fullmatch(fullname)
    if match is None or match["copy"].startswith(__package__):
        return None
    theirs = PathFinder.find_spec(fullname, path)
    if theirs is None or theirs.submodule_search_locations is not None or _runs_triton():  # a folder stays the copy's
        return None
    ours = f"{_OURS}.{match['file']}"
    try:
        if importlib.util.find_spec(ours) is None:
            return None
    except ModuleNotFoundError:  # not even the folder
        return None
    return ModuleSpec(fullname, _Lent(ours, theirs), origin=theirs.origin)


def is_lent(module: ModuleType | None) -> bool:
    """Whether a module is one of ours under a copy's name."""
    return isinstance(getattr(getattr(module, "__spec__", None), "loader", None), _Lent)


def _runs_triton() -> bool:
    import torch

    return torch.cuda.is_available()  # torch's answer, also where programs are given another


class _Lent(Loader):
    """Our functions under the copy's name; what we have no counterpart of is taken from the copy's own file."""

    def __init__(self, ours: str, theirs: ModuleSpec):
        self.ours, self.theirs = ours, theirs

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        own = import_module(self.ours)
        module.__doc__ = own.__doc__
        module.__dict__.update({k: v for k, v in vars(own).items() if not k.startswith("__") or k == "__all__"})
        copies: list[ModuleType] = []

        def missing(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            if hasattr(own, name):  # answered on demand
                return getattr(own, name)
            if not copies:
                copies.append(importlib.util.module_from_spec(self.theirs))
                self.theirs.loader.exec_module(copies[0])  # type: ignore[union-attr]
            return getattr(copies[0], name)

        module.__getattr__ = missing  # type: ignore[method-assign]


def answer_old_names(module: ModuleType) -> None:
    """Let `transformers.generation` answer to the classes' old names."""
    kind = type(module)
    if any(name in vars(kind) for name in ("ssmlab_old_names",)):
        return

    def missing(self: ModuleType, name: str) -> Any:
        if name in _RESULTS:
            return getattr(import_module("transformers.generation.utils"), _RESULTS[name])
        found = getattr(kind, "__getattr__", None)
        if found is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return found(self, name)

    module.__class__ = type(kind.__name__, (kind,), {"__getattr__": missing, "ssmlab_old_names": True})
