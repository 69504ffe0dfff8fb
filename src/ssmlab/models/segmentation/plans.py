"""Plans: the sizes that a U-shaped network is built from, read from nnU-Net's plans.json or from a file of our own.

Source: Isensee et al. 2021 (nnU-Net, doi:10.1038/s41592-020-01008-z), supplementary notes on network topology.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ssmlab.core.errors import ModelError
from ssmlab.core.text import did_you_mean

Axes = tuple[int, ...]
_KINDS = {"batch_size": "a number", "deep_supervision": "true or false"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes of a U-shaped network of s stages in 2-D or 3-D; a tuple for axes has two or three numbers.

    patch_size: pixels that the network is trained on; what it is given is cut or padded to such patches.
    features: channels of every stage, highest resolution first.
    kernel_sizes: odd, one tuple a stage.
    strides: by which every stage shrinks its input, one tuple a stage; the first is 1 as a rule.
    n_conv_encoder, n_conv_decoder: residual blocks of every stage, and of every stage but the lowest. U-Mamba takes 1
        for the lower half of the encoder and the upper half of the decoder, whatever is written here.
    spacing: size of a pixel along every axis, in any unit; () where it is not known, and then images stay as they are.
    batch_size: patches a step.
    deep_supervision: in training every resolution of the decoder gives logits.
    """

    patch_size: Axes
    features: tuple[int, ...]
    kernel_sizes: tuple[Axes, ...]
    strides: tuple[Axes, ...]
    n_conv_encoder: tuple[int, ...]
    n_conv_decoder: tuple[int, ...]
    spacing: tuple[float, ...] = ()
    batch_size: int = 2
    deep_supervision: bool = True

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list | tuple):
                value = tuple(tuple(axes) if isinstance(axes, list | tuple) else axes for axes in value)
                object.__setattr__(self, field.name, value)
            if isinstance(value, tuple) == (field.name in ("batch_size", "deep_supervision")):
                raise ModelError(f"plan: {field.name} must be {_KINDS.get(field.name, 'a list')}, got {value!r}")
        if not isinstance(self.deep_supervision, bool):
            raise ModelError(f"plan: deep_supervision must be true or false, got {self.deep_supervision!r}")
        dims, stages = self.dims, self.n_stages
        if dims not in (2, 3):
            raise ModelError(f"plan: patch_size must have 2 or 3 numbers, got {self.patch_size}")
        if stages < 2:
            raise ModelError(f"plan: there must be at least 2 stages, got features {self.features}")
        counts = {"kernel_sizes": stages, "strides": stages, "n_conv_encoder": stages, "n_conv_decoder": stages - 1}
        for name, count in counts.items():
            if len(getattr(self, name)) != count:
                raise ModelError(
                    f"plan: {name} must have {count} entries for {stages} stages, got {getattr(self, name)}"
                )
        for name in ("kernel_sizes", "strides"):
            if any(not isinstance(axes, tuple) or len(axes) != dims for axes in getattr(self, name)):
                raise ModelError(
                    f"plan: {name} must have {dims} numbers a stage as patch_size, got {getattr(self, name)}"
                )
        if self.spacing and len(self.spacing) != dims:
            raise ModelError(f"plan: spacing must have {dims} numbers as patch_size, got {self.spacing}")
        whole = [*self.patch_size, *self.features, *self.n_conv_encoder, *self.n_conv_decoder, self.batch_size]
        whole += [size for axes in (*self.kernel_sizes, *self.strides) for size in axes]
        for size in whole:
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ModelError(f"plan: every size but the spacing must be a whole number of at least 1, got {size!r}")
        if any(size % 2 == 0 for kernel in self.kernel_sizes for size in kernel):
            raise ModelError(f"plan: kernel_sizes must be odd, got {self.kernel_sizes}")
        if not all(isinstance(step, int | float) and 0 < step < math.inf for step in self.spacing):
            raise ModelError(f"plan: spacing must be above 0, got {self.spacing}")
        if any(size % step for size, step in zip(self.patch_size, self.divisor, strict=True)):
            raise ModelError(
                f"plan: patch_size {self.patch_size} must be a multiple of {self.divisor}, the product of the strides"
            )

    @property
    def dims(self) -> int:
        """2 for images, 3 for volumes."""
        return len(self.patch_size)

    @property
    def n_stages(self) -> int:
        return len(self.features)

    @property
    def divisor(self) -> Axes:
        """What a map's sizes are multiples of: the product of all strides, by axis."""
        return tuple(math.prod(stride[axis] for stride in self.strides) for axis in range(self.dims))

    def map_sizes(self) -> list[Axes]:
        """The patch's size after every stage, rounded down."""
        size, sizes = self.patch_size, []
        for stride in self.strides:
            size = tuple(n // step for n, step in zip(size, stride, strict=True))
            sizes.append(size)
        return sizes

    def write(self, path: str | Path) -> Path:
        """Write a .toml or .json file that `read_plan` reads and a person can edit."""
        path, values = Path(path), asdict(self)
        if path.suffix == ".json":
            path.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
            return path
        if path.suffix != ".toml":
            raise ModelError(f"a plan is written as .toml or .json, got {path.name}")
        lines = [f"# {_MEANINGS[name]}\n{name} = {json.dumps(value)}\n" for name, value in values.items()]
        path.write_text("\n".join(lines), "utf-8")
        return path


# What a file says about each entry, for who edits it.
_MEANINGS = {
    "patch_size": "pixels that are trained on at once; along each axis a multiple of the product of all strides",
    "features": "channels of every stage, highest resolution first",
    "kernel_sizes": "of every stage and axis, odd; 1 along axes that are too coarse to be mixed",
    "strides": "by which every stage shrinks its input along each axis",
    "n_conv_encoder": "residual blocks of every stage; U-Mamba takes 1 in the lower half, whatever is written",
    "n_conv_decoder": "residual blocks from the last stage but one upwards; U-Mamba takes 1 in the upper half",
    "spacing": "size of a pixel along each axis, to which volumes are brought; [] takes that of the images",
    "batch_size": "patches of an iteration, where training.batch_size of the recipe does not say it",
    "deep_supervision": "whether every resolution of the decoder is trained",
}


_WRITES = "`ssmlab plan DATA -o plan.toml` writes one"


def read_plan(path: str | Path, configuration: str | None = None) -> Plan:
    """A plan from nnU-Net's plans.json, or from a .toml or .json file that `Plan.write` wrote.

    Args:
        configuration: which of the plans in nnU-Net's file, such as "2d" or "3d_fullres"; needed where it has several.
    Raises:
        ModelError: no such file or configuration, or sizes that make no network.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"there is no plan {path}; {_WRITES}")
    try:
        text = path.read_text("utf-8")
        content = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        why = f" ({error})" if path.suffix in (".toml", ".json") else ""  # of others nobody knows what was meant
        raise ModelError(f"{path} is neither TOML nor JSON{why}; a plan is a .toml or .json file, {_WRITES}") from error
    try:
        return plan_from(content, configuration)
    except ModelError as error:
        raise ModelError(f"{path}: {str(error).removeprefix('plan: ')}") from error


def plan_from(content: Mapping[str, Any], configuration: str | None = None) -> Plan:
    """A plan from the content of a file: our own fields, nnU-Net's plans, or one configuration of them.

    Raises:
        ModelError: the configuration is missing, a field is unknown or missing, or the sizes make no network.
    """
    if not isinstance(content, Mapping):
        raise ModelError(f"a plan must be a table of sizes, got {type(content).__name__}")
    if "configurations" in content:
        content = _configuration(content["configurations"], configuration)
    if "features" not in content and ("conv_kernel_sizes" in content or "architecture" in content):
        # The older form names the sizes next to the patch, the newer one under `architecture`.
        try:
            sizes = content.get("architecture", {}).get("arch_kwargs")
            if sizes is None:
                strides, kernels = content["pool_op_kernel_sizes"], content["conv_kernel_sizes"]
                base, most = content["UNet_base_num_features"], content["unet_max_num_features"]
                features = [min(base * 2**i, most) for i in range(len(kernels))]
                encoder, decoder = content["n_conv_per_stage_encoder"], content["n_conv_per_stage_decoder"]
            else:
                strides, kernels, features = sizes["strides"], sizes["kernel_sizes"], sizes["features_per_stage"]
                encoder = sizes["n_blocks_per_stage" if "n_blocks_per_stage" in sizes else "n_conv_per_stage"]
                decoder = sizes["n_conv_per_stage_decoder"]
            return Plan(
                patch_size=content["patch_size"],
                features=tuple(features),
                kernel_sizes=kernels,
                strides=strides,
                n_conv_encoder=encoder,
                n_conv_decoder=decoder,
                spacing=content.get("spacing", ()),
                batch_size=content.get("batch_size", 2),
                deep_supervision=content.get("deep_supervision", True),
            )
        except KeyError as error:
            raise ModelError(f"nnU-Net's plan has no {error.args[0]}") from error
        except (TypeError, AttributeError) as error:
            raise ModelError(f"nnU-Net's plan holds a value of a wrong kind: {error}") from error
    known = {field.name for field in fields(Plan)}
    unknown, missing = sorted(set(content) - known), sorted(_REQUIRED - set(content))
    if unknown or missing:
        said = [f"{what} {', '.join(names)}" for what, names in (("unknown", unknown), ("missing", missing)) if names]
        raise ModelError(f"plan: {'; '.join(said)}{did_you_mean(unknown[0], known) if unknown else ''}")
    return Plan(**content)


_REQUIRED = {"patch_size", "features", "kernel_sizes", "strides", "n_conv_encoder", "n_conv_decoder"}


def _configuration(found: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    if not isinstance(found, Mapping) or not all(isinstance(plan, Mapping) for plan in found.values()):
        raise ModelError("plan: configurations must be a table of plans")
    if name is None and len(found) == 1:
        (name,) = found
    if name is None or name not in found:
        raise ModelError(f"the plans have the configurations {', '.join(found)}; name one of them, got {name!r}")
    own = dict(found[name])
    parent = own.pop("inherits_from", None)
    return own if parent is None else _configuration(found, parent) | own


LEAST_EDGE = 4  # no axis is halved below it; maps end between 4 and 7, or 11 along an axis that is left alone
MOST_FEATURES = {2: 512, 3: 320}
FIRST_EDGE = {2: 2048, 3: 256}  # the patch that the search begins with has this many pixels along every axis
BLOCKS = 2  # of every stage
RESENC_BLOCKS = (1, 3, 4, 6)  # of the first stages of nnU-Net's residual encoders; 6 from there on
# nnU-Net's presets of them: GiB that a step may take. Its own targets are those of a GPU's memory.
PRESETS = {"resenc_m": 8.0, "resenc_l": 24.0}
# Bytes that a step of training takes for every number in the maps that `map_numbers` counts, float32 on the CPU: what
# backward keeps, and scratch of the convolutions. Measured: 2.5 for residual_unet in 2-D to 6.0 for umamba_enc in 3-D.
BYTES_PER_NUMBER = 6.2
BYTES_PER_WEIGHT = 16  # itself, its gradient, momentum, and the step's scratch
OVERHEAD = 700 * 2**20  # Python and torch


def propose_plan(
    image_size: Sequence[int],
    spacing: Sequence[float] | None = None,
    memory_bytes: float = 8 * 2**30,
    channels: int = 3,
    classes: int = 2,
    dims: int | None = None,
    *,
    base_features: int = 32,
    batch_size: int | None = None,
    residual_encoder: bool = False,
) -> Plan:
    """Sizes for a user's images by nnU-Net's rules.

    The patch begins as large as 2048^2 or 256^3 pixels of the images' spacing allow, at most an image, and is made
    smaller along the axis where it covers most of the image until two patches train in the memory given. An axis is
    halved while its map has at least 8 positions (12 if it is the only one) and its spacing is below twice the finest;
    a kernel is 1 along axes whose spacing is not. Channels double from stage to stage up to 512 (2-D) or 320 (3-D).
    What memory is left makes the batch larger, up to 12. Where nnU-Net counts memory in units of a GPU, this counts
    bytes on the CPU in float32.

    Source: Isensee et al. 2021 (doi:10.1038/s41592-020-01008-z), supplementary note 2.

    Args:
        image_size: pixels of a usual image along every axis, the median.
        spacing: size of a pixel along every axis; None takes 1.
        memory_bytes: what training may take.
        channels, classes: of the images and of the logits.
        dims: 2 for images; with a volume's three axes the coarsest is left out. None takes the number of axes.
        base_features: channels of the first stage.
        batch_size: patches a step; None finds it, at least 2.
        residual_encoder: blocks as of nnU-Net's residual-encoder U-Nets, which take more memory.
    Raises:
        ModelError: sizes that do not fit together, images too small for two stages, or too little memory.
    """
    size, space, dims = _checked(image_size, spacing, dims)
    edge = FIRST_EDGE[dims] * math.prod(space) ** (1 / dims)
    patch = [min(round(edge / step), most) for step, most in zip(space, size, strict=True)]
    least = 2 if batch_size is None else batch_size

    plan = _with_patch(patch, space, least, base_features, residual_encoder)
    while plan is not None and training_bytes(plan, channels, classes) > memory_bytes:
        ratio = [n / most for n, most in zip(plan.patch_size, size, strict=True)]
        axis = ratio.index(max(ratio))
        patch = list(plan.patch_size)
        # a smaller patch may be halved less often, and is then a multiple of less
        smaller = [n - plan.divisor[axis] * (i == axis) for i, n in enumerate(patch)]
        patch[axis] -= _divisor(topology(smaller, space)[0])[axis]
        plan = _with_patch(patch, space, least, base_features, residual_encoder)
    if plan is None:
        raise ModelError(
            f"images of {tuple(size)} need at least {2 * LEAST_EDGE} pixels along two axes, or "
            f"{3 * LEAST_EDGE} along one, and {memory_bytes / 2**30:.2g} GiB must hold {least} patches of that size"
        )
    if batch_size is None:
        one = training_bytes(replace(plan, batch_size=1), channels, classes)
        more = training_bytes(replace(plan, batch_size=2), channels, classes) - one
        plan = replace(plan, batch_size=min(12, max(2, 1 + int((memory_bytes - one) // more))))
    return plan


def _with_patch(patch: Sequence[int], spacing: Sequence[float], batch: int, base: int, residual: bool) -> Plan | None:
    """The plan for a patch; None where it would have fewer than two stages."""
    strides, kernels, fitted = topology(patch, spacing)
    stages = len(strides)
    if stages < 2:
        return None
    return Plan(
        patch_size=fitted,
        features=tuple(min(base * 2**i, MOST_FEATURES[len(fitted)]) for i in range(stages)),
        kernel_sizes=tuple(kernels),
        strides=tuple(strides),
        n_conv_encoder=tuple(RESENC_BLOCKS[min(s, 3)] if residual else BLOCKS for s in range(stages)),
        n_conv_decoder=(1 if residual else BLOCKS,) * (stages - 1),
        spacing=tuple(spacing),
        batch_size=batch,
    )


def _checked(image_size, spacing, dims) -> tuple[list[int], list[float], int]:
    size = [int(n) for n in image_size]
    space = [1.0] * len(size) if spacing is None else [float(step) for step in spacing]
    if len(size) != len(space) or len(size) not in (2, 3) or min(size) < 1 or not min(space) > 0:
        raise ModelError(
            f"image_size and spacing must have 2 or 3 numbers above 0 each, got {tuple(size)} and {tuple(space)}"
        )
    if dims == 2 and len(size) == 3:
        coarsest = space.index(max(space))
        del size[coarsest], space[coarsest]
    if dims not in (None, len(size)):
        raise ModelError(f"dims={dims} does not fit an image of {tuple(size)}")
    return size, space, len(size)


def topology(patch_size: Sequence[int], spacing: Sequence[float]) -> tuple[list[Axes], list[Axes], Axes]:
    """Strides and kernels of every stage, and the patch enlarged to a multiple of the strides' product."""
    dims = len(patch_size)
    size, space = list(patch_size), list(spacing)
    strides, kernels, kernel = [(1,) * dims], [], (1,) * dims
    while True:
        axes = [i for i in range(dims) if size[i] >= 2 * LEAST_EDGE]
        finest = min((space[i] for i in axes), default=math.inf)
        axes = [i for i in axes if space[i] < 2 * finest]
        if not axes or (len(axes) == 1 and size[axes[0]] < 3 * LEAST_EDGE):
            break
        near = [space[i] < 2 * min(space) for i in range(dims)]
        kernel = tuple(3 if old == 3 or close else 1 for old, close in zip(kernel, near, strict=True))
        kernels.append(kernel)
        strides.append(tuple(2 if i in axes else 1 for i in range(dims)))
        for i in axes:
            size[i], space[i] = -(-size[i] // 2), 2 * space[i]
    kernels.append((3,) * dims)
    divisor = _divisor(strides)
    return strides, kernels, tuple(-(-n // step) * step for n, step in zip(patch_size, divisor, strict=True))


def _divisor(strides: Sequence[Axes]) -> Axes:
    return tuple(math.prod(steps) for steps in zip(*strides, strict=True))


def map_numbers(plan: Plan, classes: int) -> int:
    """Numbers in the outputs of all convolutions and Mamba layers (one a stage) for one patch."""
    total = 0
    for stage, (size, width) in enumerate(zip(plan.map_sizes(), plan.features, strict=True)):
        positions = math.prod(size)
        convs = 2 * plan.n_conv_encoder[stage] + 1
        total += width * positions * (convs + 10)  # a Mamba layer's inner maps are ten of its input's size
        if stage == 0:
            total += width * positions * convs
        if stage < plan.n_stages - 1:
            depth = plan.n_conv_decoder[plan.n_stages - 2 - stage]
            total += positions * (width * (2 * depth + 3) + classes)
    return total


def training_bytes(plan: Plan, channels: int, classes: int) -> float:
    """What a step of training takes, an estimate from above: see `BYTES_PER_NUMBER`."""
    weights, inputs = 0, channels
    for stage, (kernel, width) in enumerate(zip(plan.kernel_sizes, plan.features, strict=True)):
        area = math.prod(kernel)
        weights += area * width * (inputs + (2 * plan.n_conv_encoder[stage] - 1) * width)
        if stage < plan.n_stages - 1:
            depth = plan.n_conv_decoder[plan.n_stages - 2 - stage]
            weights += area * width * width * (2 + 2 * depth - 1)
        inputs = width
    numbers = map_numbers(plan, classes) * plan.batch_size
    return OVERHEAD + BYTES_PER_WEIGHT * weights + BYTES_PER_NUMBER * numbers
