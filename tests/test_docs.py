"""The pages keep their word: their Python runs, their links and paths lead somewhere, their commands exist."""

import json
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "ssmlab"
RUN = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*RUN, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"))]
SHELLS = ("bash", "console", "sh", "shell")
SUFFIXES = (".py", ".cpp", ".h", ".md", ".css")  # names that are files of this repository even without a folder
TOP = ("src", "native", "tests", "docs", "benchmarks", ".ci", *(p.name for p in PACKAGE.iterdir() if p.is_dir()))
each_page = pytest.mark.parametrize("page", PAGES, ids=[p.relative_to(ROOT).as_posix() for p in PAGES])


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the line of the page that it begins on, its text."""

    language: str
    line: int
    text: str


def split(page: Path) -> tuple[str, list[Block]]:
    """The page without its fenced blocks, and the blocks."""
    prose, blocks, inside, fence, language, start = [], [], [], "", "", 0
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        mark = re.match(r"\s*(```+|~~~+)\s*(\S*)", line)
        if fence and line.strip() == fence:
            blocks.append(Block(language, start, "\n".join(inside)))
            fence = ""
        elif fence:
            inside.append(line)
        elif mark:
            fence, language, start, inside = mark[1], mark[2], number + 1, []
        else:
            prose.append(line)
    assert not fence, f"{page.name}: the block that begins in line {start} has no end"
    return "\n".join(prose), blocks


def python_blocks(page: Path) -> list[Block]:
    return [block for block in split(page)[1] if block.language == "python"]


WITH_PYTHON = [page for page in RUN if python_blocks(page)]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=[p.relative_to(ROOT).as_posix() for p in WITH_PYTHON])
def test_python_blocks_run(page, tmp_path, monkeypatch):
    """In order, in one namespace, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("SSMLAB_BACKEND", "SSMLAB_ISA"):
        monkeypatch.delenv(name, raising=False)
    namespace = {"__name__": f"docs.{page.stem}"}
    for block in python_blocks(page):
        # Empty lines in front: a traceback then names the line of the page.
        exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), namespace)


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", split(page)[0], re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page):
    prose = split(page)[0]
    prose = re.sub(r"`[^`\n]*`", "", prose)
    links = re.findall(r"\]\(([^)\s]+)", prose) + re.findall(r"(?:src|srcset|href)=\"([^\"]+)\"", prose)
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}: there is no such heading"


def names_a_file(text: str) -> bool:
    if not re.fullmatch(r"[\w.\-/]+", text):
        return False
    return (text.split("/")[0] in TOP and "/" in text) or text.endswith(SUFFIXES)


def exists(text: str, page: Path) -> bool:
    if any((folder / text).exists() for folder in (ROOT, PACKAGE, page.parent)):
        return True
    folders = (ROOT / top for top in ("native", "src", "tests", "docs", "benchmarks"))
    return "/" not in text and any(found for folder in folders for found in folder.rglob(text))


@each_page
def test_paths_exist(page):
    """In backticks, and the first word of every line of a block in the language `files`."""
    prose, blocks = split(page)
    named = [text for text in re.findall(r"`([^`\n]+)`", prose) if names_a_file(text)]
    lines = [line for block in blocks if block.language == "files" for line in block.text.splitlines()]
    listed = [name for line in lines for name in braces(line.split()[0])]
    missing = [text for text in (*named, *listed) if not exists(text, page)]
    assert not missing, f"{page.name} names {missing}"


def braces(text: str) -> list[str]:
    """ "a/{b,c}.h" to a/b.h and a/c.h."""
    parts = re.fullmatch(r"(.*)\{(.*)\}(.*)", text)
    return [parts[1] + middle + parts[3] for middle in parts[2].split(",")] if parts else [text]


def test_the_tree_shows_every_package_and_kernel():
    blocks = [block.text for block in split(ROOT / "docs" / "architecture.md")[1] if block.language == "files"]
    shown = {name.rstrip("/") for text in blocks for line in text.splitlines() for name in braces(line.split()[0])}
    there = {p.parent.relative_to(ROOT).as_posix() for p in PACKAGE.rglob("__init__.py")}
    there |= {p.relative_to(ROOT).as_posix() for p in (ROOT / "native").rglob("*.*")}
    assert not there - shown


