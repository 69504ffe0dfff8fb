"""Read when a Python starts that a program under `ssmlab exec` has started: it gets what its parent got."""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

if "SSMLAB_EXEC" in os.environ:
    try:
        from ssmlab.compat.running import prepare_child
    except ImportError:  # a Python of another environment
        pass
    else:
        prepare_child()

_here = os.path.dirname(os.path.abspath(__file__))
_next = PathFinder.find_spec("sitecustomize", [p for p in sys.path if os.path.abspath(p or ".") != _here])
if _next is not None and _next.loader is not None:  # the one that this file hides
    _next.loader.exec_module(module_from_spec(_next))
