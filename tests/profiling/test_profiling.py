"""Operations, throughput and memory."""

import contextlib
import sys

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ssmlab.models import create_model
from ssmlab.nn import Mamba
from ssmlab.ops import directional_scan
from ssmlab.profiling import (
    Call,
    Timings,
    TrainingStep,
    count_flops,
    count_parameters,
    forward_call,
    images_per_second,
    in_rounds,
    memory,
    peak_memory,
    weight_bytes,
)
from ssmlab.profiling.flops import _attention_flops
from ssmlab.profiling.language import PROMPT, token_costs

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
    assert count_flops(model, torch.randn(1, 3, 8, 8))[:4] == (macs, 2 * macs, 0, 0)
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


@pytest.mark.parametrize(
    ("name", "parts", "printed"),
    [
        ("vmamba_tiny", ("convolutions", "linear layers", "batched products", "scans"), 4.88),
        ("mambavision_tiny", ("convolutions", "linear layers"), 4.46),
        ("mambavision_tiny", ("convolutions", "linear layers", "batched products"), 4.57),
    ],
)
def test_counts_are_those_of_the_authors_within_one_per_cent(name, parts, printed):
    with torch.device("meta"):
        counts = count_flops(create_model(name, num_classes=1000), torch.zeros(1, 3, 224, 224))
    assert sum(counts.parts[part] for part in parts) / 1e9 == pytest.approx(printed, rel=0.01)
    assert sum(counts.parts.values()) == counts.macs and counts.parts["scans"] == counts.scan_macs > 0


def test_every_kind_of_scan_is_one():
    b, k, d, h, w, n = 1, 4, 3, 5, 6, 2
    arguments = [torch.randn(b, d, h, w), torch.randn(b, k, d, h, w), -torch.ones(k, d, n)]
    arguments += [torch.randn(b, k, n, h, w), torch.randn(b, k, n, h, w)]

    class Scan(nn.Module):
        def forward(self, *tensors):
            return directional_scan(*tensors)

    assert count_flops(Scan(), tuple(arguments)).scan_macs == k * (9 * d * h * w * n + d * h * w)
    counts = count_flops(create_model("mamba2_lm_test"), torch.zeros(1, 7, dtype=torch.int64))
    assert 0 < counts.scan_macs < counts.macs


def test_meta_models_cost_the_same():
    x = torch.randn(1, 3, 32, 32)
    for name in ("resnet_mamba_test", "vmamba_test", "mambavision_test", "vim_test", "medmamba_test"):
        with torch.device("meta"):
            unreal = count_flops(create_model(name, num_classes=3, image_size=32), x.to("meta"))
        assert count_flops(create_model(name, num_classes=3, image_size=32), x) == unreal


class Attention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, q, k, v):
        return nn.functional.scaled_dot_product_attention(q, k, v, **self.options)


