"""The sweeps of faults run and find nothing, a few trials of each; `python tests/sweeps.py` makes all of them."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="forks"),
]


@pytest.mark.parametrize(
    ("what", "kinds", "count"),
    [("kills", "language,shards", 4), ("kills", "masks,folds", 4), ("moments", "stream", 2),
     ("room", "images", 4), ("cuts", "language", 8), ("twice", "synthetic", 1), ("hostile", "-", 60)],
)  # fmt: skip
def test_a_few_of_each(what, kinds, count):
    command = [sys.executable, str(Path(__file__).parent / "sweeps.py"), what, "--kinds", kinds, "--count", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert f"{what}: " in done.stdout and "WRONG" not in done.stdout
