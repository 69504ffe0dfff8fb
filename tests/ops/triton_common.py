"""What the Triton kernels' tests share: small tiles, so that little data has many of them, and the device they run on.

The files `interpreted_*.py` are run by `test_triton.py`, in a process of their own: triton decides when it is imported
whether its kernels are interpreted.
"""

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def on_device(op):
    """`op` on copies of its tensors on the device where there is one, results on the CPU."""

    def moved(**arguments):
        sent = {k: t.to(DEVICE) if isinstance(t, torch.Tensor) else t for k, t in arguments.items()}
        results = op(**sent)
        return tuple(t.cpu() for t in (results if isinstance(results, tuple) else (results,)))

    return moved


def compared(op, arguments, dtype, options, layout="tokens"):
    """The Triton backend against the definition in float64, outputs and all gradients."""
    from ops.common import assert_equal_runs, rounded, run

    arguments = rounded(arguments, dtype)
    exact = run(on_device(op), arguments, torch.float64, "reference", **options)
    assert_equal_runs(run(on_device(op), arguments, dtype, "triton", layout, **options), exact, dtype)
