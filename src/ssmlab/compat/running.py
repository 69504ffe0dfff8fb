"""Somebody else's program, run as Python would run it, with our packages under the originals' names."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

from ssmlab.compat.importing import Provider, install
from ssmlab.errors import UserError


def run(arguments: Sequence[str], *, force: bool = False) -> None:
    """Run `SCRIPT [ARGS]` or `-m MODULE [ARGS]` as `python` would.

    Args:
        force: stand in for installed packages too, see `install`.
    Raises:
        UserError: nothing to run, or no such file. What the program raises is its own.
    """
    if not arguments or (arguments[0] == "-m" and len(arguments) < 2):
        raise UserError("nothing to run; give a script, as in `ssmlab exec train.py --lr 1e-3`, or -m MODULE")
    first, *rest = arguments
    if first != "-m" and not Path(first).exists():
        raise UserError(f"there is no file {first}; give a script, or -m MODULE for an installed one")
    prepare(force=force)
    if first == "-m":
        module, *rest = rest
        sys.argv = [module, *rest]
        sys.path.insert(0, str(Path.cwd()))
        if not _is_there(module):
            raise UserError(
                f"there is no module {module} here or among the installed ones; give one that python -m runs"
            )
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *rest]
        if Path(first).is_file():  # runpy puts a folder or a zip there itself
            sys.path.insert(0, str(Path(first).resolve().parent))
        runpy.run_path(first, run_name="__main__")


def _is_there(module: str) -> bool:
    """Whether it can be found; the packages that it is in are imported, and what these lack is their own error."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            return False
        raise


def without_ours(trace: TracebackType | None) -> TracebackType | None:
    """A traceback from the program's own first frame on."""
    ours = (__name__.partition(".")[0], "runpy")
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in ours:
        trace = trace.tb_next
    return trace


def prepare(*, force: bool = False) -> list[Provider]:
    """`install`, and `torch.cuda.device` of a CPU device does nothing instead of raising."""
    _quieten_cuda_device()
    return install(force=force)


def _quieten_cuda_device() -> None:
    """Code for GPUs enters `torch.cuda.device(x.device)` before every kernel."""
    import torch

    original = torch.cuda.device
    if getattr(original, "for_any_device", False):
        return

    class device(original):  # type: ignore[misc, valid-type]
        """`torch.cuda.device`, and nothing at all for a device that is no GPU."""

        for_any_device = True

        def __init__(self, device):
            self.nothing = _is_elsewhere(device)
            if not self.nothing:
                super().__init__(device)

        def __enter__(self):
            if not self.nothing:
                super().__enter__()

        def __exit__(self, *error):
            return False if self.nothing else super().__exit__(*error)

    torch.cuda.device = device


def _is_elsewhere(device) -> bool:
    """Whether it names no GPU; `x.device.index` of a CPU tensor is None."""
    import torch

    if device is None:
        return not torch.cuda.is_available()
    return isinstance(device, (str, torch.device)) and torch.device(device).type != "cuda"
