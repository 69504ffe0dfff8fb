"""What the processes of a launcher agree on between trainings; torch is imported where there are several."""

from typing import Any

from ssmlab.core.world import World, world_of
from ssmlab.tasks.shared.recipe import AnyRecipe


def connect(recipe: AnyRecipe) -> World:
    """Connect to the processes of a launcher, if there are any. All of them call `run_recipe`."""
    world = world_of()
    if world.size > 1:
        from ssmlab.core.device import choose_compute
        from ssmlab.training.distributed import start

        start(choose_compute(recipe.device, "float32").device)
    return world


def agreed(world: World, *values: Any) -> tuple[Any, ...]:
    """The first process' values, on all of them."""
    if world.size == 1:
        return values
    from ssmlab.training.distributed import agree, explained

    with explained(world):
        return agree(world, values)
