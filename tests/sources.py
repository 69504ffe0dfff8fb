"""The package's source files and their syntax trees, parsed once for every test that reads them."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent / "src" / "ssmlab"
FILES = sorted(ROOT.rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def nodes(path: Path) -> list[ast.AST]:
    """All nodes of it."""
    return list(ast.walk(tree(path)))
