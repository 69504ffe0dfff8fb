"""Every CUDA device is the CPU: each way of naming one, and that torch gets its own functions back."""

import copy
import io
import pickle
import threading
import warnings
from unittest.mock import patch

import pytest
import torch
from torch import nn

from forked import python
from ssmlab.compat import cuda_as_cpu
from ssmlab.core.errors import UserError


@pytest.fixture
def cpu():
    cuda_as_cpu.install()
    yield
    cuda_as_cpu.uninstall()


def saved_on_gpu() -> io.BytesIO:
    """A file as a GPU's program writes it: the same bytes, the storage tagged cuda:0."""
    registry = torch.serialization._package_registry
    registry.insert(0, (0, lambda storage: "cuda:0", lambda storage, location: None))
    file = io.BytesIO()
    try:
        torch.save({"w": torch.arange(3.0)}, file)
    finally:
        registry.pop(0)
    file.seek(0)
    return file


def on_cpu(*tensors: torch.Tensor) -> bool:
    return all(t.device.type == "cpu" for t in tensors)


def load(**options) -> bool:
    w = torch.load(saved_on_gpu(), **options)["w"]
    return on_cpu(w) and w.tolist() == [0, 1, 2]


def half(context) -> torch.dtype:
    with context:
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


def timed() -> bool:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    with torch.cuda.stream(torch.cuda.Stream()) as nothing, torch.cuda.device(0), torch.cuda.device("cuda:1"):
        torch.cuda.current_stream().wait_stream(torch.cuda.Stream())
    end.record()
    torch.cuda.synchronize()
    return nothing is None and 0 <= begin.elapsed_time(end) < 1e4 and end.query()


def seeded(seed) -> bool:
    seed(3)
    first = torch.rand(4)
    seed(3)
    return torch.equal(first, torch.rand(4, device="cuda"))


def copied(move) -> bool:
    """What is done in place to a tensor on the other device does not reach the data."""
    data = torch.ones(3)
    moved = move(data)
    moved += 1
    return on_cpu(moved) and data.tolist() == [1, 1, 1] and moved.tolist() == [2, 2, 2]


def trained_in_half_precision() -> bool:
    model, scaler = nn.Linear(2, 1).cuda(), torch.amp.GradScaler("cuda")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = copy.deepcopy(model)
    with torch.autocast("cuda", dtype=torch.float16):
        loss = model(torch.ones(4, 2, device="cuda")).square().mean()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    moved = all(
        torch.allclose(b - 0.1 * a.grad, a) for a, b in zip(model.parameters(), before.parameters(), strict=True)
    )
    return loss.dtype == torch.float32 and moved and scaler.get_scale() == 1.0


class Doubled(torch.autograd.Function):
    """An operator that a program writes for mixed precision."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g


def custom(forward, backward) -> bool:
    kind = type("Custom", (Doubled,), {"forward": staticmethod(forward(Doubled.forward)),
                                       "backward": staticmethod(backward(Doubled.backward))})  # fmt: skip
    x = torch.ones(2, requires_grad=True)
    kind.apply(x).sum().backward()
    return x.grad.tolist() == [2, 2]


def deprecated(make):
    """torch warns of its older names; programs use them all the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def one_process() -> bool:
    torch.distributed.init_process_group("nccl", init_method=f"tcp://127.0.0.1:{free_port()}", rank=0, world_size=1)
    try:
        torch.distributed.barrier(device_ids=[0])
        model = nn.parallel.DistributedDataParallel(nn.Linear(2, 1).to("cuda:0"), device_ids=[0], output_device=0)
        model(torch.ones(1, 2)).sum().backward()
        return torch.distributed.get_backend() == "gloo" and model.module.weight.grad.tolist() == [[1, 1]]
    finally:
        torch.distributed.destroy_process_group()


def free_port() -> int:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def default_device(device) -> bool:
    # forgotten with its context: torch 2.8 cannot say its default device once one was taken back
    with patch.object(torch, "_GLOBAL_DEVICE_CONTEXT", threading.local()):
        torch.set_default_device(device)
        try:
            return on_cpu(torch.zeros(2), torch.tensor([1.0]))
        finally:
            torch.set_default_device(None)


def on_meta() -> bool:
    with torch.device("meta"):
        return torch.empty(2).device.type == nn.Linear(2, 2).weight.device.type == "meta"


