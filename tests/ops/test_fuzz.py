"""Random calls: none crashes, none is wrong, every mistake is one line that begins with the operator's name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ops import fuzz


@pytest.mark.filterwarnings("ignore")
def test_a_few_hundred_random_calls():
    counted, faults = fuzz.figures(400)
    assert not faults
    assert counted["wrong", "refused"] > 60 < counted["extreme", "right"] < counted["valid", "right"]


@pytest.mark.slow
def test_ten_thousand_random_calls():
    """In a process of their own: one that crashes is told by its exit code."""
    tests = Path(__file__).parent.parent
    command = [sys.executable, "-X", "faulthandler", "-W", "ignore", str(Path(fuzz.__file__)), "10000", "1000"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=3600)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert all(line.split()[1] in ("right", "refused") for line in lines), "\n".join(lines)[:5000]
