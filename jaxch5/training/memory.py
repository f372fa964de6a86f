"""Memory on the device: what a step takes, and how many pictures would fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import psutil
from jaxtyping import PyTree

from jaxch5.errors import TrainingError
from jaxch5.util.text import counted


class Need(NamedTuple):
    """Bytes that a compiled step takes: whatever the batch is, and for each of its pictures."""

    fixed: int
    per_picture: int

    def of(self, batch_size: int) -> int:
        """Bytes of a step.

        Example:
            >>> Need(100, 10).of(4)
            140
        """
        return self.fixed + batch_size * self.per_picture


def need_of(step: Any, state: PyTree, batch_size: int) -> Need | None:
    """What a compiled training step takes; None where the compiler does not say.

    Args:
        step: what `jax.jit(...).lower(...).compile()` returns; its state is donated.
        state: what it takes, beside the batch.
        batch_size: that it was compiled for.
    """
    analysis = step.memory_analysis()
    if analysis is None:
        return None
    fixed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    total = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes
    return Need(fixed, max(1, (total - fixed) // batch_size))


def memory_limit() -> int:
    """Bytes that the default device has in all; on a CPU, those of the machine."""
    statistics = jax.local_devices()[0].memory_stats()
    if jax.default_backend() == "cpu" or not statistics or "bytes_limit" not in statistics:
        return psutil.virtual_memory().total
    return statistics["bytes_limit"]


def check_memory(need: Need | None, batch_size: int, size: int, limit: int) -> None:
    """Refuses a step that cannot fit: where a CPU's memory ends, so does the process.

    Args:
        need: of the step.
        batch_size, size: pictures a step, and their side in pixels.
        limit: bytes that there are in all.

    Raises:
        TrainingError: it takes more.

    Example:
        >>> check_memory(Need(10**9, 10**8), 128, 224, limit=8 * 10**9)
        Traceback (most recent call last):
        jaxch5.errors.TrainingError: the device's memory (8.0 GB) is too small for batches of 128 \
pictures of 224 x 224 pixels, which take about 13.8 GB: try --data.batch-size 70
    """
    if need and need.of(batch_size) > limit:
        raise _too_large(need, batch_size, size, limit)


@contextmanager
def out_of_memory(need: Need | None, batch_size: int, size: int) -> Iterator[None]:
    """Names what did not fit, and what might, where the device runs out of memory.

    Raises:
        TrainingError: it did.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise _too_large(need, batch_size, size, memory_limit()) from None


def _too_large(need: Need | None, batch_size: int, size: int, limit: int) -> TrainingError:
    what = f"batches of {counted(batch_size, 'picture')} of {size} x {size} pixels"
    line = f"the device's memory ({limit / 1e9:.1f} GB) is too small for {what}"
    fits = batch_size // 2
    if need:
        line += f", which take about {need.of(batch_size) / 1e9:.1f} GB"
        # Others hold memory too: what should have fitted and did not leaves half of the batch.
        most = (limit - need.fixed) // need.per_picture
        fits = most if most < batch_size else fits
    if fits < 1:
        return TrainingError(f"{line}: not even one would fit; try a smaller --data.size")
    return TrainingError(f"{line}: try --data.batch-size {fits}")
