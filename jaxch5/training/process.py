"""What commands and notebooks set for their whole process: nothing else in jaxch5 does."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import cast

import jax

from jaxch5.training.compiler import keep_compiled_programs

# Of <malloc.h>: how much is kept of what is freed, bytes, and how many pieces may be the system's.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
# The most that the first takes, and what glibc begins with of the second.
LARGEST = 2**31 - 1
MMAP_MAX = 65536


def prepare_process() -> None:
    """Has the process keep compiled programs for the next start, and memory for the next step.

    For commands and notebooks, before jax first computes. See `keep_compiled_programs` and
    `keep_freed_memory`.

    Example:
        >>> prepare_process()  # doctest: +SKIP
    """
    keep_compiled_programs()
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Has the memory of a step on a CPU kept for the next one; says whether it will be.

    XLA takes the memory of a whole step in one piece, and frees it when the step is done. glibc
    has every piece that large from the system and gives it back at once, so that in each step the
    system fills new pages with zeros as they are first touched: a fifth of the time of a
    ResNet-50's step (docs/benchmarks.md). PyTorch takes a piece for each array, small enough for
    glibc to keep.

    glibc keeps large pieces of the main thread alone. So the main thread computes, and waits for
    each step, which it would soon do in any case; and there is never a second step's memory.
    Nothing changes on other systems, nor once jax has computed.

    Example:
        >>> keep_freed_memory()  # doctest: +SKIP
        True
    """
    mallopt = _mallopt()
    if mallopt is None:
        return False
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return mallopt(M_TRIM_THRESHOLD, LARGEST) == 1 and mallopt(M_MMAP_MAX, 0) == 1


def give_back_freed_memory() -> None:
    """Has glibc give large pieces back to the system, as it does by itself.

    Example:
        >>> give_back_freed_memory()
    """
    mallopt = _mallopt()
    if mallopt is not None:
        mallopt(M_MMAP_MAX, MMAP_MAX)


def _mallopt() -> Callable[[int, int], int] | None:
    """glibc's function, where that is the C library."""
    if not sys.platform.startswith("linux"):
        return None
    return cast("Callable[[int, int], int] | None", getattr(ctypes.CDLL(None), "mallopt", None))
