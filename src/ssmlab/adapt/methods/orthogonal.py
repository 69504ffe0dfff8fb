"""Tuning in the subspace that the trained weights use least, by PEFT's OSF."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ssmlab.adapt.spectrum import linear_layers
from ssmlab.nn import Linear2d


class ChannelsLast(nn.Module):
    """A linear layer over the channels of (b, c, h, w), as `Linear2d`, with the layer as a module inside.

    PEFT puts its own layers in the place of linear ones, and these take channels last.
    """

    def __init__(self, linear: Linear2d):
        super().__init__()
        self.linear = nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.linear.weight, self.linear.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """(b, in_features, h, w) -> (b, out_features, h, w)."""
        return self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def tune_orthogonally(
    model: nn.Module,
    targets: str | Sequence[str] = ("in_proj", "x_proj", "out_proj", "fc1", "fc2"),
    *,
    share: float = 0.5,
    train: Sequence[str] = (),
) -> list[str]:
    """Let only the small singular directions of linear layers be trained, orthogonally to the large ones.

    Source: Nayak et al. 2025, "Sculpting Subspaces" (arXiv:2504.07097), by PEFT's OSF. All else is frozen.

    Args:
        targets: linear layers, by their whole name or its last part, with * and ?; a name that the model does not have
            is left out, as long as another one is there.
        share: of every layer's directions, the largest first, that stay as they are.
        train: names of modules that are trained whole, such as a new head.
    Returns:
        the names of the layers.
    Raises:
        UserError: none of the targets is there.
    """
    from peft import OSFConfig, inject_adapter_in_model

    wanted = [targets] if isinstance(targets, str) else list(targets)
    there = [name.rpartition(".")[2] for name, child in model.named_modules() if isinstance(child, nn.Linear)]
    known = [pattern for pattern in wanted if pattern in there] or wanted
    layers = linear_layers(model, known)
    inner = []
    for name, layer in layers.items():
        if isinstance(layer, Linear2d):
            model.set_submodule(name, ChannelsLast(layer))
            inner.append(f"{name}.linear")
        else:
            inner.append(name)
    inject_adapter_in_model(OSFConfig(target_modules=inner, effective_rank=share), model)
    for name in train:
        model.get_submodule(name).requires_grad_(True)
    return list(layers)


def merge_orthogonal(model: nn.Module) -> nn.Module:
    """Put the tuned weights into the model's own layers, under their own names, in place; the rest stays frozen."""
    from peft.tuners.osf.layer import OSFLayer

    for name, layer in [(n, m) for n, m in model.named_modules() if isinstance(m, OSFLayer)]:
        layer.merge()
        model.set_submodule(name, layer.get_base_layer().requires_grad_(True))
    for name, outer in [(n, m) for n, m in model.named_modules() if isinstance(m, ChannelsLast)]:
        linear = Linear2d(outer.linear.in_features, outer.linear.out_features, outer.linear.bias is not None)
        linear.weight, linear.bias = outer.linear.weight, outer.linear.bias
        model.set_submodule(name, linear)
    if hasattr(model, "peft_config"):
        del model.peft_config
    return model
