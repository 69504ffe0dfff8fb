import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
settings.register_profile("same", derandomize=True, deadline=None)  # what passed once passes on every machine
settings.load_profile("same")