@pytest.mark.parametrize("backend", [None, SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"enable_gqa": True}, {"attn_mask": torch.zeros(6, 10)}])
def test_attention_counts_whichever_kernel_computes_it(options, dtype, backend):
    heads = 2 if "enable_gqa" in options else 4
    shapes = [(2, 4, 6, 8), (2, heads, 10, 8), (2, heads, 10, 8)]
    for device in ("cpu", "meta"):
        inputs = tuple(torch.zeros(shape, dtype=dtype, device=device) for shape in shapes)
        here = {k: v.to(device, dtype) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
        with contextlib.nullcontext() if backend is None else sdpa_kernel([backend, SDPBackend.MATH]):
            counts = count_flops(Attention(**here), inputs)
        assert counts.macs == counts.parts["batched products"] == 2 * 4 * 6 * 10 * (8 + 8)


def test_the_formula_of_attention_for_other_widths():
    assert _attention_flops((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 4)) == 2 * 2 * 3 * 5 * 7 * (8 + 4)


def test_attention_of_torchs_own_modules_counts():
    b, l, d = 2, 6, 8
    attention = b * l * d * 4 * d + 2 * b * l * l * d
    layer = nn.TransformerEncoderLayer(d, 2, dim_feedforward=16, batch_first=True)
    before = torch.backends.mha.get_fastpath_enabled()
    counts = count_flops(layer, torch.zeros(b, l, d))
    assert counts.macs == attention + b * l * 2 * d * 16
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_calls_take_turns_and_another_one_begins_each_round(monkeypatch):
    now, said, turns = [0.0], [], []
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def call(name, cold, warm):
        def function():
            now[0] += warm if name in said else cold
            said.append(name)

        return Call(function, 4, torch.device("cpu"))

    calls = {"a": call("a", 5.0, 1.0), "b": call("b", 7.0, 2.0), "c": call("c", 9.0, 4.0)}
    found = in_rounds(calls, 3, warmup=1, progress=turns.append)
    assert "".join(said) == "abc" + "abc" + "abc" + "bca" + "cab" and turns == list(range(1, 10))
    assert found["b"] == Timings(4, 7.0, (2.0, 2.0, 2.0))
    assert found["c"].throughput == (1.0, 1.0, 1.0, 9.0)
    assert len(in_rounds(calls, 2, calls_a_round=5, warmup=0)["a"].seconds) == 10
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        in_rounds(calls, 0)


def test_percentiles():
    times = Timings(1, 0.0, (5.0, 1.0, 3.0, 2.0, 4.0))
    assert [times.percentile(p) for p in (0, 50, 90, 100)] == pytest.approx([1.0, 3.0, 4.6, 5.0])
    assert Timings(1, 0.0, (2.0,)).percentile(99) == 2.0


def test_a_forward_call_is_inference():
    model = Watched().eval()
    assert forward_call(model, torch.zeros(3, 1)).seconds() >= 0 and forward_call(model, torch.zeros(3, 1)).items == 3
    assert model.calls == [(False, False, True)]


def test_a_training_step_learns_and_knows_what_stays():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).eval()
    step = TrainingStep(model, torch.randn(4, 6), torch.tensor([0, 1, 2, 0]))
    values = sum(p.numel() for p in model.parameters())
    buffers = 4 * (5 + 5) + 8
    assert step.resident_bytes() == weight_bytes(model) == 4 * values + buffers
    before = model[0].weight.detach().clone()
    assert step.call.seconds() > 0 and step.call.items == 4 and model.training
    assert not torch.equal(model[0].weight, before)
    counters = 4 * len(list(model.parameters()))  # AdamW counts its steps, for every parameter
    assert step.resident_bytes() == 4 * 4 * values + buffers + counters
    model[2].weight = model[0].weight  # shared weights are there once
    assert weight_bytes(model) == 4 * (values - 15) + buffers


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_that_was_freed_before_does_not_hide_a_peak():
    blocks = [bytearray(64 * 1024) for _ in range(16 * 40)]
    pin = bytearray(64 * 1024)  # behind these 40 MiB: the allocator keeps them when they are freed
    del blocks
    with peak_memory("cpu") as peak:
        blocks = [bytearray(64 * 1024) for _ in range(16 * 40)]
    assert len(blocks) == 640 and pin and peak.extra > 30 * MIB


def test_costs_of_a_token():
    with torch.device("meta"):
        mamba, transformer = (create_model(f"{name}_lm_test") for name in ("mamba", "transformer"))
    costs = token_costs(mamba)
    d, n, layers = 32, 4, 2
    assert costs.state_bytes == 4 * layers * (d * n + d * 3) and costs.growth_bytes == 0
    assert costs.step.scan_macs == layers * (9 * d * n + d)
    assert costs.prompt.flops == PROMPT * costs.step.flops
    grown = token_costs(transformer)
    assert grown.growth_bytes >= 4 * 2 * 2 * 16 and grown.prompt.flops > PROMPT * grown.step.flops
    assert mamba.training, "modes come back"
