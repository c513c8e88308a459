"""Tests run on several processes: each takes one thread, and those that wait sleep. Read when torch is imported."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
