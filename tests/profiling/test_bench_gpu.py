"""What the benchmark adds on a GPU, as far as a machine without one can say."""

import pytest
import torch

from ssmlab.profiling.bench import candidates, gpu
from ssmlab.profiling.bench.opponents import Missing
from ssmlab.profiling.bench.options import OPS
from ssmlab.profiling.bench.shapes import Shape


def test_shapes_hold_those_that_are_promised():
    sizes = {(s.b, s.d, s.l, s.n, s.dtype) for s in gpu.shapes("selective_scan")}
    assert {(8, 5120, 2048, 16, "bfloat16"), (1, 5120, 65536, 16, "bfloat16")} <= sizes
    for op in OPS:
        assert len(gpu.shapes(op, quick=True)) <= 4 <= len(gpu.shapes(op)) or op == "lti"
        assert {s.op for s in gpu.shapes(op)} <= {op}


@pytest.mark.parametrize("backward", [False, True])
def test_attention_has_half_the_channels(backward):
    shape = Shape(op="ssd", backward=backward, d=256, l=20, n=16, dtype="float32", layout="channel-contiguous")
    calls = gpu.yardsticks(shape, candidates.make_inputs(shape, "cpu"))
    assert list(calls) == [gpu.ATTENTION]
    found = calls[gpu.ATTENTION]()
    assert [t.shape for t in (found if backward else [found])] == [torch.Size([1, 2, 20, 64])] * (3 if backward else 1)


@pytest.mark.parametrize("op", [op for op in gpu.OPPONENTS if gpu.OPPONENTS[op]])
def test_an_opponent_that_is_not_here_is_told(op):
    for _, make, _ in gpu.OPPONENTS[op]:
        with pytest.raises(Missing, match="No module named"):
            make(gpu.shapes(op)[0])
