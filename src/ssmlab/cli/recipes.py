"""`ssmlab recipes`: what can be run, and what every key of a recipe means."""

import json

import typer

NAME = typer.Argument(None, metavar="[NAME]", help="A recipe, a TOML file or a run's folder: print all of its keys.")


def recipes(
    name: str = NAME, search: str = typer.Option("", "--search", help="List only recipes with this text.")
) -> None:
    """List the packaged recipes, or every key of one: its value, what it means, what it may be, and its default."""
    from rich.console import Console

    console = Console(highlight=False)
    if name is None:
        from ssmlab.tasks.recipe import list_recipes

        for found, comment in list_recipes():
            if search.casefold() in f"{found} {comment}".casefold():
                console.print(f"[bold]{found}[/bold]")
                console.print(f"  {comment}", markup=False, soft_wrap=True)
        return
    from ssmlab.tasks.recipe_keys import recipe_keys

    for key in recipe_keys(name):
        values = list(dict.fromkeys(json.dumps(value, ensure_ascii=False, default=str) for value in key.values))
        default = "required" if key.required else f"default {json.dumps(key.default, ensure_ascii=False, default=str)}"
        console.print(f"{key.name} = {', '.join(values)}", style="bold", markup=False, soft_wrap=True)
        console.print(f"  {key.meaning} ({key.kind}; {default})", markup=False, soft_wrap=True)
