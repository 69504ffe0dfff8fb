"""The laws of the directional scan, every backend against the definition in float64, outputs and all gradients."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ops.common import assert_equal_runs, relative_error, rounded, run
from ops.test_selective_scan import BUILT, FAST
from ssmlab.core.errors import ShapeError
from ssmlab.ops import directional_scan, selective_scan


def make(b, d, h, w, n, k, absent=()):
    def values(*shape):
        return torch.randn(*shape, dtype=torch.float64)

    arguments = {
        "x": values(b, d, h, w), "dt": 0.6 * torch.rand(b, k, d, h, w, dtype=torch.float64),
        "A": -2 * torch.rand(k, d, n, dtype=torch.float64) - 0.05, "B": values(b, k, n, h, w),
        "C": values(b, k, n, h, w), "D": values(k, d), "dt_bias": 0.3 * values(k, d),
    }  # fmt: skip
    return {name: None if name in absent else t for name, t in arguments.items()}


def op(**arguments):
    return (directional_scan(**arguments),)


CASES = {
    "square": ((2, 20, 9, 9, 5, 4), ()),
    "wide, longer than a chunk": ((1, 33, 5, 31, 16, 4), ()),
    "tall, nothing optional": ((1, 16, 40, 3, 1, 4), ("D", "dt_bias")),
    "rows alone": ((2, 7, 4, 6, 3, 1), ()),
    "rows and columns": ((1, 5, 6, 4, 20, 2), ()),
    "one point": ((2, 17, 1, 1, 4, 4), ()),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("backend", "layout"),
    [("chunked", "tokens"), *(pytest.param("native", x, marks=BUILT) for x in ("tokens", "gaps"))],
)
def test_backend_equals_definition(backend, layout, case):
    sizes, absent = CASES[case]
    arguments = rounded(make(*sizes, absent=absent), torch.float32)
    options = {"dt_softplus": True, "directions": sizes[-1]}
    exact = run(op, arguments, torch.float64, "reference", **options)
    found = run(op, arguments, torch.float32, backend, layout, **options)
    assert_equal_runs(found, exact, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", FAST)
def test_half_precisions(backend, dtype):
    arguments = rounded(make(2, 20, 6, 7, 5, 4), dtype)
    exact = run(op, arguments, torch.float64, "reference", dt_softplus=True)
    found = run(op, arguments, dtype, backend, dt_softplus=True)
    assert_equal_runs(found, exact, dtype)


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_one_direction_is_a_selective_scan(backend):
    a = {name: t.float() for name, t in make(2, 20, 6, 7, 5, 1).items()}
    y = directional_scan(**a, dt_softplus=True, directions=1, backend=backend)
    maps = {name: a[name][:, 0].flatten(2) for name in ("dt", "B", "C")}
    parameters = {name: a[name][0] for name in ("A", "D", "dt_bias")}
    alone, _ = selective_scan(a["x"].flatten(2), **maps, **parameters, dt_softplus=True)
    torch.testing.assert_close(y.flatten(2), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_transposing_the_map_swaps_rows_and_columns(backend):
    a = {name: t.float() for name, t in make(1, 20, 6, 9, 5, 4).items()}
    swap = [1, 0, 3, 2]
    turned = {name: t.mT[:, swap] if name in ("dt", "B", "C") else t[swap] for name, t in a.items() if name != "x"}
    y = directional_scan(**a, backend=backend)
    torch.testing.assert_close(directional_scan(a["x"].mT, **turned, backend=backend).mT, y, atol=1e-5, rtol=1e-5)


def test_channels_last_memory_keeps_its_layout():
    a = {name: t.float() for name, t in make(1, 20, 6, 9, 5, 4).items()}
    y = directional_scan(**a)
    a["x"] = a["x"].contiguous(memory_format=torch.channels_last)
    again = directional_scan(**a)
    assert again.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(again, y)
    assert relative_error(again, y) < 1e-6


@BUILT
def test_operator_checks():
    a = {name: t.float() for name, t in make(2, 20, 6, 7, 5, 4).items()}
    arguments = (*a.values(), True)
    torch.library.opcheck(torch.ops.ssmlab.directional_scan, (*arguments, True, "native"))
    y, saved = torch.ops.ssmlab.directional_scan(*arguments, True, "native")
    torch.library.opcheck(torch.ops.ssmlab.directional_scan_backward, (y, saved, *arguments))


def test_every_direction_is_counted():
    a = {name: t.float() for name, t in make(2, 20, 6, 7, 5, 4).items()}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        directional_scan(**a)
    assert counter.get_total_flops() == 4 * 2 * (9 * 5 + 1) * 2 * 20 * 42


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("sizes", [(0, 5, 3, 4, 2, 4), (2, 5, 0, 4, 2, 4)])
def test_empty(backend, sizes):
    a = {name: t.float().requires_grad_() for name, t in make(*sizes).items()}
    y = directional_scan(**a, backend=backend)
    y.sum().backward()
    assert y.shape == sizes[:4]
    assert a["A"].grad is None or not a["A"].grad.any()


def test_wrong_arguments_say_what_to_do():
    a = {name: t.float() for name, t in make(1, 4, 3, 5, 2, 4).items()}
    with pytest.raises(ShapeError, match="directions must be 1, 2 or 4"):
        directional_scan(**a, directions=3)
    with pytest.raises(ShapeError, match=r"B must have shape \(b=1, k=4, n=2, h=3, w=5\), got \(1, 4, 2, 5, 3\)"):
        directional_scan(**(a | {"B": a["B"].mT}))
    with pytest.raises(ShapeError, match="A must be real"):
        directional_scan(**(a | {"A": a["A"].to(torch.complex64)}))
