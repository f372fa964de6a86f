"""Makes batches in an order that can be resumed at any step, and moves them to the device."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import jax
import numpy as np
from jaxtyping import Int

from jaxch5.batch import Batch, CachedBatch
from jaxch5.data.canvases import Canvases
from jaxch5.data.parallel import threads_for_batches
from jaxch5.data.sampler import Sampler, draw, sequential, shuffled, shuffled_ranges
from jaxch5.errors import ConfigError, DataError
from jaxch5.util.seeds import check_seed
from jaxch5.util.text import counted

# Number of batches that are copied to the device before they are needed.
AHEAD = 2
# Name under which JAX's profiler lists the time spent waiting for the next batch.
WAITING = "waiting for pictures"


class Loader:
    """Makes the batches of one part of a source.

    The batch of every step of every epoch is fixed by the seed alone, so one number, the step, is
    enough to describe a position in the stream of batches: `steps(k)` continues after `k` batches.
    A loader for training draws items as its sampler decides, and drops the last batch of an epoch
    if it is short. A loader for validation keeps the items in order, and fills up a short last
    batch with rows whose mask is False.

    Args:
        canvases: The presized pictures.
        items: Indices of the part's items in the source.
        batch_size: Number of rows in every batch.
        seed: Seed for the shuffling; None makes a loader for validation.
        part: The index of this process, and the number of processes; each process reads an equal
            share of the rows of every batch.
        sampler: Sampler that decides what a training epoch draws; see `jaxch5.data.sampler`.

    Attributes:
        items, batch_size, seed, sampler, canvases: The arguments with these names, except that
            `sampler` is `sequential` if there is no seed.
        draws: How many items an epoch draws.

    Raises:
        DataError: `batch_size` exceeds the number of items that a training epoch draws.
        ConfigError: `batch_size` is below 1, the seed is not a whole number from 0 to 2**32 - 1, or
            the sampler does not return valid indices of items.
    """

    def __init__(
        self,
        canvases: Canvases,
        items: Int[np.ndarray, "items"],
        batch_size: int,
        seed: int | None = None,
        part: tuple[int, int] = (0, 1),
        sampler: Sampler = shuffled,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"data.batch_size = {batch_size}: should be at least 1")
        self.items = items
        self.batch_size = batch_size
        self.sampler = sequential if seed is None else sampler
        self.canvases = canvases
        self.seed = None if seed is None else check_seed(seed)
        self._part = part
        # The order of the epoch that was last requested, and the `earlier_draws` of this order.
        self._counted: tuple[np.ndarray, np.ndarray] = (np.empty(0), np.empty(0))

        labels, each_once = canvases.source.labels, self.sampler in (sequential, shuffled)
        self.draws = len(items)
        if not each_once:
            self.draws = len(draw(self.sampler, labels[items], 0, seed or 0))
        if seed is not None and batch_size > self.draws:
            raise DataError(
                f"data.batch_size = {batch_size} is more than the "
                f"{counted(self.draws, 'picture')} of the training set; "
                f"choose --data.batch-size {self.draws} or less"
            )
        batches, rest = divmod(self.draws, batch_size)
        self._length = batches + (seed is None and rest > 0)

        # If the items are stored in a few large files, each process keeps to a range of the items,
        # so that it needs only some of the files. If not, all processes share one order of the set.
        self._ranges = ranges = part[1] if each_once and canvases.source.sharded else 1
        # The cached function `order` is an attribute of the loader, but holds no reference to the
        # loader. If it did, the loader would keep itself alive, and the canvases as well.
        shape = (self._length, batch_size)
        self.order = lru_cache(maxsize=2)(
            partial(_order, self.sampler, labels, items, seed or 0, self.draws, ranges, shape)
        )

    def __len__(self) -> int:
        """Returns the number of batches in an epoch."""
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yields the batches of one epoch."""
        steps = self.steps(number * len(self), (number + 1) * len(self))
        return (batch.open() for batch in steps)

    def steps(self, start: int, stop: int | None = None) -> Iterator[Batch | CachedBatch]:
        """Yields the batches from step `start` on, across epochs, up to `stop` or without end.

        The batches consist of NumPy arrays, except for pictures that are on the device already.

        Raises:
            DataError: A picture cannot be read; this is raised during the iteration.
        """
        # grain is imported here, because predicting does not need it, and importing it takes a
        # tenth of a second.
        import grain

        threads = threads_for_batches()
        # Besides one batch for each thread, two more are made in advance, so that training does not
        # wait for a slow one. Making even more would only take memory.
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 2)
        numbers = grain.MapDataset.range(start, sys.maxsize if stop is None else stop)
        iterator = iter(numbers.map(self._batch).to_iter_dataset(options))
        try:
            yield from iterator
        finally:
            # A caller that stops early would otherwise leave the reading threads running.
            iterator.close()

    def with_seed(self, seed: int) -> Loader:
        """Returns a loader of the same items with their order drawn from another seed."""
        return Loader(self.canvases, self.items, self.batch_size, seed, self._part, self.sampler)

    def with_items(self, items: Int[np.ndarray, "items"]) -> Loader:
        """Returns a loader of other items of the same canvases."""
        how = self.batch_size, self.seed, self._part, self.sampler
        return Loader(self.canvases, items, *how)

    def shared(self, put: Callable[[jax.Array], jax.Array], part: tuple[int, int]) -> Loader:
        """Returns a loader of the rows that one of several processes reads; see `Data.shared`."""
        canvases = self.canvases.shared(put)
        return Loader(canvases, self.items, self.batch_size, self.seed, part, self.sampler)

    @property
    def labels(self) -> Int[np.ndarray, "items"]:
        """Returns the labels of the items, in the order of `items`."""
        return self.canvases.source.labels[self.items]

    @property
    def own(self) -> Int[np.ndarray, "own"]:
        """Returns the indices into `items` of those that this process may read in an epoch."""
        if self._ranges == 1:
            return np.arange(len(self.items))
        return _in_ranges(self.items, self._ranges)[self._part[0]]

    @property
    def on_device(self) -> tuple[jax.Array, jax.Array] | None:
        """Returns the canvases and frames of the whole source, if they are on the device."""
        return self.canvases.on_device

    def shapes(self) -> Batch | CachedBatch:
        """Returns the shapes and types of what `steps` yields, for all processes together."""

        def array(dtype: type, *shape: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((self.batch_size, *shape), dtype)

        label, index, mask = array(np.int32), array(np.int32), array(np.bool_)
        if self.canvases.on_device is not None:
            images, frames = jax.eval_shape(lambda: self.canvases.on_device)
            item = array(np.int32)
            return CachedBatch(images, frames, item, label, index, mask, self.canvases.framing)
        image = array(np.uint8, *self.canvases.shape)
        return Batch(image, array(np.float32, 3, 3), label, index, mask, self.canvases.framing)

    def _earlier_draws(self, epoch: int) -> Int[np.ndarray, "batches batch_size"]:
        order = self.order(epoch)
        counted = self._counted
        if counted[0] is not order:
            counted = self._counted = order, earlier_draws(order)
        return counted[1]

    def _batch(self, step: int) -> Batch | CachedBatch:
        epoch, number = divmod(step, len(self))
        process, processes = self._part
        count = self.batch_size // processes
        own = slice(process * count, (process + 1) * count)
        row = self.order(epoch)[number, own]
        places = row[row >= 0]
        # A short last batch may leave this process without rows; it then uses one masked row.
        known = np.ones(len(places), bool)
        if not len(places):
            places, known = self.order(epoch)[0, own][:1].clip(0), np.zeros(1, bool)
        items = self.items[places]
        short = count - len(places)

        def fill(rows: np.ndarray, with_first: bool) -> np.ndarray:
            if not short:
                return rows
            filling = rows[:1] if with_first else np.zeros_like(rows[:1])
            return np.concatenate([rows, np.repeat(filling, short, axis=0)])

        label = fill(self.canvases.source.labels[items] * known, with_first=False)
        draws = self._earlier_draws(epoch)[number, own][: len(places)]
        index = places + draws * len(self.items)
        index = fill(index.astype(np.int32) * known, with_first=False)
        mask = fill(known, with_first=False)
        framing = self.canvases.framing
        if self.canvases.on_device is not None:
            item = fill(items.astype(np.int32), with_first=True)
            return CachedBatch(*self.canvases.on_device, item, label, index, mask, framing)
        image, frame = self.canvases(items)
        image, frame = fill(image, with_first=True), fill(frame, with_first=True)
        return Batch(image, frame, label, index, mask, framing)


def earlier_draws(
    order: Int[np.ndarray, "batches batch_size"],
) -> Int[np.ndarray, "batches batch_size"]:
    """Returns for each draw of an epoch how often the same item was drawn earlier in the epoch.

    Example:
        >>> earlier_draws(np.array([[3, 1], [3, 3], [1, -1]]))
        array([[0, 0],
               [1, 2],
               [1, 0]])
    """
    flat = order.reshape(-1)
    if np.bincount(flat[flat >= 0]).max(initial=0) <= 1:
        return np.zeros_like(order)
    by_place = np.argsort(flat, kind="stable")
    first = np.searchsorted(flat[by_place], flat[by_place])
    draws = np.empty_like(flat)
    draws[by_place] = np.arange(len(flat)) - first
    return np.where(flat < 0, 0, draws).reshape(order.shape)


def _order(
    sampler: Sampler,
    labels: Int[np.ndarray, "all"],
    items: Int[np.ndarray, "items"],
    seed: int,
    draws: int,
    ranges: int,
    shape: tuple[int, int],
    epoch: int,
) -> Int[np.ndarray, "batches batch_size"]:
    """Returns an epoch's batches, one per row, as indices into `items`; -1 where there is no item.

    The columns are divided among `ranges` processes, each of which draws from a range of its own.
    """
    if ranges > 1:
        orders = _in_ranges(items, ranges)
        orders = shuffled_ranges(orders, epoch, seed) if sampler is shuffled else orders
    else:
        orders = [draw(sampler, labels[items], epoch, seed, draws)]
    batches, batch_size = shape
    count = batch_size // ranges
    rows = np.full((batches, ranges, count), -1)
    for number, order in enumerate(orders):
        column = np.full(batches * count, -1)
        column[: len(order)] = order[: batches * count]
        rows[:, number] = column.reshape(batches, count)
    return rows.reshape(batches, batch_size)


def _in_ranges(items: Int[np.ndarray, "items"], count: int) -> list[Int[np.ndarray, "range"]]:
    """Returns the indices of items, divided into ranges of neighbouring items."""
    return np.array_split(np.argsort(items), count)


def to_device(
    batches: Iterator[Batch | CachedBatch],
    put: Callable[[Batch | CachedBatch], Batch | CachedBatch] = jax.device_put,
) -> Iterator[Batch | CachedBatch]:
    """Yields the given batches on the device, each copied while the previous ones are in use.

    Args:
        batches: Batches of NumPy arrays.
        put: Function that starts to copy a batch; the default copies it to the default device.
    """
    waiting: deque[Batch | CachedBatch] = deque()
    for batch in _waited_for(batches):
        waiting.append(put(batch))
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    yield from waiting


def _waited_for(batches: Iterator[Batch | CachedBatch]) -> Iterator[Batch | CachedBatch]:
    """Yields the given batches; JAX's profiler shows how long each was waited for."""
    while True:
        with jax.profiler.TraceAnnotation(WAITING):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch
