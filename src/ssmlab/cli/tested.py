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
    "matplotlib": "3.11.2",
    "pydantic": "2.14.4",
    "typer": "0.29.2",
    "rich": "15.0.0",
    "tomli-w": "1.2.0",
    "tensorboard": "2.21.0",
    "peft": "0.21.2",
    "captum": "0.9.0",
    "sentencepiece": "0.2.3",
    "monai": "1.6.1",
    "nibabel": "5.4.2",
}
_FOR_USERS = ("sentencepiece", "medical")  # the extras whose packages are looked at


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
    from packaging.version import Version

    lowest, here, newest = _lowest(), platform.python_version(), NEWEST["python"]
    required = (metadata("ssmlab").get("Requires-Python") or "").removeprefix(">=") or None
    newer = Version(here).release[:2] > Version(newest).release
    python = Tested("python", required, newest, here, "newer than tested" if newer else "")
    return [python, *(_compared(name, lowest.get(name), NEWEST[name]) for name in NEWEST if name != "python")]


def _lowest() -> dict[str, str]:
    from packaging.requirements import Requirement

    found = {}
    for text in requires("ssmlab") or []:
        needed = Requirement(text)
        wanted = needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in _FOR_USERS)
        bounds = [bound.version for bound in needed.specifier if bound.operator == ">="]
        if wanted and bounds:
            found[needed.name] = bounds[0]
    return found


def _compared(name: str, lowest: str | None, newest: str) -> Tested:
    from packaging.version import Version

    try:
        installed = version(name)
    except PackageNotFoundError:
        return Tested(name, lowest, newest, None, "not installed")
    remark = ""
    if lowest is not None and Version(installed) < Version(lowest):
        remark = f"older than required; pip install -U '{name}>={lowest}'"
    elif Version(Version(installed).public) > Version(newest):  # "2.14.1+cpu" is 2.14.1
        remark = "newer than tested"
    return Tested(name, lowest, newest, installed, remark)
