"""The classifier that ends every vision model of the comparison."""

from __future__ import annotations

from torch import Tensor, nn

from ssmlab.nn.linear import Linear


class ClassifierHead(nn.Module):
    """Linear -> LayerNorm -> GELU -> dropout -> Linear to the classes.

    Args:
        in_features: channels of the pooled features.
        num_classes: 0 leaves out the last layer, as in timm.
        hidden: channels between the two linear layers.
        dropout: probability of dropout before the last layer.
    """

    def __init__(self, in_features: int, num_classes: int, *, hidden: int = 256, dropout: float = 0.1):
        super().__init__()
        self.hidden = Linear(in_features, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.act = nn.GELU()
        self.dropout = nn.Dropout(dropout)
        self.classifier: nn.Module = nn.Identity()
        self.reset(num_classes)

    def reset(self, num_classes: int):
        """Replace the last layer by a new one, with its initial values, where the old one was."""
        weight = self.hidden.weight
        self.classifier = (
            Linear(self.hidden.out_features, num_classes).to(weight.device, weight.dtype)
            if num_classes > 0
            else nn.Identity()
        )

    def forward(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """x (b, in_features) -> logits (b, num_classes), or with `pre_logits` the features before them (b, hidden)."""
        x = self.dropout(self.act(self.norm(self.hidden(x))))
        return x if pre_logits else self.classifier(x)
