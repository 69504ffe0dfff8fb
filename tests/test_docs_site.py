"""The site's navigation has every page of docs, its reference names modules that are there, and make knows it."""

import re
from importlib.util import find_spec
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
NAV = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]


def pages(entry) -> list[str]:
    """The files of an entry of the navigation."""
    if isinstance(entry, str):
        return [entry]
    return [page for inside in (entry if isinstance(entry, list) else entry.values()) for page in pages(inside)]


def test_every_page_is_in_the_navigation_once():
    docs = ROOT / "docs"
    there = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    listed = pages(NAV)
    assert len(set(listed)) == len(listed)
    assert set(listed) - {"index.md"} == there, "index.md is README.md; list every other page in mkdocs.yml"


def test_the_reference_names_what_is_there():
    named = [
        name
        for page in (ROOT / "docs" / "reference").glob("*.md")
        for name in re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.M)
    ]
    assert len(named) > 40
    for name in named:
        package, _, last = name.rpartition(".")
        found = find_spec(package)
        inside = Path(found.origin).read_text(encoding="utf-8") if found and found.origin else ""
        assert find_spec(name) if f"def {last}(" not in inside else inside, f"{name} is nothing of the package"
