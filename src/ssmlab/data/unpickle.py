"""Pickles of plain data and numpy arrays, read without running anything that they ask for.

A pickle is a program: it may call any function that Python can import. This reader first walks over the whole
program, lets pass only the instructions that build plain data, and then answers the few names that arrays need
with stand-ins of its own, which check their arguments; neither numpy's constructors nor any other function is
ever handed to the pickle. Every other name is refused.

Python 2 wrote text as bytes; it is read as Latin-1, which is right for names in ASCII and keeps every byte.
"""

import io
import pickle
import pickletools
import re

import numpy as np

# What builds None, numbers, text, bytes, lists, tuples, dicts and calls of a name; frames and the memo; nothing
# that asks for classes of its own (OBJ, INST, NEWOBJ), persistent ids, extension codes or buffers from outside.
_NAMED = (
    "PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 "
    "FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 BINBYTES "
    "SHORT_BINBYTES BINBYTES8 BYTEARRAY8 EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "EMPTY_DICT DICT SETITEM SETITEMS GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL "
    "REDUCE BUILD"
)
_INSTRUCTIONS = frozenset(_NAMED.split())
_DTYPE = re.compile(r"[<>|=]?([biuf][1248])")


class UnreadablePickle(Exception):
    """A pickle that is damaged, or that is refused; the text is the reason."""


def read_pickle(data: bytes) -> dict[str, object]:
    """Read a pickled dict of arrays, lists, text and numbers, as data sets are published.

    Args:
        data: the whole file, of any protocol, by Python 2 or 3.
    Returns:
        the dict with text as its keys; arrays are numpy arrays where they are values of the dict itself.
    Raises:
        UnreadablePickle: damaged, no dict, or with a name in it that plain data do not need. Nothing was run.
    """
    try:
        # Every instruction before the first is run, also how much memory it would take
        for number, (instruction, argument, _) in enumerate(pickletools.genops(data)):
            if instruction.name not in _INSTRUCTIONS:
                raise UnreadablePickle(f"refused: the instruction {instruction.name} has no place in plain data")
            if instruction.name == "GLOBAL" and tuple(argument.split(" ", 1)) not in _NAMES:
                raise _refusal(argument.replace(" ", "."))
            # The memo is a list up to the largest number, however few there are
            if instruction.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > number:
                raise UnreadablePickle(f"refused: asks for memory for {argument:,} objects")
        value = _Plain(io.BytesIO(data), encoding="latin1").load()
    except UnreadablePickle:
        raise
    # Damaged pickles make the reader raise nearly anything: EOFError, ValueError, KeyError, IndexError ...
    except Exception as error:
        raise UnreadablePickle(f"no pickle that can be read ({' '.join(str(error).split())})") from error
    if not isinstance(value, dict):
        raise UnreadablePickle(f"holds a {_kind(value)}; expected a dict")
    found = {}
    for key, item in value.items():
        name = _text(key)
        if isinstance(item, _Array) and item.value is None:
            raise UnreadablePickle("holds an array without content")
        found[name] = item.value if isinstance(item, _Array) else item
    return found


class _Plain(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in _NAMES:
            raise _refusal(f"{module}.{name}")
        return _NAMES[module, name]()


def _refusal(name):
    return UnreadablePickle(f"refused: asks for {name}, which arrays, lists and text do not need; nothing was run")


class _StandIn:
    """What a name of the pickle becomes. It can be called, and not be changed."""

    __slots__ = ()

    def __setstate__(self, state):
        raise UnreadablePickle("refused: changes a function of numpy")


class _NdarrayClass(_StandIn):
    """numpy.ndarray, which array pickles only pass on."""

    __slots__ = ()


class _Reconstruct(_StandIn):
    """numpy's `_reconstruct`: an empty array, whose content follows as its state."""

    __slots__ = ()

    def __call__(self, kind, shape, typecode):
        if not isinstance(kind, _NdarrayClass):
            raise UnreadablePickle("refused: an array that is no numpy.ndarray")
        return _Array()


class _FromBuffer(_StandIn):
    """numpy's `_frombuffer`, of protocol 5."""

    __slots__ = ()

    def __call__(self, buffer, dtype, shape, order):
        return _Array(_build(buffer, dtype, shape, order == "F"))


class _DtypeClass(_StandIn):
    """numpy.dtype, called with a code such as "u1"."""

    __slots__ = ()

    def __call__(self, code, align=False, copy=False):
        return _Dtype(_text(code))


class _Encode(_StandIn):
    """`_codecs.encode`, by which Python 3 writes bytes in protocols before 3."""

    __slots__ = ()

    def __call__(self, text, encoding="latin1"):
        if encoding != "latin1":
            raise UnreadablePickle(f"refused: text in the encoding {encoding!r}")
        return text.encode("latin1")


class _Dtype:
    __slots__ = ("value",)

    def __init__(self, code):
        if not _DTYPE.fullmatch(code):
            raise UnreadablePickle(f"holds an array of the kind {code[:40]!r}; expected whole or real numbers")
        self.value = np.dtype(code)

    def __setstate__(self, state):
        order, others = _text(state[1]), state[2:5]
        if order not in "<>|=" or any(value is not None for value in others):
            raise UnreadablePickle("holds an array with fields; expected plain numbers")
        self.value = self.value.newbyteorder(order)


class _Array:
    __slots__ = ("value",)

    def __init__(self, value=None):
        self.value = value

    def __setstate__(self, state):
        shape, dtype, fortran, content = state[-4:]  # a version comes first, except in the oldest
        self.value = _build(content, dtype, shape, bool(fortran))


def _build(content, dtype, shape, fortran):
    """An array of its own memory; the content must be exactly as long as the shape says."""
    if not isinstance(dtype, _Dtype) or not isinstance(content, (bytes, bytearray, str)):
        raise UnreadablePickle("holds an array of objects; expected plain numbers")
    content = content.encode("latin1") if isinstance(content, str) else content
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    return np.frombuffer(content, dtype.value).reshape(shape, order="F" if fortran else "C")


_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _FromBuffer,
    ("numpy._core.numeric", "_frombuffer"): _FromBuffer,
    ("numpy", "ndarray"): _NdarrayClass,
    ("numpy", "dtype"): _DtypeClass,
    ("_codecs", "encode"): _Encode,
}


def _text(value):
    if isinstance(value, bytes):
        return value.decode("latin1")
    if not isinstance(value, str):
        raise UnreadablePickle(f"holds a {_kind(value)} where text is expected")
    return value


def _kind(value):
    return type(value).__name__.strip("_").lower()
