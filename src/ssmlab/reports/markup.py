"""HTML that is escaped by construction: only `Html` values pass through, every other string is text."""

import re
from html import escape


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
    parts = []
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
