"""Every CUDA device is the CPU: what programs name "cuda" for, on a machine that has none.

    from ssmlab.compat import cuda_as_cpu
    cuda_as_cpu.install()       # before the program's own code; `ssmlab exec` does it where there is no GPU

A device is read as the CPU wherever a program can name one: in factory functions, `Tensor.to`, `torch.device`,
`torch.load`, `Generator`, `set_default_device`. `torch.cuda` answers as a machine with one device that never has to be
waited for (`cuda_queries`). The functions that take a device are wrapped one by one: a `TorchFunctionMode`, which
catches all of them, would cost every operation of the program 2.6 us, as much again as a small operation itself.

Where the two devices differ, the choice is the one that lets more programs run with the right numbers:

* `torch.cuda.is_available()` is True: programs assert it, and those that choose a device by it end on the CPU either
  way. torch's own modules, and ours, get the true answer, since they choose kernels by it.
* `x.is_cuda` and `x.device` stay as they are, False and "cpu": programs ask tensors in order to choose a Triton or
  CUDA kernel, and have plain code for everything else.
* `x.cuda()` and `x.to("cuda")` copy, as they do between two devices. Without the copy `torch.from_numpy(a).cuda()`
  shares memory with `a`, and what is done to it in place changes the data.
* Autocast on "cuda" is off and a gradient scaler for "cuda" passes through: a program that asks for half precision for
  speed gets the plain numbers of float32. `autocast="bfloat16"` turns it on, in bfloat16, for float16 too.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

import torch
from torch import Tensor

from ssmlab.compat import after_import, cuda_queries
from ssmlab.core.errors import UserError

NOTICE = 'ssmlab: no GPU is used, "cuda" means the CPU in this program (`ssmlab exec --device cuda` leaves it alone)'
_SAID = "SSMLAB_CUDA_AS_CPU"  # also read by the program's child processes

_DEVICE, _GENERATOR = torch.device, torch.Generator
_ABSENT = object()
_patched: list[tuple[Any, str, Any]] = []
_scripted: list[int] = []  # ids of our wrappers in the table of TorchScript's functions
_autocast = "float32"


def install(autocast: str = "float32") -> None:
    """Read CUDA devices as the CPU from now on, in this process and those that it forks.

    Args:
        autocast: what autocast on "cuda" computes in: "float32" (it is off) or "bfloat16".
    """
    global _autocast
    if autocast not in ("float32", "bfloat16"):
        raise UserError(f"autocast must be float32 or bfloat16, got {autocast!r}")
    _autocast = autocast
    if _patched:
        return
    for patch in (_patch_devices, _patch_tensors, _patch_modules, _patch_half_precision, _patch_processes):
        patch()
    cuda_queries.patch(_put)

    def accept_cpu(lightning: Any) -> None:
        """Lightning's accelerator "gpu" insists on a CUDA device."""
        if _patched:
            _put(lightning.CUDAAccelerator, "setup_device", lambda self, device: None)

    for package in ("lightning.pytorch", "pytorch_lightning", "lightning.fabric", "lightning_fabric"):
        after_import.after(f"{package}.accelerators.cuda", accept_cpu)


def uninstall() -> None:
    """Give torch its own functions back."""
    while _patched:
        owner, name, original = _patched.pop()
        if original is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, original)
    while _scripted:
        torch.jit._builtins._get_builtin_table().pop(_scripted.pop(), None)
    registry = torch.serialization._package_registry
    registry[:] = [entry for entry in registry if entry[2] is not _deserialize]
    os.environ.pop(_SAID, None)


def is_installed() -> bool:
    """Whether CUDA devices are read as the CPU now."""
    return bool(_patched)


def say() -> None:
    """Tell the user, once, when the program first names a GPU."""
    if _SAID not in os.environ:
        os.environ[_SAID] = "1"
        sys.stderr.write(NOTICE + "\n")


def _put(owner: Any, name: str, value: Any) -> None:
    _patched.append((owner, name, vars(owner).get(name, _ABSENT)))
    setattr(owner, name, value)


def _is_cuda(device: Any) -> bool:
    """Whether it names a GPU; a bare number does."""
    if isinstance(device, str):
        named = device.partition(":")[0] == "cuda"
    elif isinstance(device, _DEVICE):
        named = device.type == "cuda"
    else:
        named = isinstance(device, int) and not isinstance(device, bool)
    if named:
        say()
    return named


