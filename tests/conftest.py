import gc
import os
import platform
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# One thread, in processes that tests start too, before torch is imported: the models are tiny, tests run side by side,
# and threads that wait for each other are slow. Tests of threads set their number themselves.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where bytecode is not kept, every process that a test starts compiles all modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
sys.path.insert(0, str(Path(__file__).parent))
# Runs write many small files and wait until they are on the disk; memory is a disk that nobody waits for.
if Path("/dev/shm").is_dir() and shutil.disk_usage("/dev/shm").free > 2**31:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/dev/shm")
settings.register_profile("same", derandomize=True, deadline=None)  # what passed once passes on every machine
settings.load_profile("same")


# While thousands of tests are collected nothing is garbage: looking for it took a quarter of that time.
gc.disable()


@pytest.hookimpl(tryfirst=True)  # before slow ones are left out
def pytest_collection_modifyitems(items):
    from repeats import is_repeat  # of this folder, which is on the path now

    for item in items:
        if is_repeat(item.nodeid):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=["baseline", "avx2", "avx512"] if platform.machine() in ("x86_64", "AMD64") else ["neon"])
def instruction_set(request):
    """The native kernels of one instruction set after the other; skipped where the processor lacks it."""
    from ssmlab.ops import _native

    library = _native.library()
    before = library.ssm_isa()
    if library.ssm_set_isa(request.param.encode()):
        pytest.skip(f"this machine cannot run {request.param}")
    yield request.param
    library.ssm_set_isa(before)


@pytest.fixture(autouse=True, scope="module")
def _frozen():
    """What lives when a file of tests begins is left out of garbage collection.

    The trainer collects garbage at every start, which took 0.5 s each with thousands of collected tests in memory.
    """
    gc.enable()
    gc.collect()
    gc.freeze()
