"""Options of a command from the dataclass of the library function: names, types, defaults, and docstrings as help."""

import ast
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from inspect import Parameter, signature
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from ssmlab.core.options import Option, Options


def takes(options: type[Options]) -> Callable:
    """Give a command the fields of a class as its options: they come in place of its parameter `options`.

    A tuple is an option that may be given several times, a truth value that is True by default has a --no- form.
    """
    readers = {name: how.read for name, _, how in _commanded(options) if how.read}

    def decorate(command: Callable) -> Callable:
        @functools.wraps(command)
        def called(**given):
            values = {name: given.pop(name) for name, _, _ in _commanded(options)}
            values = {name: value for name, value in values.items() if value is not None}
            values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
            values |= {name: read(values[name]) for name, read in readers.items() if name in values}
            return command(**given, options=options(**values))

        own = signature(command, eval_str=True).parameters.values()
        every = [one for p in own for one in (parameters(options) if p.name == "options" else [p])]
        every = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in every]
        called.__signature__ = signature(command).replace(parameters=every)  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in every}
        return called

    return decorate


def parameters(options: type[Options]) -> list[Parameter]:
    """A parameter of a command for every field that the command line has."""
    texts, defaults = help_texts(options), {field.name: field.default for field in fields(options)}
    made = []
    for name, kind, how in _commanded(options):
        default = how.text if how.read else defaults[name]
        flag = how.flag or "--" + name.replace("_", "-")
        declared = [flag, how.short] if how.short else [flag]
        kind = how.kind or kind
        if how.read:
            kind = str if default is not None else str | None
        elif get_origin(kind) in (tuple, Sequence):
            kind, default = list[get_args(kind)[0]] | None, None  # type: ignore[misc]
        elif kind is bool and default:
            declared[0] += f"/--no-{flag[2:]}"
        option = typer.Option(*declared, help=texts.get(name), min=how.least, max=how.most, metavar=how.metavar)
        default = Parameter.empty if default is MISSING else default
        made.append(Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]))
    return made


def help_texts(options: type[Options]) -> dict[str, str]:
    """The text below each field, with class variables for names in braces."""
    found: dict[str, str] = {}
    for cls in reversed(options.__mro__[:-1]):
        body = next(node.body for node in _classes(cls.__module__) if node.name == cls.__name__)
        for field, text in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                words = " ".join(str(text.value.value).split())
                found[field.target.id] = words.format_map(vars_of(options))  # type: ignore[union-attr]
    return found


@functools.cache
def _classes(module: str) -> list[ast.ClassDef]:
    """Of a module's source; a docstring under a field is kept nowhere else."""
    source = Path(str(sys.modules[module].__file__)).read_text(encoding="utf-8")
    return [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]


def vars_of(options: type[Options]) -> dict[str, Any]:
    """The class variables of a class and its bases."""
    return {name: value for cls in reversed(options.__mro__) for name, value in vars(cls).items()}


def _commanded(options: type[Options]) -> list[tuple[str, Any, Option]]:
    """Name, type and `Option` of the fields that the command line has."""
    hints, found = get_type_hints(options, include_extras=True), []
    for name in options.field_names():
        kind, how = hints[name], Option()
        if get_origin(kind) is Annotated:
            kind, how = get_args(kind)
        if how.command:
            found.append((name, kind, how))
    return found
