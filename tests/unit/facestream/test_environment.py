"""Waiting threads of libraries do not spin."""

import subprocess
import sys

PROGRAM = """
import time
import facestream.cli
import numpy as np
gallery, probes = np.ones((50_000, 128), np.float32), np.ones((128, 8), np.float32)
gallery @ probes
began = time.process_time()
time.sleep(0.1)
print(time.process_time() - began)
"""


def test_waiting_threads_of_libraries_do_not_spin() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.03