def _cpu(device: Any) -> Any:
    return "cpu" if _is_cuda(device) else device


def _patch_devices() -> None:
    """`torch.device`, `torch.Generator`, and the functions that take `device=`."""
    _put(torch, "device", _stand_in("device", _DEVICE))
    _put(torch, "Generator", _stand_in("Generator", _GENERATOR))
    from torch.utils import _device

    table = torch.jit._builtins._get_builtin_table()
    # cached by this call, before the patch: the default device is applied to the functions themselves
    factories = {f for f in _device._device_constructors() if getattr(torch, f.__name__, None) is f}
    factories |= {getattr(torch, name) for name in dir(torch) if name.endswith("_like") and name[0] != "_"}
    for function in factories:
        wrapper = _factory(function)
        _put(torch, function.__name__, wrapper)
        if id(function) in table:
            table[id(wrapper)] = table[id(function)]
            _scripted.append(id(wrapper))
    for name in ("fftfreq", "rfftfreq"):
        _put(torch.fft, name, _factory(getattr(torch.fft, name)))
    for name in ("set_default_device", "set_default_tensor_type"):
        _put(torch, name, _first_mapped(getattr(torch, name)))
    torch.serialization._package_registry.insert(0, (0, lambda storage: None, _deserialize))
    jit_load = torch.jit.load

    @functools.wraps(jit_load)
    def load(f, map_location=None, *args, **kwargs):
        return jit_load(f, "cpu" if map_location is None else _cpu(map_location), *args, **kwargs)

    _put(torch.jit, "load", load)


def _stand_in(name: str, real: type) -> type:
    """A class that makes and recognises objects of a type that has no subclasses, with the device mapped."""

    class Kind(type):
        def __call__(cls, *args, **kwargs):
            for key in ("device", "type"):
                if key in kwargs and _is_cuda(kwargs[key]):
                    kwargs[key] = "cpu"
                    kwargs.pop("index", None)
            if args and _is_cuda(args[0]):
                args = ("cpu",)
                kwargs.pop("index", None)
            return real(*args, **kwargs)

        def __instancecheck__(cls, instance):
            return isinstance(instance, real)

        def __subclasscheck__(cls, other):
            return other is cls or issubclass(other, real)

        def __eq__(cls, other):
            return other is cls or other is real

        def __hash__(cls):
            return hash(real)

        def __getattr__(cls, attribute):
            return getattr(real, attribute)

    return Kind(name, (), {"__module__": "torch", "__qualname__": name, "__doc__": real.__doc__})


