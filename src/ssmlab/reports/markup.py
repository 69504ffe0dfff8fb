"""HTML that is escaped by construction: only `Html` values pass through, every other string is text."""

import re
from html import escape
from pathlib import Path


class Html(str):
    """Text that is markup already."""


def el(tag: str, *children, **attributes) -> Html:
    """One element: `el("td", name, class_="number", aria_label="...")`.

    Children are escaped unless they are `Html`; None is skipped; lists are flattened. An attribute of None or False is
    left out, True has no value, a trailing underscore is dropped and the others become hyphens.
    """
    text = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if tag in ("img", "meta", "col", "br"):
        return Html(f"<{tag}{text}>")
    return Html(f"<{tag}{text}>{join(children)}</{tag}>")


def join(children) -> Html:
    """Children one after the other, escaped where they are not `Html`."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, (list, tuple)):
            parts.append(join(child))
        else:
            parts.append(child if isinstance(child, Html) else escape(str(child)))
    return Html("".join(parts))


def words(text: str) -> Html:
    """Text that breaks where people would: not in "ResNet-18" and not before "%"."""
    text = re.sub(r"(\d) %", "\\1\u00a0%", text)
    pieces = re.split(r"(\s+)", text)
    return join([el("span", p, class_="whole") if "-" in p.strip("-") and len(p) <= 16 else p for p in pieces])


def document(title: str, body: Html, style: str = "") -> str:
    """A whole page that needs no other file: the house's style, and what a page adds to it."""
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("style", Html((Path(__file__).parent / "page.css").read_text(encoding="utf-8") + style)),
    )
    return join([Html("<!doctype html>\n"), el("html", head, el("body", body), lang="en"), "\n"])


def definitions(rows) -> Html:
    """A list of names with what is said of each."""
    return el("dl", [[el("dt", name), el("dd", text)] for name, text in rows])
