"""Inputs, layouts and error measures that the operator tests share."""

import torch

# Relative error ||y - y64|| / ||y64|| by storage dtype: outputs, gradients.
TOLERANCE = {
    torch.float64: (1e-12, 1e-11),
    torch.float32: (1e-6, 1e-5),
    torch.bfloat16: (8e-3, 8e-3),
    torch.float16: (1e-3, 1e-3),
}


def relative_error(value: torch.Tensor, exact: torch.Tensor) -> float:
    if exact.norm() == 0:
        return 0.0 if bool((value == 0).all()) else float("inf")
    return float((value.to(exact.dtype) - exact).norm() / exact.norm())


def laid_out(tensor: torch.Tensor | None, layout: str) -> torch.Tensor | None:
    """The same values in other memory: "channels" (l before d), "tokens" (contiguous), "gaps" (NaN in between)."""
    if tensor is None or tensor.dim() < 2:
        return tensor
    if layout == "channels":
        return tensor.mT.contiguous().mT
    if layout == "gaps":
        wide = torch.full([2 * size for size in tensor.shape], torch.nan, dtype=tensor.dtype)
        gaps = wide[tuple(slice(0, None, 2) for _ in tensor.shape)]
        gaps.copy_(tensor)
        return gaps
    return tensor.contiguous()


def rounded(arguments: dict, dtype: torch.dtype) -> dict:
    """float64 values that `dtype` can hold, so that both sides start from the same numbers."""
    return {k: None if t is None else t.to(dtype).double() for k, t in arguments.items()}


def run(op, arguments: dict, dtype: torch.dtype, backend: str, layout: str = "tokens", **options) -> dict:
    """Outputs and the gradients of every argument, against fixed random output gradients, in float64."""
    leaves = {k: laid_out(t.to(dtype), layout).detach().requires_grad_() for k, t in arguments.items() if t is not None}
    outputs = op(**leaves, backend=backend, **options)
    generator = torch.Generator().manual_seed(1)
    loss = torch.zeros((), dtype=torch.float64)
    for output in outputs:
        weight = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        loss = loss + (output.double() * weight.to(output.dtype).double()).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    found = {f"out{i}": output.detach().double() for i, output in enumerate(outputs)}
    return found | {k: g.double() for k, g in zip(leaves, gradients, strict=True)}


def assert_equal_runs(found: dict, exact: dict, dtype: torch.dtype) -> None:
    output, gradient = TOLERANCE[dtype]
    errors = {k: relative_error(found[k], exact[k]) for k in exact}
    bad = {k: e for k, e in errors.items() if not e <= (output if k.startswith("out") else gradient)}
    assert not bad, f"relative errors above the tolerance: {bad}"