def _factory(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        if "device" in kwargs:
            kwargs["device"] = _cpu(kwargs["device"])
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        return function(*args, **kwargs)

    return wrapper


def _first_mapped(function: Any) -> Any:
    """For a device or a type's name in the first place."""

    @functools.wraps(function)
    def wrapper(first, *args, **kwargs):
        if isinstance(first, str) and first.startswith("torch.cuda."):
            say()
            first = first.replace("torch.cuda.", "torch.")
        return function(_cpu(first), *args, **kwargs)

    return wrapper


def _deserialize(storage: Any, location: str) -> Any:
    """What was saved on, or is wanted on, a GPU is loaded to the CPU."""
    if location.partition(":")[0] != "cuda":
        return None
    say()
    return storage


def _patch_tensors() -> None:
    original_to = Tensor.to

    def to(self, *args, **kwargs):
        if "device" in kwargs and _is_cuda(kwargs["device"]):
            kwargs = {"copy": True, **kwargs, "device": "cpu"}
        elif args and _is_cuda(args[0]):
            args = ("cpu", *args[1:])
            if len(args) < 4:  # the fourth is copy
                kwargs = {"copy": True, **kwargs}
        return original_to(self, *args, **kwargs)

    def cuda(self, device=None, non_blocking=False, memory_format=torch.preserve_format):
        say()
        return original_to(self, "cpu", copy=True, memory_format=memory_format)

    _put(Tensor, "to", functools.wraps(original_to)(to))
    _put(Tensor, "cuda", cuda)
    _put(Tensor, "pin_memory", lambda self, device=None: self)
    _put(Tensor, "record_stream", lambda self, stream: None)
    original_type = Tensor.type

    def type_(self, dtype=None, non_blocking=False, **kwargs):
        if isinstance(dtype, str):
            dtype = dtype.replace("torch.cuda.", "torch.")
        return original_type(self) if dtype is None else original_type(self, dtype, non_blocking, **kwargs)

    _put(Tensor, "type", type_)
    for name in dir(Tensor):
        if name.startswith("new_"):
            _put(Tensor, name, _factory(getattr(Tensor, name)))
    for kind in (torch.UntypedStorage, torch.TypedStorage):
        _put(kind, "cuda", lambda self, device=None, non_blocking=False: self)
    for name in [name for name in vars(torch.cuda) if name.endswith("Tensor") and hasattr(torch, name)]:
        _put(torch.cuda, name, getattr(torch, name))


def _patch_modules() -> None:
    module_to, loader = torch.nn.Module.to, torch.utils.data.DataLoader.__init__

    def to(self, *args, **kwargs):
        if "device" in kwargs:
            kwargs["device"] = _cpu(kwargs["device"])
        return module_to(self, *(_cpu(a) for a in args[:1]), *args[1:], **kwargs)

    def cuda(self, device=None):
        say()
        return self

    @functools.wraps(loader)
    def load(self, *args, **kwargs):
        kwargs.pop("pin_memory_device", None)
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        loader(self, *args, **kwargs)

    _put(torch.nn.Module, "to", functools.wraps(module_to)(to))
    _put(torch.nn.Module, "cuda", cuda)
    _put(torch.utils.data.DataLoader, "__init__", load)
    # its statistics over one process are those of the layer that it replaces
    _put(torch.nn.SyncBatchNorm, "convert_sync_batchnorm", staticmethod(lambda module, process_group=None: module))


def _patch_half_precision() -> None:
    autocast, scaler = torch.amp.autocast_mode.autocast, torch.amp.grad_scaler.GradScaler
    enter, scale = autocast.__init__, scaler.__init__

    @functools.wraps(enter)
    def start(self, device_type, dtype=None, enabled=True, cache_enabled=None):
        if _is_cuda(device_type):
            device_type, dtype, enabled = "cpu", torch.bfloat16, enabled and _autocast == "bfloat16"
        enter(self, device_type, dtype, enabled, cache_enabled)

    @functools.wraps(scale)
    def start_scaling(self, device="cuda", *args, **kwargs):
        if not _is_cuda(device):
            return scale(self, device, *args, **kwargs)
        return scale(self, "cpu", **{"enabled": False})

    _put(autocast, "__init__", start)
    _put(scaler, "__init__", start_scaling)
    for name in ("custom_fwd", "custom_bwd"):
        _put(torch.amp, name, _of_device_type(getattr(torch.amp, name)))
    enabled, dtype = torch.is_autocast_enabled, torch.get_autocast_dtype
    _put(torch, "is_autocast_enabled", lambda device_type="cuda": enabled(_without_gpu(device_type)))
    _put(torch, "get_autocast_dtype", lambda device_type="cuda": dtype(_without_gpu(device_type)))
    _put(torch, "get_autocast_gpu_dtype", lambda: dtype("cpu"))


def _without_gpu(device_type: str) -> str:
    """For queries, which torch's own modules make too: no notice."""
    return "cpu" if device_type == "cuda" else device_type


def _of_device_type(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args, device_type, **kwargs):
        return function(*args, device_type=_cpu(device_type), **kwargs)

    return wrapper


def _patch_processes() -> None:
    """One process or several of them on the CPU: gloo in nccl's place, and no device numbers."""
    if not torch.distributed.is_available():
        return
    from torch.distributed import distributed_c10d as c10d
    from torch.nn.parallel import DistributedDataParallel

    for name in ("init_process_group", "new_group", "barrier"):
        wrapper = _without_nccl(getattr(c10d, name))
        _put(c10d, name, wrapper)
        _put(torch.distributed, name, wrapper)
    original = DistributedDataParallel.__init__

    @functools.wraps(original)
    def start(self, module, device_ids=None, output_device=None, *args, **kwargs):
        original(self, module, None, None, *args, **kwargs)

    _put(DistributedDataParallel, "__init__", start)


def _without_nccl(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        args = tuple("gloo" if isinstance(a, str) and "nccl" in a else a for a in args)
        if "nccl" in str(kwargs.get("backend")):
            kwargs["backend"] = "gloo"
        for name in ("device_id", "device_ids"):
            kwargs.pop(name, None)
        return function(*args, **kwargs)

    return wrapper
