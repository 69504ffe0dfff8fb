import os
import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
settings.register_profile("same", derandomize=True, deadline=None)  # what passed once passes on every machine
settings.load_profile("same")

# tests side by side share the cores, those of the processes that they start too; before torch is imported
workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if workers > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
