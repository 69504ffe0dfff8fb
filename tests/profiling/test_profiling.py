"""Operations, throughput and memory."""

import sys

import pytest
import torch
from torch import nn

from ssmlab.models import create_model
from ssmlab.nn import Mamba
from ssmlab.profiling import count_flops, count_parameters, images_per_second, memory, peak_memory

MIB = 2**20


class First(nn.Module):
    """The outputs of a block without its state."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, u):
        return self.block(u)[0]


def test_flops_of_products_and_convolutions():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 8, 10))
    macs = 8 * 8 * 4 * 3 * 9 + 4 * 8 * 8 * 10
    assert count_flops(model, torch.randn(1, 3, 8, 8)) == (macs, 2 * macs, 0, 0)
    assert count_flops(model, torch.randn(2, 3, 8, 8)).macs == 2 * macs


def test_flops_of_the_scan_are_counted_apart():
    b, l, d, n, rank = 2, 12, 16, 4, 1
    model = Mamba(8, d_state=n)
    counts = count_flops(First(model), torch.randn(b, l, 8))
    projections = b * l * (8 * 2 * d + d * (rank + 2 * n) + rank * d + d * 8)
    assert counts.scan_macs == 9 * b * d * l * n + b * d * l
    assert counts.scan_flops == 2 * counts.scan_macs
    assert counts.flops == 2 * counts.macs
    assert counts.macs == projections + counts.scan_macs + b * d * l * 4  # the convolution is four taps wide


def test_hybrid_costs_the_baseline_and_its_scan():
    x = torch.randn(1, 3, 32, 32)
    options = {"num_classes": 3, "image_size": 32}
    hybrid, baseline = (count_flops(create_model(n, **options), x) for n in ("resnet_mamba_test", "resnet_test"))
    assert baseline.scan_macs == 0 < hybrid.scan_macs < hybrid.macs - baseline.macs


def test_parameters():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4, bias=False))
    model[0].requires_grad_(False)
    assert count_parameters(model) == 3 * 4 + 4 + 16
    assert count_parameters(model, trainable=True) == 16
    model.append(model[1])
    assert count_parameters(model) == 3 * 4 + 4 + 16


class Watched(nn.Module):
    """Notes how it is called."""

    def __init__(self):
        super().__init__()
        self.calls, self.dropout = [], nn.Dropout()

    def forward(self, x):
        self.calls.append((self.training, self.dropout.training, torch.is_inference_mode_enabled()))
        return x


def test_throughput_is_measured_in_inference_and_modes_come_back():
    model = Watched().train()
    model.dropout.eval()
    rate = images_per_second(model, torch.zeros(4, 1), repeats=3, warmup=1)
    assert model.calls == [(False, False, True)] * 5
    assert model.training
    assert not model.dropout.training
    assert 0 < rate.low <= rate.median <= rate.high
    assert rate.cold_seconds > 0
    with pytest.raises(ValueError, match="repeats"):
        images_per_second(model, torch.zeros(4, 1), repeats=0)


def test_throughput_divides_by_time(monkeypatch):
    clock = iter([0, 9, 10, 12, 20, 21, 30, 34])  # 9 s cold, then 2 s, 1 s, 4 s
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    rate = images_per_second(Watched(), torch.zeros(8, 1), repeats=3, warmup=0)
    assert rate == (4, 2, 8, 9)


def meters():
    return [m for m in ("_HighWater", "_Sampled") if sys.platform == "linux"]


@pytest.mark.parametrize("name", meters())
def test_peak_memory_sees_what_was_freed_again(name, monkeypatch):
    meter = getattr(memory, name)
    monkeypatch.setattr(memory, "_cpu_meter", meter)
    with peak_memory() as peak:
        block = torch.ones(32 * MIB // 4)
        if name == "_Sampled":
            torch.ones(8 * MIB // 4).exp_()
            threading_pause()
        del block
    assert peak.method == meter.method
    assert 30 * MIB < peak.extra < 80 * MIB
    assert peak.bytes > peak.extra
    with peak_memory() as small:
        pass
    assert small.extra < 8 * MIB


def threading_pause():
    import time

    time.sleep(5 * memory.SAMPLE_SECONDS)


def test_peak_memory_without_proc(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "PROC", tmp_path)
    with peak_memory() as peak:
        pass
    if sys.platform == "win32":
        assert (peak.bytes, peak.method) == (None, "none")
    else:
        assert peak.method == "lifetime"
        assert peak.bytes > 10 * MIB
        assert peak.extra is None
    (tmp_path / "statm").write_text("1000 500 0")
    with peak_memory() as peak:
        pass
    assert peak.method == "sampled"
    assert peak.extra == 0


def test_peak_memory_is_filled_when_the_block_fails():
    with pytest.raises(RuntimeError), peak_memory() as peak:
        raise RuntimeError
    assert peak.bytes


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_peak_memory_of_a_gpu():
    with peak_memory("cuda") as peak:
        block = torch.ones(32 * MIB // 4, device="cuda")
        del block
    assert peak.method == "cuda"
    assert peak.extra == 32 * MIB
