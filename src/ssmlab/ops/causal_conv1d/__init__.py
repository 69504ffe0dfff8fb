"""The contract of the causal depthwise convolution before every Mamba scan."""

from torch import Tensor

from ssmlab.core.checks import check_choice, check_shapes
from ssmlab.core.errors import ShapeError
from ssmlab.ops._dispatch import choose

ACTIVATIONS = (None, "silu")


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    seq_idx: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Convolve every channel with its own short filter over the present and the past.

        y_t = act(bias + sum_k weight_k x_{t - (width - 1) + k})

    Source: Gu & Dao 2023 (arXiv:2312.00752), Figure 3. Any strides are accepted; channel-contiguous memory, i.e.
    `(b, l, d).mT`, is the fastest. Gradients flow into every floating-point argument and out of the final state.

    Args:
        x: input, (b, d, l), float32, bfloat16, float16 or float64.
        weight: filters, (d, width), newest tap last.
        bias: (d,).
        activation: None or "silu".
        initial_state: the width - 1 inputs before the first token, (b, d, width - 1), newest last.
        seq_idx: integers, (b, l); nothing crosses from one value to the next. The initial state belongs to the first.
        backend: "native", "triton" (GPUs) or "reference"; None takes the fastest that can run this call.
    Returns:
        y (b, d, l) in the dtype of x, and the last width - 1 inputs of the last sequence (b, d, width - 1), newest
        last, before bias and activation, in the dtype of x.
    Raises:
        ShapeError: sizes disagree, an argument is no tensor of a dtype and device that it may have, or the activation
            is unknown.
        BackendError: the requested backend cannot run this call.
    """
    sizes = check_shapes(
        "causal_conv1d", {"width-1": _taps(weight) - 1}, x=(x, "b d l"), weight=(weight, "d width"),
        bias=(bias, "?: d"), initial_state=(initial_state, "?: b d width-1"), seq_idx=(seq_idx, "integer?: b l"),
    )  # fmt: skip
    check_choice("causal_conv1d", "activation", activation, ACTIVATIONS)
    if sizes["width"] < 1:
        raise ShapeError("causal_conv1d: weight has no taps; give a width of at least 1")
    chosen = choose("causal_conv1d", (x, weight, bias, initial_state, seq_idx), backend)
    return chosen.forward(x, weight, bias, activation, initial_state, seq_idx)


def _taps(weight: object) -> int:
    """The width of a weight; whatever else is wrong with it is found by `check_shapes`."""
    return weight.shape[1] if isinstance(weight, Tensor) and weight.dim() == 2 else 1
