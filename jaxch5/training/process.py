"""Prepares the process of a command or a notebook."""

from __future__ import annotations

import ctypes
import sys

import jax

from jaxch5.errors import Jaxch5Error
from jaxch5.training.compiler import keep_compiled_programs
from jaxch5.util.libraries import variable

# Parameters of glibc's mallopt, from <malloc.h>.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
# The largest threshold that mallopt accepts, in bytes.
LARGEST = 2**31 - 1


def prepare_process(alone: bool = True) -> None:
    """Makes later starts reuse compiled programs, and lets each step reuse the last one's memory.

    Most commands and notebooks call this before jax first computes. See `keep_compiled_programs`
    and `keep_freed_memory`. On a GPU, random numbers are then drawn by a kernel of jaxlib
    rather than by code that XLA generates.

    Args:
        alone: Whether no other processes train with this one; only then are devices checked.

    Raises:
        Jaxch5Error: `JAX_PLATFORMS` names a device that does not exist here.

    Example:
        >>> prepare_process()  # doctest: +SKIP
    """
    keep_compiled_programs()
    keep_freed_memory()
    # Otherwise XLA unrolls each draw, and a program with many draws takes a long time to compile
    # (docs/benchmarks.md).
    jax.config.update("jax_threefry_gpu_kernel_lowering", True)
    if alone:
        check_devices()


def check_devices() -> None:
    """Checks that jax finds a device of the kind that `JAX_PLATFORMS` names, if it is set.

    Raises:
        Jaxch5Error: There is no such device.

    Example:
        >>> check_devices()
    """
    if platforms := variable("JAX_PLATFORMS"):
        try:
            jax.devices()
        except Exception:
            # Which error is raised depends on what is installed, and some errors have no message.
            raise Jaxch5Error(
                f"JAX_PLATFORMS = {platforms}: jax finds no such device here; unset it, or "
                "set it to cpu (for NVIDIA GPUs: python -m pip install -e '.[cuda]')"
            ) from None


def keep_freed_memory() -> None:
    """Keeps up to 2 GB of a step's memory for the next step, on CPUs under Linux with glibc.

    XLA allocates the memory of a step in one piece, and frees it after the step. glibc maps such a
    large piece from the system and returns it when it is freed, so the system zeroes new pages in
    each step, which takes a good part of the time of a large network's step (docs/benchmarks.md).
    PyTorch allocates a piece for each array, and these pieces are small enough for glibc to keep.

    glibc keeps large pieces only for the main thread, so this function makes the main thread
    compute; that thread then waits for each step, as it soon would in any case. Once jax has
    computed something, the thread cannot be chosen any more, and this function is of no use.

    Example:
        >>> keep_freed_memory()  # doctest: +SKIP
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    mallopt(M_TRIM_THRESHOLD, LARGEST)
    mallopt(M_MMAP_MAX, 0)
