"""The plan of a segmentation run and what follows from it: sizes of patches, spacings, axes, numbers of windows."""

import json
from dataclasses import asdict, replace

import numpy as np

from ssmlab.core.errors import ModelError
from ssmlab.models.segmentation.plans import PRESETS, Plan, plan_from, propose_plan
from ssmlab.tasks.segment.data import Masks
from ssmlab.tasks.segment.recipe import SegmentationRecipe
from ssmlab.tasks.shared.regrid import regridded_size


def resolve(recipe: SegmentationRecipe, data: Masks) -> SegmentationRecipe:
    """The recipe with its plan, or one that is proposed from the images, and the batch size that it names.

    Raises:
        ModelError: the plan is for volumes, and the data are images.
    """
    found = data.found
    if not recipe.plan or isinstance(recipe.plan, str):
        preset = str(recipe.plan or "")
        plan = propose_plan(
            found.usual,
            found.spacing,
            PRESETS.get(preset, 8.0) * 2**30,
            residual_encoder=preset in PRESETS,
            channels=found.channels,
            classes=len(found.classes),
            batch_size=recipe.training.batch_size or None,
        )
    else:
        plan = plan_from(recipe.plan)
        if plan.dims > found.dimensions:
            raise ModelError(f"plan: it is for images in {plan.dims}-D, data.path has images in {found.dimensions}-D")
        if not plan.spacing:
            across, flat = across_of(data), plan.dims < found.dimensions
            spacing = tuple(s for axis, s in enumerate(found.spacing) if not flat or axis != across)
            plan = replace(plan, spacing=spacing)
    sizes = {
        name: config.model_copy(update={"batch_size": config.batch_size or plan.batch_size})
        for name, config in (("training", recipe.training), ("pretraining", recipe.pretraining))
    }
    return recipe.model_copy(update={"plan": json.loads(json.dumps(asdict(plan))), **sizes})


def plan_of(recipe: SegmentationRecipe) -> Plan:
    """The plan of a recipe that `resolve` has returned."""
    assert isinstance(recipe.plan, dict)
    return plan_from(recipe.plan)


def across_of(data: Masks) -> int:
    """The coarsest axis, across which a plan in 2-D takes the slices of volumes."""
    return data.found.spacing.index(max(data.found.spacing))


def spacing_of(recipe: SegmentationRecipe, data: Masks) -> tuple[float, ...]:
    """At which images are trained and predicted, 0 along an axis that is cut into slices; empty: as they are."""
    plan = plan_of(recipe)
    if not data.found.measured or plan.dims == data.found.dimensions:
        return plan.spacing if data.found.measured else ()
    across = across_of(data)
    return (*plan.spacing[:across], 0.0, *plan.spacing[across:])


def windows_predicted(recipe: SegmentationRecipe, data: Masks, epochs: int) -> int:
    """Windows that are predicted during and after training."""
    plan, counts, step = plan_of(recipe), data.describe["counts"], 1 - recipe.evaluation.overlap
    windows = 2**plan.dims if recipe.evaluation.mirror else 1
    seen, target = data.found.usual, spacing_of(recipe, data)
    if target:
        seen = regridded_size(seen, data.found.spacing, target)
    if len(seen) > plan.dims:
        across = across_of(data)
        windows, seen = windows * seen[across], seen[:across] + seen[across + 1 :]
    for size, patch in zip(seen, plan.patch_size, strict=True):
        windows *= 1 + max(0, int(np.ceil((size - patch) / max(patch * step, 1))))
    return windows * ((epochs + 1) * counts["val"] + counts["test"])
