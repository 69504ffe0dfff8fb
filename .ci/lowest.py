"""Print pip constraints that pin every dependency to the lowest version that pyproject.toml allows.

python .ci/lowest.py > pins.txt; pip install -e ".[test]" -c pins.txt
"""

import re
import sys
import tomllib
from pathlib import Path


def pins(project: dict) -> list[str]:
    """`name==X` for every `name>=X` of the dependencies and the extras; exact versions, of tools, are left out.

    Raises:
        SystemExit: a dependency has no lower bound.
    """
    extras = (entry for extra in project["optional-dependencies"].values() for entry in extra)
    found = []
    for entry in (*project["dependencies"], *extras):
        bound = re.fullmatch(r"([\w.-]+)>=([\w.]+)", entry)
        if bound:
            found.append("{}=={}".format(*bound.groups()))
        elif "==" not in entry and not entry.startswith(f"{project['name']}["):
            raise SystemExit(f"pyproject.toml: {entry!r} has no lower bound; write it as 'name>=version'")
    return found


if __name__ == "__main__":
    if sys.version_info[:2] > (3, 12):
        raise SystemExit("the lowest versions have no wheels for Python 3.13 and later; give PYTHON=python3.11")
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    print("\n".join(pins(tomllib.loads(text)["project"])))
