"""The Triton kernels' tests, in processes of their own: interpreted on the CPU, or on a GPU where there is one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sympy
import torch
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from forked import python
from ssmlab.core.errors import BackendError
from ssmlab.ops import _triton, causal_conv1d, explain_backends
from ssmlab.ops._dispatch import load

HERE = Path(__file__).parent
pytest.importorskip("triton")


def run_tests(*arguments: str) -> None:
    mode = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=HERE.parents[1], env=os.environ | {"OMP_NUM_THREADS": "1"} | mode
    )
    assert done.returncode == 0, done.stdout[-3000:]  # no test at all is 5


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("op", ["causal_conv1d", "selective_scan", "directional_scan", "ssd", "steps"])
def test_kernels(op):
    run_tests(str(HERE / f"interpreted_{op}.py"))


def test_importing_the_operators_loads_no_kernels():
    """torch's own FLOP counter imports triton where it is installed; ours may not need it."""
    code = (
        "import sys, ssmlab.ops; print([n for n, m in sys.modules.items() if n[:6] == 'ssmlab' and hasattr(m, 'tl')])"
    )
    done = python(code)
    assert done.stdout == "[]\n", done.stderr


def test_what_no_grid_and_no_offset_can_count(monkeypatch):
    monkeypatch.setattr(_triton, "unusable", lambda tensors: None)
    modules = {name: load(name, "triton") for name in ("selective_scan", "causal_conv1d", "directional_scan", "ssd")}
    reasons = {
        "selective_scan": (torch.empty(2, 2**20, 2**11, device="meta"),),
        "causal_conv1d": (torch.empty(1, 2**19, 1, device="meta"), torch.empty(2**19, 4, device="meta")),
        "directional_scan": (torch.empty(2, 2**7, 2**12, 2**12, device="meta"),),
        "ssd": (torch.empty(1, 1, 2**16, 1, device="meta"),),
    }
    for name, tensors in reasons.items():
        assert re.search("count up to there|a grid takes", modules[name].unusable(tensors))
        few = [t[:, :1] if name != "ssd" else t[:, :, :1] for t in tensors]
        assert modules[name].unusable(tuple(few)) is None


def test_a_symbolic_length_stays_symbolic():
    """What the forward pass saves must not ask how long the sequence is, or every length is compiled anew."""
    environment = ShapeEnv()
    with FakeTensorMode(shape_env=environment) as mode:
        dynamic = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.STATIC] * 2 + [DimDynamic.DYNAMIC])
        x = mode.from_tensor(torch.empty(3, 8, 100), symbolic_context=dynamic)
        A, maps = torch.empty(8, 4), x[:, :4]
        torch.ops.ssmlab.selective_scan(x, x, A, maps, maps, *[None] * 5, True, True, "triton")
    assert not any(isinstance(guard.expr, sympy.Eq) for guard in environment.guards)


@pytest.mark.skipif(_triton.INTERPRETED, reason="the kernels are interpreted")
def test_cpu_tensors_are_refused_with_the_reason():
    with pytest.raises(BackendError, match=r"a tensor is on cpu; the kernels take CUDA tensors \(TRITON_INTERPRET=1"):
        causal_conv1d(torch.zeros(1, 2, 3), torch.zeros(2, 4), backend="triton")
    rows = [row for row in explain_backends() if row[1] == "triton"]
    assert [row[0] for row in rows] == ["selective_scan", "causal_conv1d", "directional_scan", "ssd"]
    assert not any(usable for _, _, usable, _ in rows)
