"""The structs of ops/_layout.py and those of the library: one changed field is seen when the library is loaded."""

import ctypes

import pytest

from ssmlab.core.errors import BackendError
from ssmlab.ops import _layout, _native

pytestmark = pytest.mark.skipif(bool(_native.MISSING), reason="the native library was not built")


def changed(struct, change):
    rows = [change(kind, names) for kind, names in _layout.TABLE[struct]]
    return _layout.make_structs(_layout.TABLE | {struct: tuple(rows)})


def test_every_struct_is_packed_and_agrees():
    assert _layout.mismatch(_native.library(), _layout.STRUCTS) is None
    for struct in _layout.STRUCTS.values():
        fields = [getattr(struct, name) for name, _ in struct._fields_]
        assert ctypes.sizeof(struct) == sum(field.size for field in fields)


@pytest.mark.parametrize(
    ("struct", "old", "new", "what"),
    [
        ("ssm_scan", "D dt_bias", "dt_bias D", "ssm_scan.dt_bias at byte"),  # of the same size
        ("ssm_conv", "silu threads", "silu", "ssm_conv.threads|ssm_conv.x at byte"),
        ("ssm_linear", "bias y scale", "bias y scale more", "ssm_linear.more at byte"),
        ("ssm_ssd", "g_final gh0", "g_final g_first", "ssm_ssd.g_first at byte"),
        ("ssm_program", "order scratch", "order", "ssm_program.scratch_size at byte"),
    ],
)
def test_one_changed_field_is_refused(monkeypatch, struct, old, new, what):
    structs = changed(struct, lambda kind, names: (kind, names.replace(old, new)))
    monkeypatch.setattr(_layout, "STRUCTS", structs)
    with pytest.raises(BackendError, match=f"has no ({what}).*; install ssmlab again"):
        _native._open()


def test_a_struct_that_the_library_does_not_have_is_refused():
    structs = _layout.make_structs(_layout.TABLE | {"ssm_new": ((_layout.integer, "batch"),)})
    assert _layout.mismatch(_native.library(), structs) == "ssm_new.batch at byte 0"


def test_a_misspelt_field_is_an_error():
    with pytest.raises(TypeError):
        _layout.STRUCTS["ssm_conv_step"](*[0] * 12)
    with pytest.raises(AttributeError):
        _layout.STRUCTS["ssm_conv_step"](bach=1)
