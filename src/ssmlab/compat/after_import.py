"""Functions that are called when a module has been imported, by whomever, or at once where it is there already."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Finder(MetaPathFinder):
    """Finds what the other finders find, and adds the call to the loader's work."""

    def __init__(self):
        self.waiting: dict[str, Callable[[ModuleType], None]] = {}
        self.searching: set[str] = set()

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        if fullname not in self.waiting or fullname in self.searching:
            return None
        self.searching.add(fullname)
        try:
            found = (f.find_spec(fullname, path, target) for f in sys.meta_path if hasattr(f, "find_spec"))
            spec = next((spec for spec in found if spec is not None), None)
        finally:
            self.searching.discard(fullname)
        if spec is not None and spec.loader is not None:
            self._extend(spec)
        return spec

    def _extend(self, spec: ModuleSpec) -> None:
        loader = spec.loader
        execute = loader.exec_module  # type: ignore[union-attr]

        def exec_module(module: ModuleType) -> None:
            execute(module)
            call = self.waiting.get(spec.name)
            if call is not None:  # forgotten meanwhile
                call(sys.modules.get(spec.name, module))

        loader.exec_module = exec_module  # type: ignore[union-attr, method-assign]


_FINDER = _Finder()


def after(name: str, call: Callable[[ModuleType], None]) -> None:
    """Call `call(module)` once `name` is imported."""
    if name in sys.modules:
        call(sys.modules[name])
        return
    _FINDER.waiting[name] = call
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


def forget() -> None:
    """Drop all registered calls."""
    _FINDER.waiting.clear()
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)
