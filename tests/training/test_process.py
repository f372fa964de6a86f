"""On a CPU, a step reuses the memory that the step before it has freed."""

import platform
import subprocess
import sys

import pytest

# A program that prints how many pages of memory the system has to supply during ten steps.
PROGRAM = """
import resource, sys, threading
import jax, jax.numpy as jnp
from jaxch5.training.process import keep_freed_memory

# A notebook has threads, which have heaps of their own.
stop = threading.Event()
for _ in range(4):
    threading.Thread(target=lambda: (bytes(100_000), stop.wait()), daemon=True).start()
if sys.argv[1] == "kept":
    keep_freed_memory()

@jax.jit
def step(x):  # 100 MB of its own
    return ((x @ x.T) @ x).sum()

x = jnp.zeros((5000, 8))
for turn in range(13):
    if turn == 3:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    float(step(x))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(how):
    return int(subprocess.check_output([sys.executable, "-c", PROGRAM, how], text=True))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone gives it back")
def test_a_step_writes_into_the_memory_of_the_step_before():
    assert pages("kept") < pages("given back") / 20
