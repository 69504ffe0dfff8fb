"""Dotted overrides (`training.epochs=3`, `models.0.name=resnet18`) and messages that name the nearest valid key."""

import tomllib
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from ssmlab.core.errors import RecipeError

# what other programs call these keys
SHORT = {
    "lr": "learning_rate",
    "bs": "batch_size",
    "batch": "batch_size",
    "wd": "weight_decay",
    "iterations": "min_steps",
    "steps": "min_steps",
    "max_steps": "min_steps",
    "num_epochs": "epochs",
    "optim": "optimizer",
    "seed": "seeds",
    "model": "name",
    "max_length": "length",
}


def parse_override(text: str) -> tuple[list[str], Any, str]:
    """Split "a.b=value" into the keys, the value typed as TOML types it, and the value as it was written.

    What TOML cannot read is text, so that `data.path=/images/mhist` needs no quotes.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key or not all(key.split(".")):
        raise RecipeError(f"override {text!r} is not of the form key=value, e.g. training.epochs=3")
    try:
        typed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        typed = {}
    # A value with a line break could bring keys of its own.
    return key.split("."), (typed["value"] if set(typed) == {"value"} else value), value


def apply_override(table: dict, keys: list[str], value: Any, where: str, schema: type[BaseModel]) -> None:
    """Set `table[keys[0]][keys[1]]... = value` in place; numbers index lists, missing tables are made.

    The number after the last entry of a list of tables makes a new one.
    """
    node: Any = table
    for depth, name in enumerate(keys):
        key: Any = name
        last = depth == len(keys) - 1
        if isinstance(node, list):
            if key == str(len(node)) and not last and node and isinstance(node[0], dict):
                node.append({})  # models.2.name= after two models is a third one
            if not key.isdigit() or int(key) >= len(node):
                path = ".".join(keys[:depth])
                last_entry = f"{path}.0 to {path}.{len(node) - 1}" if len(node) > 1 else f"{path}.0"
                raise RecipeError(f"{where}: no entry {'.'.join(keys[: depth + 1])}; there are {last_entry}")
            key = int(key)
        elif not isinstance(node, dict):
            raise RecipeError(unknown_key(".".join(keys), where, schema))
        if last:
            node[key] = value
        else:
            node = node[key] if isinstance(node, list) else node.setdefault(key, {})


def explain(error: ValidationError, where: str, schema: type[BaseModel]) -> str:
    """One line for each problem that pydantic found."""
    lines = []
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(unknown_key(path, where, schema))
        elif problem["type"] == "missing":
            lines.append(f"{where}: {path} is missing")
        elif problem["type"] == "value_error":
            lines.append(f"{where}: {path + ': ' if path else ''}{problem['ctx']['error']}")
        elif problem["type"] in ("too_short", "too_long"):
            least, most = (problem["ctx"].get(name) for name in ("min_length", "max_length"))
            bound = f"at least {least}" if problem["type"] == "too_short" else f"at most {most}"
            lines.append(f"{where}: {path} should have {bound}, got {problem['input']!r}")
        else:
            message = problem["msg"].removeprefix("Input should be ").partition(", unable to parse")[0]
            lines.append(f"{where}: {path} should be {message}, got {problem['input']!r}")
    return "\n".join(lines)


def unknown_key(path: str, where: str, schema: type[BaseModel]) -> str:
    """The message for a key that the schema does not have, with the nearest ones that it has."""
    valid = dotted_keys(schema)
    # Indices stand for themselves: models.1.titel is compared with models.1.title.
    numbers = [part for part in path.split(".") if part.isdigit()]
    valid = [key.replace("*", numbers[0] if numbers else "0") for key in valid]
    table, _, leaf = path.rpartition(".")
    own = {key.rpartition(".")[2]: key for key in valid if key.rpartition(".")[0] == table and table}
    leaves = {key.rsplit(".", 1)[-1]: key for key in reversed(valid)}
    meant = SHORT.get(leaf)
    tables = sorted({key.split(".")[0] for key in valid})
    near = [own[meant]] if meant in own else [] if table else get_close_matches(path, tables, n=1, cutoff=0.75)
    near = near or [key for key in valid if meant and key.rpartition(".")[2] == meant][:1]
    near = near or [own[name] for name in get_close_matches(leaf, list(own), n=1, cutoff=0.6)]
    near = near or ([leaves[leaf]] if leaf in leaves else [])
    if not own:
        near = near or get_close_matches(path, [*valid, *tables], n=1, cutoff=0.75)
        near = near or [leaves[name] for name in get_close_matches(leaf, list(leaves), n=1, cutoff=0.6)]
    if not near and own:
        return f"{where}: unknown key {path}; {table} has {', '.join(own)}"
    return f"{where}: unknown key {path}; " + (
        f"did you mean {near[0]}?" if near else f"valid keys start with {', '.join(tables)}"
    )


def dotted_keys(schema: type[BaseModel], prefix: str = "") -> list[str]:
    """Every key of the schema, dotted; `*` is the index of a list of tables."""
    keys = []
    for name, field in schema.model_fields.items():
        kind = field.annotation
        inner = getattr(kind, "__args__", (None,))[0]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += dotted_keys(kind, f"{prefix}{name}.")
        elif isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += dotted_keys(inner, f"{prefix}{name}.*.")
        else:
            keys.append(prefix + name)
    return keys


def flatten(table: dict | list, prefix: str = "") -> dict[str, Any]:
    """Nested tables as one dictionary with dotted keys; lists of plain values stay whole."""
    flat: dict[str, Any] = {}
    for key, value in table.items() if isinstance(table, dict) else enumerate(table):
        if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
