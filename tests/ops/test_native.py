"""The native library: every instruction set, any number of threads, workers and forks."""

import os
import subprocess
from pathlib import Path

import pytest
import torch

from forked import python
from ops.common import assert_equal_runs, run
from ops.test_complex_scan import complex_scan
from ops.test_selective_scan import make, packed
from ssmlab.core.errors import BackendError
from ssmlab.ops import _native, selective_scan
from ssmlab.ops.lti.direct import long_conv

pytestmark = pytest.mark.skipif(bool(_native.MISSING), reason="the native library was not built")


@pytest.mark.parametrize("d", [1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33])
@pytest.mark.parametrize("op", [selective_scan, complex_scan])
def test_every_instruction_set_at_sizes_around_its_width(instruction_set, op, d):
    arguments = {k: t.float().double() for k, t in make(2, d, 66, 3, complex_=op is complex_scan).items()}
    exact = run(op, arguments, torch.float64, "reference", dt_softplus=True)
    for layout in ("tokens", "channels"):
        found = run(op, arguments, torch.float32, "native", layout, dt_softplus=True)
        for name, value in exact.items():
            assert float((found[name] - value).norm()) <= 5e-6 * float(value.norm()), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_conversions_round_to_nearest_even(instruction_set, dtype):
    """With A = 0, one state and dt = B = C = 1 the first output is the input, once rounded from float32."""
    bits = torch.arange(-(2**15), 2**15, 3, dtype=torch.int32).to(torch.int16)
    x = bits.view(dtype)[None, :, None]
    one = torch.ones(1, 1, 1)
    y, _ = selective_scan(x, torch.ones_like(x), torch.zeros(x.shape[1], 1), one, one, backend="native")
    finite = x.isfinite()
    assert torch.equal(y[finite], x[finite])
    assert torch.equal(y.isnan(), x.isnan())
    values = torch.randn(1, 4096, 1) * torch.logspace(-9, 5, 4096)[:, None]
    mixed = torch.ones_like(values).to(dtype)  # out = x * B: a float32 product stored in the half type
    y, _ = selective_scan(
        mixed, torch.ones_like(mixed), torch.zeros(4096, 1), one, one, values[0, :, 0], backend="native"
    )
    torch.testing.assert_close(y[0, :, 0], (values[0, :, 0] + 1).to(dtype), atol=0, rtol=0)


@pytest.mark.parametrize("form", [{}, {"groups": 2}, {"constant": "BC"}])
@pytest.mark.parametrize("n", [1, 4, 6, 7])
def test_every_instruction_set_with_a_complex_state(instruction_set, n, form):
    arguments = {k: t.float().double() for k, t in make(2, 20, 131, n, complex_=True, **form).items()}
    options = {"dt_softplus": True, "seq_idx": packed(2, 131, 70)}
    exact = run(complex_scan, arguments, torch.float64, "reference", **options)
    assert_equal_runs(run(complex_scan, arguments, torch.float32, "native", **options), exact, torch.float32)


def long_convolution(dtype, u, K, gy):
    """y of the kernels and both gradients, or of products with the whole triangular matrix in double precision."""
    u, K = (t.to(dtype).requires_grad_() for t in (u, K))
    if dtype == torch.float64:
        lags = torch.arange(u.shape[2])[:, None] - torch.arange(u.shape[2])
        y = torch.einsum("dij,bdj->bdi", K[:, lags.clamp(min=0)] * (lags >= 0), u)
    else:
        y = long_conv(u, K)
    return y.detach(), *torch.autograd.grad(y, (u, K), gy.to(dtype))


