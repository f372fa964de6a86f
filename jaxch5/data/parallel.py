"""Works on many items at once, and yields the results in the items' order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

# Number of items for each thread that are in progress at a time; the other items of a large set
# are not queued yet.
AHEAD = 4
# Largest number of threads that make batches. More threads have not been measured, and every thread
# holds a batch in memory.
MAX_THREADS = 16


def cores() -> int:
    """Returns how many cores this process may use, which a scheduler may limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_for_batches() -> int:
    """Returns how many threads make batches or presize pictures: one per core, up to a limit."""
    return min(cores(), MAX_THREADS)


def in_order(function: Callable[[ItemT], ResultT], items: Iterable[ItemT]) -> Iterator[ResultT]:
    """Yields a function's results in order, as `map` does, with one thread per core.

    Only a few items are in progress at a time, however many there are.

    Example:
        >>> list(in_order(abs, [-1, 2, -3]))
        [1, 2, 3]
    """
    threads = cores()
    remaining = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        running = deque(pool.submit(function, item) for item in islice(remaining, AHEAD * threads))
        while running:
            yield running.popleft().result()
            running.extend(pool.submit(function, item) for item in islice(remaining, 1))
