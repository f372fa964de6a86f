"""Makes orbax store the arrays of a checkpoint in the format of `jaxch5.run.arrays`.

orbax's own format is slower and leaks memory with each save (`benchmarks/reliability.py arrays`).
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import orbax.checkpoint as ocp

from jaxch5.run.arrays import Arrays, read_arrays, write_arrays

if TYPE_CHECKING:
    from etils import epath


class ArraysHandler(ocp.AsyncCheckpointHandler):
    """Writes and reads arrays for an orbax manager; asynchronous saves share one thread."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)

    async def async_save(
        self, directory: epath.Path, args: SaveArrays
    ) -> list[Future[None]] | None:
        """Starts to write the arrays, in the first process only; they must not change meanwhile."""
        if jax.process_index() != 0:
            return None
        return [self._pool.submit(write_arrays, Path(directory), args.arrays)]

    def save(self, directory: epath.Path, args: SaveArrays) -> None:
        """Writes the arrays."""
        write_arrays(Path(directory), args.arrays)

    def restore(self, directory: epath.Path, args: ocp.args.CheckpointArgs | None = None) -> Arrays:
        """Reads the arrays; orbax requires this method of every handler."""
        return read_arrays(Path(directory))

    def close(self) -> None:
        """Ends the thread that writes."""
        self._pool.shutdown()


@ocp.args.register_with_handler(ArraysHandler, for_save=True, for_restore=True)
@dataclass
class SaveArrays(ocp.args.CheckpointArgs):
    """Arrays to save, keyed by name."""

    arrays: Arrays
