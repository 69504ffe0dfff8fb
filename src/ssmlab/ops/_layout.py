"""The structs of the C interface, field by field in the order of native/include/ssmlab.h.

A struct is filled by name: `ssm_conv(batch=b, x=view(x), ...)`; what is left out is 0. `mismatch` compares the table
with the library, which has the compiler's offsets, so that neither side can be changed alone.
"""

import ctypes
from typing import Any

integer, real, pointer = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
tensor = "ssm_tensor"

# (type, names) by struct; every member is 8 bytes wide but for tensors, which are structs themselves.
TABLE: dict[str, tuple[tuple[Any, str], ...]] = {
    "ssm_tensor": (
        (pointer, "data"),
        (integer, "dtype stride[0] stride[1] stride[2] stride[3]"),
    ),
    "ssm_scan": (
        (integer, "batch dim length states groups b_constant c_constant softplus interval threads inner accumulate"),
        (tensor, "x dt z y B C"),
        (pointer, "A D dt_bias"),
        (tensor, "h0"),
        (pointer, "h_final saved restart workspace"),
        (tensor, "gy gx gdt gz"),
        (pointer, "g_final gh0 gA gB gC gD gdt_bias"),
    ),
    "ssm_conv": (
        (integer, "batch dim length width silu threads"),
        (tensor, "x y"),
        (pointer, "weight bias"),
        (tensor, "past"),
        (pointer, "taps workspace"),
        (tensor, "gy gx gpast"),
        (pointer, "gweight"),
    ),
    "ssm_conv_step": (
        (integer, "batch dim width length silu"),
        (pointer, "x"),
        (integer, "x_stride"),
        (pointer, "state weight bias y"),
    ),
    "ssm_head_step": (
        (integer, "batch heads headdim states groups softplus threads"),
        (pointer, "x z dt"),
        (integer, "x_stride z_stride dt_stride dt_head_stride"),
        (pointer, "A D dt_bias"),
        (integer, "A_stride D_stride dt_bias_stride"),
        (pointer, "B C"),
        (integer, "B_stride C_stride"),
        (pointer, "state y"),
    ),
    "ssm_linear": (
        (integer, "rows inputs outputs dtype threads"),
        (pointer, "x"),
        (integer, "x_stride"),
        (pointer, "weight"),
        (integer, "weight_stride"),
        (pointer, "bias y scale"),
    ),
    "ssm_long_conv": (
        (integer, "batch dim length kind threads"),
        (tensor, "x filter y"),
        (pointer, "workspace"),
    ),
    "ssm_norm": (
        (integer, "rows dim groups"),
        (pointer, "residual x gate"),
        (integer, "x_stride gate_stride"),
        (pointer, "weight"),
        (real, "eps"),
        (pointer, "y"),
    ),
    "ssm_conv_token": (
        (integer, "rows dim width silu dtype"),
        (pointer, "x"),
        (integer, "x_stride"),
        (pointer, "weight bias y"),
    ),
    "ssm_scan_token": (
        (integer, "rows dim states"),
        (pointer, "x dt z"),
        (integer, "x_stride dt_stride z_stride"),
        (pointer, "B C"),
        (integer, "B_stride C_stride"),
        (pointer, "A_log D y rate"),
    ),
    "ssm_product": (
        (integer, "inputs panels"),
        (pointer, "x"),
        (integer, "x_stride"),
        (pointer, "weight bias y scale"),
    ),
    "ssm_step": (
        (integer, "kind slot"),
        (pointer, "call"),
    ),
    "ssm_program": (
        (integer, "steps threads"),
        (pointer, "step before after"),
        (integer, "rows group"),
        (pointer, "parent own order scratch"),
        (integer, "scratch_size"),
    ),
    "ssm_likeliest": (
        (integer, "rows places count suppressed threads"),
        (pointer, "scores"),
        (integer, "stride"),
        (pointer, "suppress total value place"),
    ),
    "ssm_ssd": (
        (integer, "batch length heads headdim states groups chunk threads"),
        (tensor, "x z y dt B C"),
        (pointer, "A D h0 h_final saved inner restart workspace"),
        (tensor, "gy gx gz"),
        (pointer, "g_final gh0 gdt gA gD gB gC"),
    ),
}


def make_structs(table: dict) -> dict[str, Any]:
    """A `ctypes.Structure` for every struct. A tensor is given as a tuple: address, dtype, strides in elements.

    Without slots a misspelt name would be kept as an attribute of Python.
    """
    made: dict[str, Any] = {}
    for name, rows in table.items():
        fields = [(field, made.get(kind, kind)) for kind, names in rows for field in names.split()]
        made[name] = type(name, (ctypes.Structure,), {"_fields_": fields, "__slots__": ()})
    return made


STRUCTS = make_structs(TABLE)


def mismatch(library: ctypes.CDLL, structs: dict[str, Any]) -> str | None:
    """The first size or offset in which the library differs, or None."""
    offset = library.ssm_offset
    offset.restype, offset.argtypes = ctypes.c_int64, [ctypes.c_char_p]
    for name, struct in structs.items():
        places = {f"{name}.{field}": getattr(struct, field).offset for field, _ in struct._fields_}
        for place, expected in {**places, name: ctypes.sizeof(struct)}.items():
            found = offset(place.encode())
            if found != expected:
                return f"{place} at byte {expected}" if place in places else f"{name} of {expected} bytes"
    return None
