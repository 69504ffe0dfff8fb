"""The methods by name: which parts of a model each adapts, and how. A table; torch is not imported."""

from dataclasses import dataclass

from ssmlab.core.errors import ModelError
from ssmlab.core.text import did_you_mean

PROJECTIONS = ("in_proj", "x_proj", "dt_proj", "out_proj")


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method of adaptation: which parts it changes, and how.

    title: in a line.
    low_rank: parts that get a low-rank update, by their role in `adapt.parts`; those that are vectors, or too small for
        the rank to save anything, are trained directly.
    direct: parts that are trained directly, as a difference to the base's values.
    extra: what is built next to or into the blocks, the name of a module of this package, or "".
    dora: whether low-rank updates are weight-decomposed (Liu et al. 2024, arXiv:2402.09353).
    rslora: whether they are scaled by alpha / sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732).
    """

    title: str
    low_rank: tuple[str, ...] = ()
    direct: tuple[str, ...] = ()
    extra: str = ""
    dora: bool = False
    rslora: bool = False


_SCAN = ("D", "dt_bias")
METHODS: dict[str, Method] = {
    "projections": Method(title="LoRA on the linear layers of every block", low_rank=PROJECTIONS),
    "state_transition": Method(title="LoRA on A; D and the bias of dt themselves", low_rank=("A",), direct=_SCAN),
    "embeddings": Method(title="LoRA on embeddings and head", low_rank=("embedding", "head")),
    "all": Method(
        title="LoRA on every matrix of blocks, MLPs, embeddings and head; convolution, D and the bias of dt themselves",
        low_rank=(*PROJECTIONS, "A", "mlp", "embedding", "head"),
        direct=(*_SCAN, "conv"),
    ),
    "x_half": Method(title="LoRA on the x half of in_proj", low_rank=("in_proj.x",)),
    "z_half": Method(title="LoRA on the gate's half of in_proj", low_rank=("in_proj.z",)),
    "dt_part": Method(title="LoRA on what makes dt, in x_proj or in_proj", low_rank=("dt",)),
    "B_part": Method(title="LoRA on what makes B, in x_proj or in_proj", low_rank=("B",)),
    "C_part": Method(title="LoRA on what makes C, in x_proj or in_proj", low_rank=("C",)),
    "in_proj": Method(title="LoRA on in_proj", low_rank=("in_proj",)),
    "x_proj": Method(title="LoRA on x_proj", low_rank=("x_proj",)),
    "dt_proj": Method(title="LoRA on dt_proj", low_rank=("dt_proj",)),
    "out_proj": Method(title="LoRA on out_proj", low_rank=("out_proj",)),
    "mlp": Method(title="LoRA on the MLPs", low_rank=("mlp",)),
    "dora": Method(title="DoRA on the linear layers of every block", low_rank=PROJECTIONS, dora=True),
    "rslora": Method(title="rank-stabilised LoRA on the same", low_rank=PROJECTIONS, rslora=True),
    "A": Method(title="A itself", direct=("A",)),
    "D": Method(title="D itself", direct=("D",)),
    "dt_bias": Method(title="the bias of dt itself", direct=("dt_bias",)),
    "conv": Method(title="the blocks' convolutions themselves", direct=("conv",)),
    "bias": Method(title="every bias itself", direct=("bias", "dt_bias")),
    "norm": Method(title="the norms' weights and biases themselves", direct=("norm",)),
    "head": Method(title="the classifier itself", direct=("head",)),
    "vocabulary": Method(title="new rows of embedding and head, for `vocab_size` tokens", extra="vocabulary"),
    "affix": Method(title="learned tokens before every block's input, dropped after it", extra="affix"),
    "additional_scan": Method(title="further states in every scan", extra="additional_scan"),
    "state_offset_h": Method(title="a constant added to every state, y_t += C_t h'", extra="state_offset_h"),
    "state_offset_y": Method(title="a constant added to every scan's output, y_t += y'", extra="state_offset_y"),
    "sparse_dimensions": Method(title="chosen entries of A, B and C", extra="dimensions"),
}


def parse(method: str) -> dict[str, Method]:
    """The methods of a text such as "projections+conv", in its order.

    Raises:
        ModelError: an unknown name, or the same one twice.
    """
    names = [name.strip() for name in method.split("+")]
    for name in names:
        if name not in METHODS:
            hint = did_you_mean(name, METHODS) or f"; there are {', '.join(METHODS)}"
            raise ModelError(f"unknown method {name!r}{hint}; several are joined as in projections+conv")
    if len(set(names)) < len(names):
        raise ModelError(f"method={method!r} names a method twice")
    return {name: METHODS[name] for name in names}