def default_type() -> bool:
    try:
        deprecated(lambda: torch.set_default_tensor_type("torch.cuda.DoubleTensor"))
        return torch.zeros(1).dtype == torch.float64
    finally:
        deprecated(lambda: torch.set_default_tensor_type("torch.FloatTensor"))


def scripted() -> bool:
    def f(x):
        return x + torch.zeros(2, dtype=torch.float32)

    return deprecated(lambda: torch.jit.script(f))(torch.ones(2)).tolist() == [1, 1]


x = torch.ones(2)
KINDS = {
    "factories": lambda: on_cpu(torch.zeros(2, device="cuda"), torch.arange(3, device="cuda:1"),
                                torch.ones(1, device=0),
                                torch.tensor([1], device=torch.device("cuda", 0)), torch.randn(2, device="cuda"),
                                torch.empty(2, pin_memory=True), torch.fft.fftfreq(4, device="cuda")),
    "like": lambda: on_cpu(torch.zeros_like(x, device="cuda"), torch.rand_like(x, device="cuda:0")),
    "new": lambda: on_cpu(x.new_zeros(2, device="cuda"), x.new_tensor([1], device="cuda:0")),
    "device": lambda: torch.device("cuda").type == torch.device("cuda", 1).type == torch.device("cuda:0").type
    == torch.device(type="cuda", index=1).type == "cpu" and torch.device("cuda").index is None,
    "device is a type": lambda: isinstance(x.device, torch.device) and type(x.device) == torch.device  # noqa: E721
    and {torch.device: 1}[type(x.device)] and not isinstance("cpu", torch.device),
    "device in files": lambda: pickle.loads(pickle.dumps(torch.device("cuda"))) == copy.deepcopy(x.device),
    "meta device": on_meta,
    "to": lambda: on_cpu(x.to("cuda"), x.to(0), x.to("cuda:1", torch.float64, True), x.to(device="cuda")) and
    x.to("cuda", torch.float64).dtype == torch.float64 and x.to(torch.float16).dtype == torch.float16 and x.to(x) is x,
    "to copies": lambda: copied(lambda t: t.to("cuda")) and copied(lambda t: t.to(device="cuda:0", non_blocking=True)),
    "cuda copies": lambda: copied(lambda t: t.cuda()) and copied(lambda t: t.cuda(0, non_blocking=True)),
    "is_cuda": lambda: not x.cuda().is_cuda and x.cuda().get_device() == -1,
    "type": lambda: x.type("torch.cuda.DoubleTensor").dtype == x.type(torch.cuda.DoubleTensor).dtype == torch.float64
    and x.type() == "torch.FloatTensor" and torch.cuda.LongTensor([1]).dtype == torch.int64,
    "pin_memory": lambda: x.pin_memory() is x and x.record_stream(torch.cuda.Stream()) is None,
    "modules": lambda: on_cpu(*nn.Linear(2, 2).cuda().to("cuda:1").to(device=0).to(torch.device("cuda")).parameters(),
                              *nn.Linear(2, 2, device="cuda").to(torch.float64).parameters()),
    "DataParallel": lambda: on_cpu(nn.DataParallel(nn.Linear(2, 2), device_ids=[0]).cuda()(x)),
    "SyncBatchNorm": lambda: type(nn.SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm1d(2))) is nn.BatchNorm1d,
    "DataLoader": lambda: next(iter(torch.utils.data.DataLoader([1.0], pin_memory=True))).tolist() == [1],
    "load": lambda: load() and load(map_location="cuda") and load(map_location=torch.device("cuda:1"))
    and load(map_location={"cuda:0": "cuda:1"}) and load(map_location=lambda storage, location: storage.cuda(0))
    and load(map_location="cpu", weights_only=False),
    "Generator": lambda: torch.rand(2, generator=torch.Generator(device="cuda").manual_seed(1)).equal(
        torch.rand(2, generator=torch.Generator("cpu").manual_seed(1), device="cuda"))
    and isinstance(torch.default_generator, torch.Generator),
    "default device": lambda: default_device("cuda") and default_device(torch.device("cuda", 0)),
    "default type": default_type,
    "queries": lambda: torch.cuda.is_available() and torch.cuda.device_count() == 1 and torch.cuda.current_device() == 0
    and torch.cuda.is_bf16_supported() and "CPU" in torch.cuda.get_device_name(0)
    and torch.cuda.get_device_properties("cuda").total_memory > 1e6 and torch.cuda.mem_get_info()[1] > 1e6
    and torch.cuda.memory_allocated() == torch.cuda.max_memory_reserved("cuda:0") == 0,
    "nothing to do": lambda: not any((torch.cuda.set_device(1), torch.cuda.empty_cache(), torch.cuda.init(),
                                      torch.cuda.reset_peak_memory_stats(0), torch.cuda.nvtx.range_push("a"))),
    "moments": timed,
    "seeds": lambda: seeded(torch.cuda.manual_seed) and seeded(torch.cuda.manual_seed_all) and seeded(torch.manual_seed)
    and torch.equal(torch.cuda.get_rng_state(), torch.get_rng_state()),
    "autocast": lambda: half(torch.autocast("cuda")) == half(torch.amp.autocast(device_type="cuda")) == torch.float32
    == half(torch.autocast("cuda", dtype=torch.float16)) == deprecated(lambda: half(torch.cuda.amp.autocast(True))),
    "autocast on the CPU": lambda: half(torch.autocast("cpu")) == torch.bfloat16,
    "GradScaler": trained_in_half_precision,
    "older GradScaler": lambda: not deprecated(lambda: torch.cuda.amp.GradScaler(enabled=True)).is_enabled(),
    "custom_fwd": lambda: custom(torch.amp.custom_fwd(device_type="cuda"), torch.amp.custom_bwd(device_type="cuda")),
    "older custom_fwd": lambda: deprecated(lambda: custom(torch.cuda.amp.custom_fwd, torch.cuda.amp.custom_bwd)),
    "cudnn": lambda: setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark) is None,
    "distributed": one_process,
    "TorchScript": scripted,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_is_the_cpu(cpu, kind):
    assert KINDS[kind]()