@pytest.mark.parametrize("tokens_first", [False, True])
@pytest.mark.parametrize(("b", "d", "l"), [(1, 1, 1), (2, 5, 3), (3, 16, 4), (1, 17, 8), (2, 33, 67), (1, 20, 523)])
def test_every_instruction_set_convolves_with_long_filters(instruction_set, b, d, l, tokens_first):
    generator = torch.Generator().manual_seed(l)
    u, gy = (torch.randn(b, d, l, generator=generator) for _ in range(2))
    u = u.mT.contiguous().mT if tokens_first else u
    K = torch.randn(d, l, generator=generator)
    for found, exact in zip(long_convolution(torch.float32, u, K, gy), long_convolution(torch.float64, u, K, gy)):
        assert float((found - exact).norm()) <= 1e-6 * float(exact.norm())
    assert long_conv(u, K).stride() == u.stride()


@pytest.mark.parametrize("op", [selective_scan, complex_scan])
def test_any_number_of_threads_gives_the_same_bits(op):
    arguments = make(2, 100, 150, 16, complex_=op is complex_scan)
    options = {"dt_softplus": True, "seq_idx": packed(2, 150, 60)}
    results = with_threads(lambda: run(op, arguments, torch.float32, "native", **options))
    for name, value in results[0].items():
        assert all(torch.equal(value, other[name]) for other in results[1:]), name


def test_any_number_of_threads_convolves_to_the_same_bits():
    u, gy, K = torch.randn(3, 50, 70), torch.randn(3, 50, 70), torch.randn(50, 70)
    results = with_threads(lambda: long_convolution(torch.float32, u, K, gy))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def with_threads(call):
    """The results with 1, 2, 3 and 8 threads."""
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results.append(call())
    finally:
        torch.set_num_threads(before)
    return results


SCRIPT = """
import os, signal, sys, torch
from ssmlab.ops import selective_scan
a = [torch.randn(1, 64, 200), torch.rand(1, 64, 200), -torch.rand(64, 4), *torch.randn(2, 1, 4, 200)]
torch.set_num_threads(2)
y, large = selective_scan(*a, backend="native")[0], torch.randn(1_000_000)
e = large.exp()  # torch's own threads
pid = os.fork()
if pid == 0:
    signal.alarm(60)
    same = torch.equal(selective_scan(*a, backend="native")[0], y) and torch.equal(large.exp(), e)
    os._exit(0 if same else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_computes_instead_of_hanging():
    done = python("import warnings; warnings.simplefilter('ignore')\n" + SCRIPT)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_one_openmp_runtime_is_loaded():
    code = "import ssmlab.ops; print(open('/proc/self/maps').read())"  # a fresh process: scikit-learn brings its own
    maps = python(code).stdout
    runtimes = {line.split()[-1] for line in maps.splitlines() if "libgomp" in line or "libomp" in line}
    assert len(runtimes) == 1, runtimes


def test_an_unknown_instruction_set_is_an_error():
    code = "import torch; from ssmlab.ops import causal_conv1d as f; f(torch.zeros(1, 2, 3), torch.zeros(2, 4))"
    out = python(code, SSMLAB_ISA="avx1024")
    assert "BackendError: SSMLAB_ISA=avx1024: this machine or build has no such kernels" in out.stderr


def test_no_library_symbol_is_weak():
    """A weak copy compiled for AVX-512 could be the one that the linker keeps for every path."""
    import ssmlab

    file = next(f for p in ssmlab.__path__ if (f := Path(p) / "_native.so").exists())
    tool = subprocess.run(["sh", "-c", "command -v nm"], capture_output=True, text=True, check=False).stdout.strip()
    if not tool:
        pytest.skip("nm is not installed")
    symbols = subprocess.run([tool, "-C", str(file)], capture_output=True, text=True, check=True).stdout
    own = [s for s in symbols.splitlines() if len(s.split()) > 2 and s.split()[1] in "wWV"]
    assert not own


def test_a_missing_library_is_explained(monkeypatch):
    monkeypatch.setattr(_native, "MISSING", "the native library was not built")
    arguments = [
        torch.zeros(1, 2, 3),
        torch.zeros(1, 2, 3),
        torch.zeros(2, 1),
        torch.zeros(1, 1, 3),
        torch.zeros(1, 1, 3),
    ]
    selective_scan(*arguments)
    with pytest.raises(BackendError, match="was not built"):
        selective_scan(*arguments, backend="native")
