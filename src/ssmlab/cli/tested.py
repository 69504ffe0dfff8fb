"""Which versions of the dependencies the tests pass with: from pyproject.toml's lower bound to `NEWEST`."""

import platform
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import NamedTuple

# The newest versions that the whole suite has passed with; with Python 3.12 and 3.13, and numpy 2.5 there, the tests of
# `make test-lowest` have. The lowest versions are in pyproject.toml alone.
NEWEST = {
    "python": "3.13",
    "torch": "2.14.1",
    "numpy": "2.5.5",
    "pillow": "13.0.0",
    "safetensors": "0.8.0",
    "timm": "1.0.31",
    "torchvision": "0.29.1",
    "transformers": "5.24.0",
    "huggingface_hub": "2.4",
    "tokenizers": "0.23.3",
    "accelerate": "1.15.0",
    "scikit-learn": "1.9.1",
    "scipy": "1.17.1",
    "matplotlib": "3.11.2",
    "pydantic": "2.14.4",
    "typer": "0.29.2",
    "rich": "15.0.0",
    "tomli-w": "1.2.0",
    "tensorboard": "2.21.0",
    "peft": "0.21.2",
    "captum": "0.9.0",
    "sentencepiece": "0.2.3",
    "sacrebleu": "2.6.0",
    "sacremoses": "0.2.0",
    "nibabel": "5.4.2",
    "pydicom": "3.0.2",
    "optuna": "5.0.0",
    "openslide-python": "1.4.7",
    "openslide-bin": "4.0.1.2",
}
_FOR_USERS = ("sentencepiece", "translation", "medical", "slides", "sweep")  # the extras whose packages are looked at


class Tested(NamedTuple):
    """A dependency's range, and what is here. `remark`: how it lies outside the range, or "".

    lowest: None where the installation does not say what it requires.
    installed: None where the package is missing.
    """

    name: str
    lowest: str | None
    newest: str
    installed: str | None
    remark: str


def tested() -> list[Tested]:
    """Python, and every dependency of users, those of the extras too."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    here, newest = platform.python_version(), NEWEST["python"]
    try:
        known, needs = metadata("ssmlab"), requires("ssmlab") or []
    except PackageNotFoundError:  # run from its sources, without an installation
        known, needs = None, []
    required = known["Requires-Python"].removeprefix(">=") if known and "Requires-Python" in known else None
    newer = Version(here).release[:2] > Version(newest).release
    found = [Tested("python", required, newest, here, "newer than tested" if newer else "")]
    bounds = {}
    for text in needs:
        needed = Requirement(text)
        wanted = needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in _FOR_USERS)
        least = [bound.version for bound in needed.specifier if bound.operator == ">="]
        if wanted and least:
            bounds[needed.name] = least[0]
    for name, newest in NEWEST.items():
        if name == "python":
            continue
        lowest = bounds.get(name)
        try:
            installed = version(name)
        except PackageNotFoundError:
            found.append(Tested(name, lowest, newest, None, "not installed"))
            continue
        remark = ""
        if lowest is not None and Version(installed) < Version(lowest):
            remark = f"older than required; pip install -U '{name}>={lowest}'"
        elif Version(Version(installed).public) > Version(newest):  # "2.14.1+cpu" is 2.14.1
            remark = "newer than tested"
        found.append(Tested(name, lowest, newest, installed, remark))
    return found
