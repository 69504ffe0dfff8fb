"""`ssmlab recipes`: what can be run."""


def recipes() -> None:
    """List the packaged recipes."""
    from rich.console import Console

    from ssmlab.tasks.recipe import list_recipes

    console = Console(highlight=False)
    for name, comment in list_recipes():
        console.print(f"[bold]{name}[/bold]")
        console.print(f"  {comment}", markup=False, soft_wrap=True)
