"""Names that only a GPU kernel or several processes could give: they can be imported; a call says what to do instead.

Programs import such names next to others that they use, so an error at import would stop them for nothing.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn

from ssmlab.core.errors import UserError

OUR_PREFIX = f"{__package__}."
AUTOGRAD = "autograd differentiates the function that computes the output"


class Absent:
    """Stands for a function, a Triton kernel (`kernel[grid](...)`) or an autograd function (`.apply`)."""

    def __init__(self, name: str, instead: str):
        self.__name__, self.instead = name, instead

    def __call__(self, *arguments: Any, **named: Any) -> NoReturn:
        raise UserError(f"{self.__name__} has no counterpart in ssmlab, which stands in for it here; {self.instead}")

    apply = __call__

    def __getitem__(self, grid: Any) -> "Absent":
        return self


def absent(module: str, names: str, instead: str, **elsewhere: str) -> Callable[[str], Any]:
    """The `__getattr__` of a module whose `names`, separated by spaces, are absent.

    Args:
        instead: what the user can do, the second half of the error.
        elsewhere: names that the original's module has from others, by those' paths with "__" for ".": they are
            loaded when they are looked for.
    """
    known, public = names.split(), module.removeprefix(OUR_PREFIX)
    places = {name: path.replace("__", ".") for path, found in elsewhere.items() for name in found.split()}

    def __getattr__(name: str) -> Any:
        if name in places:
            return getattr(import_module(OUR_PREFIX + places[name]), name)
        if name not in known:
            raise AttributeError(f"module {public!r} has no attribute {name!r}")
        return Absent(f"{public}.{name}", instead)

    return __getattr__
