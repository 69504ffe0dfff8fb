"""The rules of the house: what stands where, how long it is, and what it may name. See docs/architecture.md."""

import ast
import fnmatch
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from repeats import REPEATS
from sources import FILES, ROOT, nodes, tree

# Modules that may hold the name of an own module as a string: the tables by which things are found.
TABLES = {"__init__.py", "tasks/table.py", "models/registry.py", "ops/_dispatch.py", "adapt/__init__.py"}
MOST_FILES, MOST_LINES, MOST_FUNCTION = 25, 400, 60


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path) for path in FILES}


def imported(path: Path) -> set[str]:
    """The own modules that a file imports, in functions too."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found & MODULES


def test_folders_are_small():
    count = Counter(path.parent for path in FILES)
    many = {name(folder): n for folder, n in count.items() if n > MOST_FILES and folder.name != "cli"}
    assert not many


def test_files_are_short():
    long = {name(path): n for path in FILES if (n := path.read_text("utf-8").count("\n")) > MOST_LINES}
    assert not long


def test_functions_fit_a_screen():
    long = {
        f"{name(path)}:{node.name}": lines
        for path in FILES
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := node.end_lineno - node.lineno + 1) > MOST_FUNCTION
        and "triton" not in path.name
    }
    assert not long


def test_no_module_is_known_by_a_string():
    """A string that names an own module is an import that no test sees."""
    hidden = []
    for path in FILES:
        if name(path) in TABLES or "mamba_ssm" in path.parts:
            continue
        for node in nodes(path):
            if isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
                hidden += [f"{name(path)}:{node.lineno}" for a in node.args if "ssmlab" in ast.unparse(a)]
    assert not hidden


def test_no_circles_inside_a_package():
    graph = {module(path): imported(path) - {module(path)} for path in FILES}
    # a package's __init__ hands names on: it is not part of a circle
    packages = {module(path) for path in FILES if path.name == "__init__.py"}
    graph = {own: others - packages for own, others in graph.items() if own not in packages}
    left = dict(graph)
    while free := [own for own, others in left.items() if not others & left.keys()]:
        for own in free:
            del left[own]
    turned = defaultdict(set)
    for own in left:
        for other in left[own] & left.keys():
            turned[other].add(own)
    while free := [own for own in left if not turned[own] & left.keys()]:
        for own in free:
            del left[own]
    assert not left, sorted(left)


def used_once() -> tuple[list[str], int]:
    """Module-level functions that are private and occur once in their file, and how many functions there are."""
    once, total = [], 0
    for path in FILES:
        functions = [n for n in tree(path).body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        total += len(functions)
        names = Counter(n.id for n in nodes(path) if isinstance(n, ast.Name))
        once += [f"{name(path)}:{f.name}" for f in functions if f.name.startswith("_") and names[f.name] == 1]
    return once, total


def test_helpers_have_more_than_one_caller():
    once, total = used_once()
    assert len(once) <= 0.15 * total, f"{len(once)} of {total}"


@pytest.mark.parametrize("pattern", REPEATS)
def test_what_repeats_another_test_is_a_test(pattern):
    file, _, test = pattern.partition("::")
    defined = {node.name for node in nodes(Path(__file__).parent / file) if isinstance(node, ast.FunctionDef)}
    own = test.partition("[[]")[0]
    assert fnmatch.filter(defined, own), f"{file} has no {own}"


@pytest.mark.parametrize("path", [p for p in FILES if p.name == "__init__.py"], ids=name)
def test_a_package_says_what_it_is(path):
    assert ast.get_docstring(tree(path))