def test_the_floors_are_those_of_the_import_test():
    from test_imports import FLOORS

    (block,) = (b for b in split(ROOT / "docs" / "architecture.md")[1] if b.language == "floors")
    built = {p.parent.name for p in PACKAGE.glob("*/__init__.py")} | {p.stem for p in PACKAGE.glob("*.py")}
    assert [tuple(line.split()) for line in block.text.splitlines()] == [
        floor for names in FLOORS if (floor := tuple(name for name in names if name in built))
    ]


def test_a_record_has_the_fields_that_the_page_lists():
    from ssmlab.core.record import Record

    (block,) = (b for b in split(ROOT / "docs" / "architecture.md")[1] if b.language == "record")
    assert block.text.split() == list(json.loads(Record(metric="accuracy", value=1.0).to_json()))


def command_lines(page: Path) -> list[list[str]]:
    """Every command of the shell blocks, and every one in backticks, as words."""
    prose, blocks = split(page)
    lines = [
        line for block in blocks if block.language in SHELLS for line in block.text.replace("\\\n", " ").split("\n")
    ]
    lines += [text for text in re.findall(r"`([^`\n]+)`", prose) if text.startswith(("ssmlab ", "make ", "SSMLAB_"))]
    found = []
    for line in lines:
        for part in re.split(r"&&|\|\||[;|]", line.strip().removeprefix("$ ")):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words = words[1:]
            if words:
                found.append(words)
    return found


@each_page
def test_commands_exist(page):
    for words in command_lines(page):
        program = os.path.basename(words[0])
        if program == "ssmlab" or words[1:3] == ["-m", "ssmlab"]:
            check_ssmlab(words[1:] if program == "ssmlab" else words[3:])
        elif program == "make":
            targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
            assert all(word in targets for word in words[1:] if "=" not in word), f"{page.name}: {' '.join(words)}"


def check_ssmlab(words: list[str]) -> None:
    """The command is there and takes these options; a packaged recipe is there and takes these keys."""
    import typer

    from ssmlab.cli.main import app

    command, name = typer.main.get_command(app), ""
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name, *words = words
        assert name in command.commands, f"there is no command {name}"
        command = command.commands[name]
    given, _, _ = command.make_parser(command.context_class(command)).parse_args(args=list(words))
    if name in ("run", "sweep") and given.get("recipe"):
        changes = given.get("overrides") or given.get("grid") or ()
        check_recipe(name, given["recipe"], *changes, smoke="--smoke" in words)


def check_recipe(command: str, recipe: str, *changes: str, smoke: bool) -> None:
    from ssmlab.experiments.search import RANGE, parse_space
    from ssmlab.experiments.sweep import parse_grid
    from ssmlab.tasks.recipe import load_recipe

    if recipe.isupper() or recipe.startswith("runs/") or recipe.endswith(".toml"):
        return
    varies = bool(parse_grid(list(changes), varies=False)[0]) or any(RANGE in change for change in changes)
    if command == "sweep" and varies:
        grid, changes = parse_space(list(changes))
        changes = [*changes, *(f"{key}={values[0].partition(RANGE)[0]}" for key, values in grid.items())]
    found = load_recipe(recipe, ["data.path=somewhere", *changes], smoke=smoke)
    assert command == "run" or varies or found.trials.declared, "nothing varies"


def test_these_checks_can_fail(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A b\n`src/nowhere.py` [x](#a-c) `ssmlab rum`\n```python\n1 / 0\n```\n")
    with pytest.raises(ZeroDivisionError), pytest.MonkeyPatch.context() as monkeypatch:
        test_python_blocks_run(page, tmp_path, monkeypatch)
    for check in (test_links_lead_somewhere, test_paths_exist, test_commands_exist):
        with pytest.raises(AssertionError, match=r"page\.md|rum"):
            check(page)
    for words in (["run", "classification/digits"], ["run", "RECIPE", "--smok"], ["data", "chek"]):
        with pytest.raises(Exception, match="digits|smok|chek"):
            check_ssmlab(words)