def test_graphs_are_refused_with_a_reason(cpu):
    with pytest.raises(UserError, match="cg=False"):
        torch.cuda.CUDAGraph()


def test_said_once(cpu, capsys):
    assert capsys.readouterr().err == "" and cuda_as_cpu.is_installed()
    torch.zeros(1, device="cpu")
    assert capsys.readouterr().err == ""
    torch.zeros(1, device="cuda")
    x.cuda()
    assert capsys.readouterr().err == cuda_as_cpu.NOTICE + "\n"


def test_autocast_in_bfloat16():
    cuda_as_cpu.install(autocast="bfloat16")
    try:
        with torch.autocast("cuda", dtype=torch.float16):
            assert half(torch.autocast("cuda")) == torch.bfloat16 == torch.get_autocast_gpu_dtype()
            assert torch.is_autocast_enabled()
        assert half(torch.autocast("cuda", enabled=False)) == torch.float32
    finally:
        cuda_as_cpu.uninstall()
    with pytest.raises(UserError, match="float32 or bfloat16, got 'half'"):
        cuda_as_cpu.install(autocast="half")


def test_torch_gets_its_functions_back():
    owners = (torch, torch.cuda, torch.cuda.nvtx, torch.Tensor, nn.Module, torch.amp, torch.fft, torch.jit,
              torch.distributed, torch.distributed.distributed_c10d, nn.SyncBatchNorm, torch.utils.data.DataLoader,
              torch.amp.GradScaler, torch.autocast, nn.parallel.DistributedDataParallel)  # fmt: skip
    before = [dict(vars(owner)) for owner in owners]
    registry = list(torch.serialization._package_registry)
    cuda_as_cpu.install()
    cuda_as_cpu.install()
    assert [dict(vars(owner)) for owner in owners] != before
    cuda_as_cpu.uninstall()
    assert [dict(vars(owner)) for owner in owners] == before and torch.serialization._package_registry == registry
    assert not cuda_as_cpu.is_installed() and torch.device("cuda").type == "cuda"


COMPILED = """
from ssmlab.compat import cuda_as_cpu
import torch
cuda_as_cpu.install()
f = torch.compile(lambda t: t.to("cuda") + torch.ones(3, device=torch.device("cuda")), backend="eager")
print(f(torch.ones(3)).tolist())
with torch.device("meta"):
    print(torch.empty(2).device)
"""


@pytest.mark.slow
def test_compiled_and_meta_in_a_fresh_process():
    done = python(COMPILED)
    assert done.stdout == "[2.0, 2.0, 2.0]\nmeta\n", done.stderr
