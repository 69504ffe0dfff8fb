"""What a program wants that mamba_ssm itself does not have: arguments and names of its forks, and what to do then."""

from __future__ import annotations

import re
import sys

ADVICE = (
    "put the folder that holds the fork's mamba_ssm on the path, its Python runs on ssmlab's kernels: "
    "PYTHONPATH=FOLDER ssmlab exec SCRIPT"
)

_ARGUMENTS = {
    "bimamba_type": "hustvl/Vim (mamba-1p1p1) and its relatives", "if_devide_out": "hustvl/Vim (mamba-1p1p1)",
    "if_divide_out": "hustvl/Vim (mamba-1p1p1)", "init_layer_scale": "hustvl/Vim (mamba-1p1p1)",
    "bimamba": "OpenGVLab/VideoMamba (mamba)", "nslices": "ge-xing/SegMamba (mamba)",
    "scan_type": "dongzhuoyao/zigma (dis_mamba)", "dropout": "a copy with dropout, as programs for translation have",
}  # fmt: skip
_UNKNOWN = re.compile(r"(?:(\w+)\.__init__|(\w+))\(\) got an unexpected keyword argument '(\w+)'")


def explain(error: BaseException) -> str | None:
    """One line on an error of a program that wants a fork, or None."""
    if isinstance(error, TypeError) and (match := _UNKNOWN.search(str(error))):
        owner, argument = match[1] or match[2], match[3]
        # The stand-ins that the program imported, of which one has a class or function of this name
        ours = [module for name, module in list(sys.modules.items()) if name.startswith(f"{__package__}.mamba_ssm")]
        if any(hasattr(module, owner) for module in ours):
            fork = _ARGUMENTS.get(argument, "some fork")
            return f"ssmlab: {owner}({argument}=...) is no argument of mamba_ssm but of {fork}; {ADVICE}"
    if isinstance(error, ImportError) and (error.name or "").startswith(f"{__package__}."):
        original = str(error.name).removeprefix(f"{__package__}.")
        missing = re.search(r"cannot import name '(\w+)'", str(error))
        name = f"{original}.{missing[1]}" if missing else original
        return f"ssmlab: {name} has no counterpart in ssmlab; if it belongs to a fork, {ADVICE}"
    return None
