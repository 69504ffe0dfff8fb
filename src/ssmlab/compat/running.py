"""Somebody else's program, run as Python would run it, with our packages under the originals' names."""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

from ssmlab.compat import after_import, forks
from ssmlab.compat.importing import Provider, install
from ssmlab.core.errors import UserError

DEVICES = ("cpu", "cuda")
AUTOCAST = ("float32", "bfloat16")
_SETTINGS = "SSMLAB_EXEC"  # for child processes


def run(arguments: Sequence[str], *, force: bool = False, device: str | None = None, autocast: str = "float32") -> None:
    """Run `SCRIPT [ARGS]` or `-m MODULE [ARGS]` as `python` would.

    Args:
        force, device, autocast: see `prepare`.
    Raises:
        UserError: nothing to run, or no such file. What the program raises is its own.
    """
    if not arguments or (arguments[0] == "-m" and len(arguments) < 2):
        raise UserError("nothing to run; give a script, as in `ssmlab exec train.py --lr 1e-3`, or -m MODULE")
    first, *rest = arguments
    if first != "-m" and not Path(first).exists():
        raise UserError(f"there is no file {first}; give a script, or -m MODULE for an installed one")
    prepare(force=force, device=device, autocast=autocast)
    try:
        if first == "-m":
            module, *rest = rest
            sys.argv = [module, *rest]
            sys.path.insert(0, str(Path.cwd()))
            try:
                there = find_spec(module) is not None
            except ModuleNotFoundError as error:
                # the packages that it is in are imported, and what these lack is their own error
                if not error.name or not f"{module}.".startswith(f"{error.name}."):
                    raise
                there = False
            if not there:
                raise UserError(
                    f"there is no module {module} here or among the installed ones; give one that python -m runs"
                )
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            sys.argv = [first, *rest]
            if Path(first).is_file():  # runpy puts a folder or a zip there itself
                sys.path.insert(0, str(Path(first).resolve().parent))
            runpy.run_path(first, run_name="__main__")
    except Exception as error:
        advice = forks.explain(error)
        if advice is not None:
            error.add_note(advice)
        raise


def without_ours(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without our frames at its top: it begins with the program's own."""
    ours = (__name__.partition(".")[0], "runpy")
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in ours:
        trace = trace.tb_next
    return trace


def prepare(*, force: bool = False, device: str | None = None, autocast: str = "float32") -> list[Provider]:
    """`install`, for this process and for the Python processes that it starts.

    Args:
        force: stand in for installed packages too.
        device: "cpu" reads every CUDA device as the CPU (`cuda_as_cpu`), "cuda" leaves devices alone; None is "cpu" on
            a machine without a GPU.
        autocast: see `cuda_as_cpu.install`.
    """
    for name, value, choices in (("device", device, (None, *DEVICES)), ("autocast", autocast, AUTOCAST)):
        if value not in choices:
            expected = " or ".join(choice for choice in choices if choice)
            raise UserError(f"--{name} must be {expected}, got {value!r}")
    settings = {"force": force, "device": device, "autocast": autocast}
    os.environ[_SETTINGS] = json.dumps(settings)
    folder = str(Path(__file__).parent / "_children")  # has a sitecustomize.py
    before = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != folder]
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, *before])
    found = install(force=force, linear=False, quiet=True)
    after_import.after("torch", lambda torch: _prepare_torch(device, autocast))
    return found


def prepare_child() -> None:
    """Repeat here what `prepare` did in the parent process."""
    prepare(**json.loads(os.environ[_SETTINGS]))


def _prepare_torch(device: str | None, autocast: str) -> None:
    import torch

    from ssmlab.compat import cuda_as_cpu, linear

    linear.install()
    if device == "cpu" or (device is None and not torch.cuda.is_available()):
        cuda_as_cpu.install(autocast)
        return
    # Code for GPUs enters `torch.cuda.device(x.device)` before every kernel
    original = torch.cuda.device
    if getattr(original, "for_any_device", False):
        return

    class device(original):  # type: ignore[misc, valid-type]
        """`torch.cuda.device`, and nothing at all for a device that is no GPU."""

        for_any_device = True

        def __init__(self, device):
            if device is None:  # `x.device.index` of a CPU tensor
                self.nothing = not torch.cuda.is_available()
            else:
                self.nothing = isinstance(device, (str, torch.device)) and torch.device(device).type != "cuda"
            if not self.nothing:
                super().__init__(device)

        def __enter__(self):
            if not self.nothing:
                super().__enter__()

        def __exit__(self, *error):
            return False if self.nothing else super().__exit__(*error)

    torch.cuda.device = device
