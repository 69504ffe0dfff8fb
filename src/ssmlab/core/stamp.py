"""The circumstances of a measurement: commit, machine, versions, time."""

import platform
import subprocess
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import ssmlab
from ssmlab.core.formats import plural
from ssmlab.core.record import Record


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What every record of a run shares."""

    run: str
    task: str
    command: str | None
    commit: str | None
    machine: str
    versions: str

    def on(self, records: list[Record], **fields) -> list[Record]:
        """The records with their circumstances, and with `fields` (model, seed, split) filled in."""
        shared = {**vars(self), "time": now(), **fields}
        return [replace(record, **shared) for record in records]


def now() -> str:
    """The time in UTC to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def commit() -> str | None:
    """The commit of this source tree, with "+" where it was changed since; None for an installed package."""
    root = Path(ssmlab.__file__).resolve().parents[2]
    if not (root / ".git").exists():  # never the commit of whatever repository an environment happens to lie in
        return None

    def git(*arguments):
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        return (head + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")) if head else None
    except OSError:  # no git here
        return None


def machine(device: str = "cpu") -> str:
    """Processor, threads and memory in words, and the GPU where the run uses one."""
    import os

    import torch

    words = [f"{processor()}, {plural(torch.get_num_threads(), 'thread')}"]
    with suppress(AttributeError, ValueError, OSError):  # systems that do not say it
        words.append(f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB")
    if device == "cuda":
        words.insert(0, torch.cuda.get_device_name())
    elif device == "mps":
        words.insert(0, "Apple GPU")
    return ", ".join([*words, f"{platform.system()} {platform.machine()}"])


def processor() -> str:
    """The model name of the CPU."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions() -> str:
    """Versions of what computes, "ssmlab 0.1.0, python 3.11.2, torch 2.8.0, ..."."""
    named = [f"ssmlab {ssmlab.__version__}", f"python {platform.python_version()}"]
    for package in ("torch", "timm", "transformers", "numpy"):
        try:
            named.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(named)
