"""Tests that every epoch yields the right batches, from any step on and with any cache."""

import dataclasses
import gc
import itertools
import threading
import time
import weakref

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxch5.data.canvases import Canvases
from jaxch5.data.image import canvas_shape, presize
from jaxch5.data.pipeline import Loader, to_device
from jaxch5.data.source import Source, from_arrays
from jaxch5.data.sources.folder import from_folder
from jaxch5.errors import Jaxch5Error

SIZE = 8


def pictures(count: int) -> Source:
    """Returns pictures, each filled with its number, so that a batch shows which ones it holds."""
    images = [np.full((5 + i % 3, 7, 3), i % 251, np.uint8) for i in range(count)]
    return from_arrays(images, np.arange(count) % 2, ["even", "odd"])


def loader(count, batch_size, seed=None, keep=False, items=None) -> Loader:
    items = np.arange(count) if items is None else items
    return Loader(Canvases(pictures(count), SIZE, keep), items, batch_size, seed)


def assert_same(one, other):
    for left, right in itertools.zip_longest(one, other):
        assert left is not None
        assert right is not None
        jax.tree.map(np.testing.assert_array_equal, left, right)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 60), st.integers(1, 70))
def test_validation_counts_every_item_once(count, batch_size):
    """Items come in order, in batches of one shape; masked rows fill up the last batch."""
    batches = list(loader(count, batch_size))
    assert len(batches) == -(-count // batch_size)
    assert all(batch.image.shape[0] == batch_size for batch in batches)
    seen = np.concatenate([batch.index[batch.mask] for batch in batches])
    np.testing.assert_array_equal(seen, np.arange(count))
    for batch in batches:
        assert not np.any(batch.label[~batch.mask])
        assert not np.any(batch.index[~batch.mask])
        assert np.all(np.isfinite(np.linalg.inv(batch.frame)))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_training_epoch_is_a_permutation(count, batch_size, seed, number):
    """No item comes twice, and only items that do not fill a batch are left out."""
    batch_size = min(count, batch_size)
    batches = list(loader(count, batch_size, seed).epoch(number))
    seen = np.concatenate([batch.index for batch in batches])
    assert len(batches) == count // batch_size
    assert len(np.unique(seen)) == len(seen) == count // batch_size * batch_size
    assert seen.min() >= 0
    assert seen.max() < count
    assert all(batch.mask.all() for batch in batches)


def test_batch_holds_what_its_index_says():
    """A row's picture, frame and label belong to the item at the row's index in the part."""
    items = np.array([3, 5, 8, 2, 9, 11, 0])
    source = pictures(12)
    for batch in loader(12, 3, seed=1, items=items):
        for row in range(3):
            item = items[batch.index[row]]
            image, frame = presize(source.read(item), SIZE)
            np.testing.assert_array_equal(batch.image[row], image)
            np.testing.assert_array_equal(batch.frame[row], frame)
            assert batch.label[row] == item % 2


def test_shapes_are_those_of_every_batch():
    made = loader(10, 4)
    for batch in made:
        jax.tree.map(
            lambda leaf, spec: np.testing.assert_equal(
                (leaf.shape, leaf.dtype), (spec.shape, spec.dtype)
            ),
            batch,
            made.shapes(),
        )
    assert made.shapes().image.shape == (4, *canvas_shape(SIZE))


def test_every_epoch_and_every_seed_has_its_own_order():
    """Epoch 1 of one seed also differs from epoch 0 of the next seed."""

    def order(seed, epoch):
        return tuple(np.concatenate([b.index for b in loader(40, 8, seed).epoch(epoch)]))

    orders = {order(seed, epoch) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
    assert order(2, 3) == order(2, 3)


def test_items_meet_all_places():
    """Over many epochs, every item comes at every place about equally often."""
    made = loader(10, 1, seed=0)
    places = np.zeros((10, 10))
    for place, batch in enumerate(made.steps(0, 10 * 400)):
        places[batch.index[0], place % 10] += 1
    # For 400 draws with probability 1/10, the mean is 40 and the standard deviation is 6.
    assert places.min() > 40 - 5 * 6
    assert places.max() < 40 + 5 * 6


@pytest.mark.parametrize("start", [0, 1, 4, 5, 6, 13])
def test_steps_go_on_where_they_are_told(start):
    """`steps(k)` yields what `steps(0)` yields after `k` batches, also in a later epoch."""
    made = loader(23, 4, seed=3)
    whole = list(made.steps(0, 17))
    assert len(whole) == 17
    assert_same(made.steps(start, 17), whole[start:])
    assert_same(itertools.islice(made.steps(start), 17 - start), whole[start:])


def test_steps_are_the_epochs_in_a_row():
    made = loader(23, 4, seed=3)
    assert len(made) == 5
    assert_same(made.steps(0, 15), itertools.chain(made, made.epoch(1), made.epoch(2)))
    assert_same(made, made.epoch(0))


@pytest.mark.parametrize("seed", [None, 7])
def test_cache_changes_no_bit(seed):
    """The cache changes neither the first epoch, which fills it, nor a later one."""
    off, memory = loader(23, 4, seed), loader(23, 4, seed, keep=True)
    for epoch in range(3):
        assert_same(off.epoch(epoch), memory.epoch(epoch))


def test_memory_reads_each_picture_once():
    source = pictures(23)
    reads = []

    def read(item):
        reads.append(item)
        return source.read(item)

    counted = Source(source.classes, source.labels, source.references, read)
    made = Loader(Canvases(counted, SIZE, keep=True), np.arange(20), 5)
    for epoch in range(3):
        for _ in made.epoch(epoch):
            pass
    assert sorted(reads) == list(range(20))


@pytest.mark.parametrize("whole", [True, False])
def test_no_thread_is_left_behind(whole):
    """Fifty epochs, each run to its end or left after a batch, leave no additional threads."""
    made = loader(64, 4, seed=0)
    next(iter(made))
    before = threading.active_count()
    for epoch in range(50):
        for _ in made.epoch(epoch):
            if not whole:
                break
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_no_thread_is_left_behind_on_the_way_to_the_device():
    made = loader(64, 4, seed=0)
    before = threading.active_count()
    for _ in range(10):
        for _ in to_device(made.steps(0)):
            break
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_a_broken_picture_is_named_where_it_comes(tmp_path):
    """The batches before the broken picture arrive; then an error names its file in one line."""
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    (tmp_path / "b/1.png").write_bytes(b"no picture")
    made = Loader(Canvases(from_folder(tmp_path), SIZE, keep=False), np.arange(4), 1)
    arrived = iter(made)
    assert next(arrived).index == 0
    assert next(arrived).index == 1
    with pytest.raises(Jaxch5Error) as caught:
        next(arrived)
    assert "b/1.png" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("batch_size", [0, -3, 11])
def test_a_batch_that_cannot_be_is_refused(batch_size):
    with pytest.raises(Jaxch5Error, match="batch") as caught:
        loader(10, batch_size, seed=0)
    assert str(batch_size) in str(caught.value)


def test_a_batch_larger_than_the_set_names_both_numbers():
    with pytest.raises(Jaxch5Error, match=r"11.* 10 .*--data\.batch-size"):
        loader(10, 11, seed=0)


def test_device_gets_the_same_batches_and_nothing_implicitly():
    """All transfers are explicit: they succeed although JAX's guard forbids implicit ones."""
    made = loader(23, 4, seed=3)
    with jax.transfer_guard("disallow"):
        arrived = list(to_device(made.steps(0, 12)))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(arrived))
    assert_same(jax.device_get(arrived), made.steps(0, 12))


def test_the_caches_give_the_same_batches():
    """Batches are identical in training and validation, for whole epochs and from mid-epoch on."""
    for seed in (None, 3):
        off, memory, device = (loader(23, 5, seed, keep=keep) for keep in (False, True, False))
        device.canvases.to_device()
        for number in range(2):
            assert_same(off.epoch(number), memory.epoch(number))
            assert_same(off.epoch(number), device.epoch(number))
        opened = (batch.open() for batch in device.steps(3, 9))
        assert_same(off.steps(3, 9), opened)


def test_a_batch_of_the_device_cache_has_the_announced_shapes():
    made = loader(23, 5, seed=0)
    made.canvases.to_device()
    batch = next(made.steps(0))
    announced = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), made.shapes())
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), batch) == announced


