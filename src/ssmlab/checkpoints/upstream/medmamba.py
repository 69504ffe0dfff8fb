"""MedMamba (YubiaoYue/MedMamba): its names are ours."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from ssmlab.core.errors import ModelError
from ssmlab.models.rules import Rule
from ssmlab.models.vision.medmamba import MedMamba, MedMambaConfig

LICENSE = "no stated licence: YubiaoYue/MedMamba has no licence file, so ask its authors before other use"
RULES: list[Rule] = []

DIRECT = ("patch_size", "in_chans", "depths", "drop_path_rate")


def build(config: dict[str, Any]) -> nn.Module:
    """The network for the original's arguments of VSSM.

    Raises:
        ModelError: an argument that we do not know.
    """
    rest = dict(config)
    values = {name: rest.pop(name) for name in DIRECT if name in rest}
    values["num_classes"] = rest.pop("num_classes", 1000)
    depths = values.get("depths", (2, 2, 4, 2))
    dims = rest.pop("dims", (96, 192, 384, 768))
    values["dims"] = [dims * 2**i for i in range(len(depths))] if isinstance(dims, int) else dims
    d_state = rest.pop("d_state", 16)
    values["d_state"] = math.ceil(values["dims"][0] / 6) if d_state is None else d_state
    if rest:
        raise ModelError(f"medmamba: we have no counterpart of {', '.join(f'{k}={v!r}' for k, v in rest.items())}")
    return MedMamba(MedMambaConfig(**values))
