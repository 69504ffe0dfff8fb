"""The Triton kernels' tests, in processes of their own: interpreted on the CPU, or on a GPU where there is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ssmlab.errors import BackendError
from ssmlab.ops import _triton, causal_conv1d, explain_backends

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


@pytest.mark.timeout(600)
def test_some_of_each():
    """What is quick, so that a broken kernel is seen by every run of the tests."""
    files = [str(HERE / f"interpreted_{op}.py") for op in ("causal_conv1d", "selective_scan", "ssd", "steps")]
    run_tests(*files, "-k", "shorter and None or one_state or two or 37-16")


def test_importing_the_operators_loads_no_kernels():
    """torch's own FLOP counter imports triton where it is installed; ours may not need it."""
    code = (
        "import sys, ssmlab.ops; print([n for n, m in sys.modules.items() if n[:6] == 'ssmlab' and hasattr(m, 'tl')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.skipif(_triton.INTERPRETED, reason="the kernels are interpreted")
def test_cpu_tensors_are_refused_with_the_reason():
    with pytest.raises(BackendError, match=r"a tensor is on cpu; the kernels take CUDA tensors \(TRITON_INTERPRET=1"):
        causal_conv1d(torch.zeros(1, 2, 3), torch.zeros(2, 4), backend="triton")
    rows = [row for row in explain_backends() if row[1] == "triton"]
    assert [row[0] for row in rows] == ["selective_scan", "causal_conv1d", "directional_scan", "ssd"]
    assert not any(usable for _, _, usable, _ in rows)
