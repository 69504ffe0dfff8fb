"""What `import ssmlab` gives: frozen names, found lazily, shown by tab completion, and nothing changed elsewhere."""

import subprocess
import sys
from pathlib import Path

import pytest

import ssmlab

FUNCTIONS = {"create_model", "list_models", "load_model", "generate", "translate", "fit", "evaluate", "predict"}
PACKAGES = {
    "adapt", "checkpoints", "compat", "core", "data", "experiments", "generation", "interpret", "models", "nn", "ops",
    "profiling", "reports", "robustness", "studies", "tasks", "training",
}  # fmt: skip
ROOT = Path(ssmlab.__file__).parent


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_names_are_frozen():
    assert set(ssmlab.__all__) == FUNCTIONS | PACKAGES
    assert len(ssmlab.__all__) == len(set(ssmlab.__all__))
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"cli"} == PACKAGES


@pytest.mark.slow
def test_tab_completion_shows_them_and_nothing_else():
    code = "import ssmlab; print(*dir(ssmlab)); ssmlab.fit; print(*dir(ssmlab))"
    before, after = python(code).splitlines()
    assert set(before.split()) == FUNCTIONS | PACKAGES | {"__version__"} and before == after


@pytest.mark.parametrize("name", sorted(FUNCTIONS | PACKAGES))
def test_every_name_is_there_and_documented(name):
    assert getattr(ssmlab, name).__doc__


def test_no_other_name():
    with pytest.raises(AttributeError, match="no attribute 'import_module'"):
        _ = ssmlab.import_module


def test_types_are_announced():
    assert (ROOT / "py.typed").is_file()


def test_the_import_is_fast_and_changes_nothing_but_the_finder_for_timm():
    code = """
import sys, time
before = set(sys.modules), list(sys.path_hooks), list(sys.meta_path), sys.excepthook
start = time.perf_counter()
import ssmlab
seconds = time.perf_counter() - start
new = [finder for finder in sys.meta_path if finder not in before[2]]
assert before[1:2] == (list(sys.path_hooks),) and before[3] is sys.excepthook
print(seconds < 0.3, "torch" in sys.modules, len(new))
"""
    assert python(code) == "True False 1"
