"""Eight virtual CPU devices, rank promotion an error, and small prepared data sets."""

import os
import pathlib
import sys

# Before JAX starts: read by the back end, and by the processes that tests start.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(pathlib.Path(__file__).parent))
