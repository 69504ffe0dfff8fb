"""Reading recipes: one TOML file says everything about a run. Nothing here imports torch."""

import tomllib
from pathlib import Path

from pydantic import ValidationError

from ssmlab.core.checksums import FILE as CHECKSUMS
from ssmlab.core.checksums import damages
from ssmlab.core.errors import RecipeError
from ssmlab.tasks.overrides import apply_override, explain, parse_override
from ssmlab.tasks.shared.recipe import AnyRecipe
from ssmlab.tasks.table import recipe_class

TRIED = ("data", "training", "models", "adapt")  # tables that a choice of settings depends on
PACKAGED = Path(__file__).parent.parent / "recipes"


def load_recipe(
    source: str | Path, overrides: list[str] | None = None, *, smoke: bool = False, need_path: bool = True
) -> AnyRecipe:
    """Read and check a recipe.

    Args:
        source: the name of a packaged recipe ("classification/digits_resnet18_vs_hybrid"), a TOML file, or the folder
            of a run, whose resolved recipe is read.
        overrides: "data.path=...", "models.0.name=..."; values as in TOML, quotes around text may be left out.
        smoke: apply the recipe's `[smoke]` table first, which makes the run tiny, and take the first of its seeds.
        need_path: whether a recipe without `data.path` is an error.
    Raises:
        RecipeError: no such recipe, unknown keys (with the nearest valid one), values of a wrong type or out of range.
    """
    file = find_recipe(source)
    if file.name == "recipe.toml" and (found := damages(file.parent, lambda name: name == file.name)):
        raise RecipeError(f"{found[0]}; put it back, or delete {file.parent / CHECKSUMS} if you have changed it")
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(f"recipe {file}: not valid TOML: {error}") from None
    where = f"recipe {_name_of(file)}"
    tiny = table.pop("smoke", {})
    if not isinstance(tiny, dict):
        raise RecipeError(f"{where}: smoke should be a table, got {tiny!r}; write its keys below a line [smoke]")
    schema = _schema_of(table, where)
    name = table.get("name") or file.stem
    texts: dict[tuple, str] = {}
    if smoke:
        if not tiny:
            raise RecipeError(f"{where}: has no [smoke] table, so there is no tiny form of it")
        name, table["trial"] = f"{name}-smoke", True
        if isinstance(seeds := table.get("seeds"), list):
            table["seeds"] = seeds[:1]
        for key, value in tiny.items():
            apply_override(table, key.split("."), value, where, schema)
    table["name"] = name
    before = _models_of(table)
    for override in overrides or []:
        keys, value, text = parse_override(override)
        apply_override(table, keys, value, where, schema)
        texts[tuple(keys)] = text
    if ("training", "epochs") in texts and ("training", "min_steps") not in texts and "training" in table:
        table["training"].pop("min_steps", None)  # whoever says how many epochs wants so many
    recipe = validate(table, where, texts)
    if smoke or any(keys[0] in TRIED and keys != ("data", "path") for keys in texts):
        recipe.trials.had = {}  # its settings were chosen for another problem
    if before and recipe.models and before != _models_of(table) and ("description",) not in texts:
        titles = (getattr(model, "title", "") or model.name for model in recipe.models)
        recipe.description = " against ".join(dict.fromkeys(titles))
    if need_path and not recipe.data.path:
        raise RecipeError(f"{where}: data.path is missing; add data.path=... ({recipe.forms})")
    return recipe


def validate(table: dict, where: str, texts: dict[tuple, str] | None = None) -> AnyRecipe:
    """Check a table against its task's schema; `texts` are the overrides as typed, for fields that hold text."""
    schema = _schema_of(table, where)
    try:
        return schema.model_validate(table)
    except ValidationError as error:
        retyped = False
        for problem in error.errors():
            typed = tuple(str(part) for part in problem["loc"])
            if problem["type"] == "string_type" and texts and typed in texts:
                apply_override(table, list(typed), texts[typed], where, schema)
                retyped = True
        if retyped:
            return validate(table, where)
        raise RecipeError(explain(error, where, schema)) from None


def _models_of(table: dict) -> list:
    """Which networks a table compares."""
    models = table.get("models")
    return [m.get("name") if isinstance(m, dict) else m for m in models] if isinstance(models, list) else []


def _schema_of(table: dict, where: str) -> type[AnyRecipe]:
    task = table.get("task", "classify")
    try:
        return recipe_class(task if isinstance(task, str) else str(task))
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None


def find_recipe(source: str | Path) -> Path:
    """The file of a recipe: a path, a run's folder, or a packaged name."""
    path = Path(source)
    if (path / "recipe.toml").is_file():
        return path / "recipe.toml"
    if path.is_file():
        return path
    packaged = PACKAGED / f"{str(source).removesuffix('.toml')}.toml"
    if packaged.is_file():
        return packaged
    from difflib import get_close_matches

    names = [name for name, _ in list_recipes()]
    near = get_close_matches(str(source), names, n=2, cutoff=0.4) or [
        name for name in names if str(source).lower() in name
    ]
    hint = f"did you mean {', '.join(near)}?" if near else f"packaged recipes: {', '.join(names)}"
    raise RecipeError(f"no recipe {str(source)!r}: not a file, and not a packaged name; {hint}")


def list_recipes() -> list[tuple[str, str]]:
    """Names of the packaged recipes, each with the first line of its comment."""
    found = []
    for file in sorted(PACKAGED.rglob("*.toml")):
        first = file.read_text(encoding="utf-8").splitlines()[0]
        found.append((_name_of(file), first.removeprefix("#").strip()))
    return found


def _name_of(file: Path) -> str:
    if file.is_relative_to(PACKAGED):
        return file.relative_to(PACKAGED).with_suffix("").as_posix()
    return str(file)
