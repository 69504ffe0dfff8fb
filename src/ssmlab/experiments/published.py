"""What a recipe wants from the network: licences and published weights, before its data are read."""

from pathlib import Path

from ssmlab.models.catalogue import find_weights, is_repository
from ssmlab.models.download import local_folder, weights_file
from ssmlab.tasks.shared.recipe import AnyRecipe


def fetch_published(recipe: AnyRecipe, accept_licence: bool = False) -> None:
    """Download what a recipe's models start from; what is on this machine already stays as it is.

    Args:
        accept_licence: accept the licences of these weights, where they must be accepted once.
    Raises:
        ModelError: a licence is not accepted, or weights cannot be had.
    """
    for model in recipe.models:
        row = find_weights(model.name) if getattr(model, "pretrained", False) else None
        if row is not None and row.classes:
            weights_file(model.name, accept_licence=accept_licence)
        elif row is not None:
            local_folder(model.name, accept_licence=accept_licence)
    for folder in (getattr(recipe, "model", ""), *(getattr(model, "weights", "") for model in recipe.models)):
        if folder and not Path(folder).exists() and is_repository(folder):
            local_folder(folder, accept_licence=accept_licence)
