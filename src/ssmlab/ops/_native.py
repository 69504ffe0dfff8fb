"""The native library: where it is, which instruction set it uses, and how tensors are handed to it."""

import ctypes
import os
from pathlib import Path
from typing import Any

import torch  # before the library, so that both share torch's OpenMP runtime
from torch import Tensor

from ssmlab.core.errors import BackendError
from ssmlab.ops import _layout

VERSION = 12  # of the C interface in native/include/ssmlab.h
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
COMPLEX64 = 3  # SSM_COMPLEX64, of a scan's state
CHUNK = 64  # SSM_CHUNK
PAGE, FRESH = 4096, 2**25  # bytes; an allocation above 32 MiB is always fresh memory in glibc's allocator
_FILES = ("_native.so", "_native.dylib", "_native.dll", "_native.pyd")
_SIZES = (
    "ssm_version", "ssm_scan_segments", "ssm_scan_forward_workspace", "ssm_scan_backward_workspace",
    "ssm_conv_pieces", "ssm_conv_workspace", "ssm_long_conv_workspace",
    "ssm_ssd_segments", "ssm_ssd_forward_workspace", "ssm_ssd_backward_workspace",
)  # fmt: skip
_CALLS = (
    "ssm_scan_forward", "ssm_scan_backward", "ssm_conv_forward", "ssm_conv_backward", "ssm_conv_step_",
    "ssm_head_step_", "ssm_long_conv_", "ssm_linear_", "ssm_program_",
    "ssm_likeliest_",
    "ssm_ssd_forward", "ssm_ssd_backward",
)  # fmt: skip
_forked = False


def _mark_forked() -> None:
    global _forked
    _forked = True
    torch.set_num_threads(1)  # torch's own kernels would wait for the parent's threads, as DataLoader's workers know


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_forked)


def _open() -> ctypes.CDLL:
    """Load the library and choose its instruction set.

    Raises:
        BackendError: it was not built or cannot be loaded.
    """
    import ssmlab

    found = [file for folder in ssmlab.__path__ for name in _FILES if (file := Path(folder) / name).exists()]
    if not found:
        raise BackendError("the native library was not built (no C++ compiler at install time)")
    try:
        lib = ctypes.CDLL(str(found[0]))
    except OSError as error:
        raise BackendError(f"the native library {found[0]} cannot be loaded: {error}") from error
    lib.ssm_version.restype = ctypes.c_int64
    if lib.ssm_version() != VERSION:
        raise BackendError(f"{found[0]} has interface {lib.ssm_version()}, expected {VERSION}; install ssmlab again")
    differs = _layout.mismatch(lib, _layout.STRUCTS)
    if differs:
        raise BackendError(f"{found[0]} has no {differs}, as this version expects; install ssmlab again")
    lib.ssm_isa.restype, lib.ssm_integers.restype = ctypes.c_char_p, ctypes.c_int64
    lib.ssm_set_isa.argtypes = [ctypes.c_char_p]
    for name in _SIZES:
        getattr(lib, name).restype = ctypes.c_int64
    for name in (*_SIZES[1:], *_CALLS):
        getattr(lib, name).argtypes = [ctypes.c_void_p]
    wanted = os.environ.get("SSMLAB_ISA")
    if wanted and lib.ssm_set_isa(wanted.encode()):
        fastest = lib.ssm_isa().decode()
        global REFUSED
        REFUSED = f"SSMLAB_ISA={wanted}: this machine or build has no such kernels; the fastest is {fastest}"
    return lib


# Opened at import, so that compilers that trace a call find a loaded library. MISSING says why there is none, REFUSED
# that SSMLAB_ISA asks for what is not there: an error of every call: what is asked for by name runs or says why not.
LIBRARY: ctypes.CDLL | None = None
MISSING: str | None = None
REFUSED: str | None = None
try:
    LIBRARY = _open()
except BackendError as error:
    MISSING = str(error)


def library() -> ctypes.CDLL:
    """The loaded library.

    Raises:
        BackendError: there is none; says why.
    """
    if LIBRARY is None:
        raise BackendError(MISSING or "no native library")
    return LIBRARY


def isa() -> str | None:
    """The instruction set in use, or None without the library."""
    return None if LIBRARY is None else LIBRARY.ssm_isa().decode()


def integers() -> bool:
    """Whether sums of products of integers are faster here than those of floats: AVX-512 VNNI, which is chosen."""
    return LIBRARY is not None and bool(LIBRARY.ssm_integers())


def unusable(tensors: tuple[Tensor | None, ...]) -> str | None:
    """Why the native kernels cannot take these tensors, or None.

    Raises:
        BackendError: SSMLAB_ISA names an instruction set that is not there.
    """
    if REFUSED is not None:
        raise BackendError(REFUSED)
    if MISSING is not None:
        return MISSING
    for tensor in tensors:
        if tensor is None or (tensor.dtype in DTYPES and tensor.is_cpu):
            continue
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        if tensor.device.type != "cpu":
            return f"a tensor is on {tensor.device}"
        return f"a tensor is {tensor.dtype}, the kernels take float32, bfloat16 and float16"
    return None


def threads() -> int:
    """torch's setting; one thread in a forked process, where the parent's pool does not exist."""
    return 1 if _forked else torch.get_num_threads()


def view(tensor: Tensor | None) -> tuple[int, ...]:
    """An `ssm_tensor`: address, dtype and strides in elements; all 0 where absent."""
    return () if tensor is None else (tensor.data_ptr(), DTYPES[tensor.dtype], *tensor.stride())


def address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def vector(tensor: Tensor | None) -> Tensor | None:
    """Contiguous float32, or complex64, as the small parameters are passed."""
    if tensor is None or (tensor.dtype is torch.float32 and tensor.is_contiguous()):
        return tensor
    return tensor.to(torch.complex64 if tensor.is_complex() else torch.float32).resolve_conj().contiguous()


def touch(tensor: Tensor) -> None:
    """Write one element of every page of a large new tensor, so that the threads of a scan, which share rows, do not
    wait for one another while the system hands out its pages: that doubled the time of a scan over 10^6 tokens."""
    size = tensor.element_size()
    if tensor.numel() * size > FRESH:
        tensor.as_strided((tensor.numel() * size // PAGE,), (PAGE // size,)).zero_()


def size(function: str, struct: Any) -> int:
    """What the library says of a call: its segments, or the floats of its workspace."""
    return getattr(library(), function)(ctypes.addressof(struct))


def run(function: str, struct: Any, size_of: str | None = None) -> None:
    """Call a kernel, with a workspace where `size_of` is the function that says how large."""
    lib, place = library(), ctypes.addressof(struct)
    if size_of is not None:
        scratch = torch.empty(getattr(lib, size_of)(place) + 16, dtype=torch.float32)
        struct.workspace = (scratch.data_ptr() + 63) // 64 * 64
    getattr(lib, function)(place)
