"""The models' names in timm's table, as soon as both packages are imported, whichever comes first."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder


class _AfterTimm(MetaPathFinder):
    """Lets the other finders find timm, and adds to its import that the models are registered at the end."""

    def find_spec(self, name, path=None, target=None):
        if name != "timm":
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            # the loader is timm's own, made for this import: nobody else's method changes
            spec.loader.exec_module = self._then_register(spec.loader.exec_module)  # type: ignore[method-assign]
        return spec

    def _then_register(self, exec_module):
        def run(module):
            exec_module(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            _register()

        return run


def register() -> None:
    """Register the models with timm now if it is imported, else when it will be; timm itself is not imported."""
    if "timm" in sys.modules:
        _register()
    elif not any(isinstance(finder, _AfterTimm) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterTimm())


def _register() -> None:
    from ssmlab.models.timm_entry import register

    register()
