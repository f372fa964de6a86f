"""Estimates how much of the device's memory a step needs, and how many pictures fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from jaxch5.errors import TrainingError
from jaxch5.framing import Size, height_and_width
from jaxch5.util.memory import total_memory
from jaxch5.util.text import counted


class Need(NamedTuple):
    """Holds the memory that a step needs, in bytes: a fixed part, and a part for each picture."""

    fixed: int
    per_picture: int

    def of(self, batch_size: int) -> int:
        """Returns the number of bytes that a step with `batch_size` pictures needs.

        Example:
            >>> Need(100, 10).of(4)
            140
        """
        return self.fixed + batch_size * self.per_picture


def need_of(step: Any, state: PyTree, batch_size: int) -> Need | None:
    """Returns the memory that a training step needs; None if the compiler does not report it.

    Args:
        step: Compiled step, from `jax.jit(...).lower(...).compile()`; its state is donated.
        state: Arrays that the step takes besides the rows of its batch.
        batch_size: Size of the batch that the step was compiled for.
    """
    analysis = step.memory_analysis()
    if analysis is None:
        return None
    fixed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    total = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes
    return Need(fixed, max(1, (total - fixed) // batch_size))


def memory_limit() -> int:
    """Returns the size in bytes of the accelerator's memory if known, else of the host's.

    If a container or a job limits this process to less of the host's memory, it is that limit.
    """
    statistics = jax.local_devices()[0].memory_stats()
    if jax.default_backend() == "cpu" or not statistics or "bytes_limit" not in statistics:
        return total_memory()
    return statistics["bytes_limit"]


def check_memory(
    need: Need | None, batch_size: int, size: Size, limit: int, devices: int = 1
) -> None:
    """Refuses a step that does not fit in memory, since a process that exhausts it may be killed.

    Args:
        need: Memory that the step needs; None skips the check.
        batch_size, size: Number of pictures in a step, and their side, or height and width, in
            pixels.
        limit: Size of the memory of each device, in bytes.
        devices: Number of devices that share the batch equally.

    Raises:
        TrainingError: The step needs more than `limit`.

    Example:
        >>> check_memory(Need(10**9, 10**8), 128, 224, limit=8 * 10**9)
        Traceback (most recent call last):
        jaxch5.errors.TrainingError: the device's memory (8.0 GB) is too small for batches of 128 \
pictures of 224 x 224 pixels, which need about 13.8 GB: try --data.batch-size 70
    """
    if need and need.of(batch_size) > limit:
        raise _too_large(need, batch_size, size, limit, devices)


@contextmanager
def out_of_memory(
    need: Need | None, batch_size: int, size: Size, devices: int = 1
) -> Iterator[None]:
    """Turns the error of a device without enough memory into one that says what might fit.

    Raises:
        TrainingError: The device ran out of memory.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise _too_large(need, batch_size, size, memory_limit(), devices) from None


def _too_large(
    need: Need | None, batch_size: int, size: Size, limit: int, devices: int
) -> TrainingError:
    sides = " x ".join(map(str, height_and_width(size)))
    what = f"batches of {counted(batch_size, 'picture')} of {sides} pixels"
    line = f"the device's memory ({limit / 1e9:.1f} GB) is too small for {what}"
    fits = batch_size // 2
    if need:
        line += f", which need about {need.of(batch_size) / 1e9:.1f} GB"
        # Memory has other uses too, so a batch that should fit may not; half its size is then
        # proposed.
        most = (limit - need.fixed) // need.per_picture
        fits = most if most < batch_size else fits
    fits -= fits % devices
    if fits < 1:
        each = " on each device" * (devices > 1)
        return TrainingError(f"{line}: not even one picture fits{each}; try a smaller --data.size")
    return TrainingError(f"{line}: try --data.batch-size {fits}")