@settings(deadline=None, max_examples=20)
@given(st.integers(4, 40), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_the_parts_of_a_batch_are_the_batch(count, rows, processes, training):
    """The rows that all processes read make up each batch, even a last batch with masked rows."""
    batch_size = min(rows * processes, count // processes * processes)
    whole = loader(count, batch_size, seed=0 if training else None)
    parts = [whole.shared(lambda array: array, (part, processes)) for part in range(processes)]
    of_parts = zip(*(part.epoch(1) for part in parts), strict=True)
    batches = list(whole.epoch(1))
    for batch, rows_of in zip(batches, of_parts, strict=True):
        together = jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows_of)
        np.testing.assert_array_equal(together.mask, batch.mask)
        real = batch.mask
        for name in ("image", "frame", "label", "index"):
            np.testing.assert_array_equal(getattr(together, name)[real], getattr(batch, name)[real])
        assert np.all(np.isfinite(np.linalg.inv(together.frame)))
        assert not np.any(together.label[~real])


@settings(deadline=None, max_examples=20)
@given(st.integers(4, 40), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_of_large_files_each_process_keeps_to_a_range(count, rows, processes, training):
    """Each process reads a range of items of its own; validation reads every item once."""
    batch_size = min(rows * processes, count // processes * processes)
    items = np.random.default_rng(0).permutation(count)
    source = dataclasses.replace(pictures(count), sharded=True)
    whole = Loader(Canvases(source, SIZE, True), items, batch_size, seed=0 if training else None)
    own = []
    for part in range(processes):
        loader = whole.shared(lambda array: array, (part, processes))
        seen = [
            batch.index[row]
            for number in range(2)
            for batch in loader.epoch(number)
            for row in np.flatnonzero(batch.mask)
        ]
        assert len(seen) % 2 == 0
        assert len({*seen[: len(seen) // 2]}) == len(seen) // 2
        own.append(items[seen])
        assert {*seen} <= {*loader.own.tolist()}
        assert training or {*seen} == {*loader.own.tolist()}
    for before, after in itertools.pairwise(part for part in own if len(part)):
        assert before.max() < after.min()
    if training:
        assert {len(part) for part in own} == {2 * (count // batch_size) * batch_size // processes}
    else:
        assert {*np.concatenate(own)} == {*range(count)}


def test_pictures_go_when_their_loader_goes():
    """Kept pictures, which take gigabytes, are freed with their loader, without the collector."""
    training = loader(20, 4, seed=0, keep=True)
    list(training)
    canvases = weakref.ref(training.canvases)
    gc.disable()
    try:
        del training
        assert canvases() is None
    finally:
        gc.enable()


class Oversampling(Loader):
    """Draws the given places, in the given order, in every epoch."""

    def told(self, order):
        self.order = lambda epoch: order
        return self


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 5), min_size=6, max_size=6), st.booleans())
def test_each_draw_of_an_item_has_a_key_of_its_own(places, repeated_in_split):
    """No two rows of an epoch have the same index, which serves as the key of random draws.

    This holds if a sampler draws an item repeatedly, and if the split lists an item repeatedly. An
    item's first draw has the index that it would have without repetitions.
    """
    source = Canvases(pictures(6), SIZE, keep=True)
    if repeated_in_split:
        made = Loader(source, np.array(places), 2, seed=0)
    else:
        made = Oversampling(source, np.arange(6), 2, seed=0).told(np.array(places).reshape(3, 2))
    batches = list(made.epoch(0))
    index = np.concatenate([batch.index for batch in batches])
    assert len(set(index.tolist())) == len(index)
    if not repeated_in_split:
        first = [places.index(place) for place in set(places)]
        np.testing.assert_array_equal(index[first], np.array(places)[first])
        np.testing.assert_array_equal(index % 6, places)
    # A run that is resumed within the epoch gets the same indices.
    resumed = [batch.index for batch in made.steps(1, 3)]
    np.testing.assert_array_equal(np.concatenate(resumed), index[2:])
