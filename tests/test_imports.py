"""Imports point down, and heavy libraries are loaded only by what needs them."""

import ast
import subprocess
import sys
from pathlib import Path

from sources import FILES, ROOT, nodes

# Lower floors first; a module may import its own floor's package and any below.
FLOORS = [
    ("core",), ("ops",), ("nn",), ("generation",), ("models",), ("_timm",), ("checkpoints",), ("data",), ("reports",),
    ("profiling",), ("training",), ("adapt",), ("tasks",), ("interpret", "robustness"), ("studies",), ("experiments",),
    ("compat",), ("cli",), ("__main__",),
]  # fmt: skip
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names}


def imported(path: Path):
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ssmlab."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.module == "ssmlab":
            yield from (alias.name for alias in node.names if alias.name in FLOOR)
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("ssmlab."))


MODULES = [p for p in FILES if p != ROOT / "__init__.py"]


def test_imports_point_down():
    upward = []
    for path in MODULES:
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        assert own in FLOOR, f"{own} has no floor; say in this test where it stands"
        names = [name for name in imported(path) if name != own and FLOOR.get(name, 99) >= FLOOR[own]]
        upward += [f"{path.relative_to(ROOT)} must not import {name}" for name in names]
    assert not upward


def loaded_after(*statements: str) -> list[set[str]]:
    """The modules that are there after each of these statements, in one fresh interpreter."""
    code = "import sys\n" + "\n".join(f"{statement}\nprint(' '.join(sys.modules))" for statement in statements)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [set(line.split()) for line in out.stdout.splitlines()]


def test_import_of_the_package_is_light():
    package, models, data, floors = loaded_after(
        "import ssmlab",
        "import ssmlab.models, ssmlab.cli.main",
        "import ssmlab.data, ssmlab.reports",
        "import ssmlab.nn, ssmlab.ops",
    )
    assert not {"torch", "timm", "transformers", "numpy"} & package
    heavy = {"torch", "huggingface_hub", "httpx", "httpx2", "ssmlab.models.catalogue", "ssmlab.models.download"}
    assert not heavy & models
    assert "torch" not in data
    assert not {"timm", "transformers", "matplotlib"} & floors
