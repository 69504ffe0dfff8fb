"""The finder that lends our packages their originals' names, and who answers to which name at present."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NamedTuple

from ssmlab.compat import after_import, forks, vendored

log = logging.getLogger(__name__)

# What code that was written for the original packages imports; after the first two, compiled modules.
PACKAGES = (
    "mamba_ssm", "causal_conv1d", "causal_conv1d_cuda", "selective_scan_cuda", "selective_scan_cuda_core",
    "selective_scan_cuda_oflex",
)  # fmt: skip
TRANSFORMERS = (5, 23)  # the first that looks for the packages by name, on any device
# Its models that do so
ASKING_MODELS = (
    "mamba", "mamba2", "falcon_mamba", "jamba", "zamba", "zamba2", "bamba", "falcon_h1", "granitemoehybrid",
    "nemotron_h",
)  # fmt: skip


class Provider(NamedTuple):
    """Who answers to `import name`: "ssmlab", "installed" (a real installation), or "nobody"."""

    name: str
    provider: str
    detail: str


class _Alias(Loader):
    """Hands over one of our modules under its original's name."""

    def __init__(self, own: str):
        self.own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self.own)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the import system has put the alias there


class _Finder(MetaPathFinder):
    """First in line, for the sub-modules of our packages; a package itself is left to a real installation."""

    force = False

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        top, _, inside = fullname.partition(".")
        if inside and not (top in PACKAGES and _is_ours(sys.modules.get(top))):
            return vendored.find_kernels(fullname, path)
        if top not in PACKAGES:
            return None
        if not inside and not self.force and _installed(top) is not None:
            return None
        own = f"{__package__}.{fullname}"
        try:
            found = importlib.util.find_spec(own)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise ModuleNotFoundError(
                f"{fullname} has no counterpart in ssmlab {_version('ssmlab')}, which stands in for {top} here "
                f"(ssmlab.compat); if it belongs to a fork, {forks.ADVICE}", name=fullname,
            )  # fmt: skip
        return ModuleSpec(fullname, _Alias(own), is_package=found.submodule_search_locations is not None)


_FINDER = _Finder()


def _is_ours(module: ModuleType | None) -> bool:
    return module is not None and module.__name__.startswith(f"{__package__}.")


def _installed(name: str) -> ModuleSpec | None:
    """The real package, as the other finders see it."""
    for finder in sys.meta_path:
        if finder is not _FINDER and hasattr(finder, "find_spec"):
            spec = finder.find_spec(name, None)
            if spec is not None:
                return spec
    return None


def install(*, force: bool = False, linear: bool = True, quiet: bool = False) -> list[Provider]:
    """Let `import mamba_ssm`, `import causal_conv1d` and VMamba's compiled names find our operators.

    Call it before the code that imports them: a model file of transformers asks when it is first imported.

    Args:
        linear: also let `torch.nn.Linear` take our products on the CPU (`ssmlab.ops.linear`): half to two thirds of the
            time of decoding is spent there, and torch's product takes two to five times as long.
        force: also where the real package is installed; otherwise that one keeps its name, and a warning says so where
            it cannot run on this machine.
        quiet: do not say on standard error, once, which names are lent and what is replaced.
    Returns:
        Who answers to each name from now on.
    """
    first = _FINDER not in sys.meta_path
    if first:
        sys.meta_path.insert(0, _FINDER)
    _FINDER.force = force
    for name in ("transformers.generation", "transformers.generation.utils"):
        after_import.after(name, vendored.answer_old_names)
    if linear:
        import_module(f"{__package__}.linear").install()
    if force:
        _forget(own=False)
    found = providers()
    for name, provider, detail in found:
        if provider == "installed":
            log.warning("%s: the installed one (%s) keeps its name; install(force=True) replaces it", name, detail)
    if first and not quiet:
        lent = ", ".join(name for name, provider, _ in found if provider == "ssmlab")
        products = "; torch.nn.Linear takes its products on the CPU (linear=False leaves it)" if linear else ""
        sys.stderr.write(f"ssmlab.compat lends {lent}{products}; ssmlab.compat.uninstall() takes all of it back\n")
    # What transformers does with these names depends on its version, and on what of it was imported before
    version = _version("transformers")
    numbers = tuple(int(part) for part in (version or "").split(".")[:2] if part.isdigit())
    loaded = [m.split(".")[2] for m in sys.modules if m.startswith("transformers.models.") and ".modeling_" in m]
    slow = sorted(name for name in loaded if name in ASKING_MODELS)
    if version is not None and numbers < TRANSFORMERS:
        log.warning(
            "transformers %s does not look for these kernels on a CPU, its state space models stay on their slow path; "
            "%d.%d or later does", version, *TRANSFORMERS,
        )  # fmt: skip
    elif version is not None and slow:
        log.warning(
            "transformers' %s was imported before install() and stays on its slow path; call install() first",
            ", ".join(slow),
        )
    return found


def uninstall() -> None:
    """Take the names back; modules that were imported meanwhile stay with those who hold them."""
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)
    after_import.forget()
    import_module(f"{__package__}.linear").uninstall()
    _forget(own=True)
    for name in [n for n, module in sys.modules.items() if vendored.is_lent(module)]:
        del sys.modules[name]


def providers() -> list[Provider]:
    """Who answers to each of `PACKAGES` now."""
    found = []
    for name in PACKAGES:
        real, module, version = _installed(name), sys.modules.get(name), _version(name.replace("_", "-"))
        if module is not None and not _is_ours(module):
            found.append(Provider(name, "installed", getattr(module, "__file__", None) or "a module without a file"))
        elif module is not None or (_FINDER in sys.meta_path and (real is None or _FINDER.force)):
            found.append(Provider(name, "ssmlab", f"ssmlab {_version('ssmlab')}"))
        elif real is None:
            found.append(Provider(name, "nobody", "ssmlab.compat.install() or `ssmlab exec SCRIPT` provides it"))
        else:
            detail = f"{version}, {real.origin}" if version else real.origin or ""
            found.append(Provider(name, "installed", detail))
    return found


def _forget(*, own: bool) -> None:
    """Drop the modules of these names from `sys.modules`: ours, or those of a real installation."""
    for name in list(sys.modules):
        if name.partition(".")[0] in PACKAGES and _is_ours(sys.modules[name]) == own:
            del sys.modules[name]


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
