"""Tests that a data block combines its parts into batches, and names parts that do not fit."""

import re
from dataclasses import replace

import numpy as np
import pytest

from jaxch5.data.block import DataBlock
from jaxch5.data.source import Source, digits, from_arrays
from jaxch5.data.sources.folder import from_folder
from jaxch5.data.split import folder_split, random_split
from jaxch5.errors import ConfigError, DataError


def test_digits_from_block_to_batch():
    data = DataBlock(digits(), random_split(0.2, seed=42), presize=40, size=32).load(64)
    assert data.classes == tuple("0123456789")
    assert (len(data.train), len(data.valid)) == (1438 // 64, -(-359 // 64))
    assert (data.presize, data.size) == (40, 32)
    batch = next(iter(data.train))
    assert batch.image.shape == (64, 40, 60, 3)
    assert len(np.unique(batch.label)) > 5
    labels = np.concatenate([batch.label[batch.mask] for batch in data.valid])
    np.testing.assert_array_equal(labels, digits().labels[random_split(0.2, seed=42)(digits())[1]])


def test_data_are_shown_in_a_line():
    """A notebook shows the data's description, with a line for each part, at the end of a cell."""
    data = DataBlock(digits(), random_split(), presize=40, size=32).load(batch_size=64)
    assert repr(data) == f"<{data.describe()}>".replace("; ", "\n ")
    assert data.describe().startswith(data.outline()[0])


@pytest.mark.parametrize(
    ("count", "batch_size", "devices", "line"),
    [
        (45, 32, 1, "out 13 of its 45 draws, .* 1 batch of 32 .*batch-size 22 leaves out 1)"),
        (63, 32, 1, "out 31 of its 63 draws, .* 1 batch of 32 .*batch-size 21 leaves out none)"),
        (9, 2, 1, "out 1 of its 9 draws, .* 4 batches of 2$"),
        (5, 3, 1, "out 2 of its 5 draws, .* 1 batch of 3 .*batch-size 2 leaves out 1)"),
        (63, 32, 4, "out 31 of its 63 draws, .* 1 batch of 32 .*batch-size 20 leaves out 3)"),
        (45, 32, 16, "out 13 of its 45 draws, .* 1 batch of 32$"),
        (45, 30, 8, "out 15 of its 45 draws, .* 1 batch of 30 .*batch-size 16 leaves out 13)"),
        (45, 30, 32, "out 15 of its 45 draws, .* 1 batch of 30$"),
        (31, 25, 16, "out 6 of its 31 draws, .* 1 batch of 25$"),
        (100, 32, 1, None),
    ],
)
def test_what_epochs_leave_out_is_said_if_it_is_much(count, batch_size, devices, line):
    """The line names the batch size that leaves out fewest of those that the devices can share."""
    source = from_arrays(
        np.zeros((count + 4, 8, 8), np.uint8), np.arange(count + 4) % 2, ["a", "b"]
    )
    block = DataBlock(source, lambda _: (np.arange(count), count + np.arange(4)), presize=8, size=8)
    data = replace(block.load(batch_size), devices=devices)
    drawn = [batch.index for batch in data.train]
    assert len(np.unique(drawn)) == count - count % batch_size
    said = [text for text in data.outline() if "leaves out" in text]
    assert len(said) == (line is not None)
    if line is not None:
        assert re.search(line.replace(")", r"\)"), said[0])
        unadvised = [text for text in data.outline(advise=False) if "leaves out" in text]
        assert unadvised == [said[0].partition(" (--")[0]]


def test_the_default_augmentation_keeps_three_quarters_of_the_area():
    from jaxch5.augmentation.policy import aug_transforms

    block = DataBlock(digits(), random_split(), presize=40, size=32)
    assert block.augment == aug_transforms(min_scale=0.75)


def test_loading_reads_no_picture():
    def read(item):
        raise AssertionError("a picture was read")

    labels = np.arange(20, dtype=np.int32) % 2
    source = Source(("a", "b"), labels, [f"{i:02d}.png" for i in range(20)], read)
    data = DataBlock(source, random_split(), presize=16, size=8).load(4)
    assert len(data.train) == 4


@pytest.mark.parametrize(("presize", "size"), [(16, 32), (0, 0), (32, 0)])
def test_sizes_that_do_not_fit_are_named(presize, size):
    with pytest.raises(ConfigError, match="size") as caught:
        DataBlock(digits(), random_split(), presize=presize, size=size)
    assert str(presize) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_seeds_shuffle_differently_and_split_alike():
    block = DataBlock(digits(), random_split(), presize=16, size=16)
    one, other = block.load(64, seed=1), block.load(64, seed=2)
    assert not np.array_equal(next(iter(one.train)).index, next(iter(other.train)).index)
    np.testing.assert_array_equal(one.train.items, other.train.items)


def test_cache_is_decided_and_explained():
    block = DataBlock(digits(), random_split(), presize=16, size=16)
    data = block.load(64)
    assert data.cache in ("memory", "off")
    assert data.cache_reason
    with pytest.raises(ConfigError, match="devise"):
        block.load(64, cache="devise")


def test_too_few_pictures_for_a_batch():
    source = from_arrays(np.zeros((10, 8, 8), np.uint8), np.arange(10) % 2, ["a", "b"])
    with pytest.raises(DataError, match=r"--data\.batch-size"):
        DataBlock(source, random_split(), presize=16, size=8).load(64)


def test_photographs_from_folder_to_batch(flowers):
    source = from_folder(flowers)
    assert source.classes == ("daisy", "dandelion", "roses", "sunflowers", "tulips")
    data = DataBlock(source, folder_split(), presize=64, size=48).load(32, cache="off")
    seen = 0
    for batch in data.valid:
        assert batch.image.shape == (32, 64, 96, 3)
        assert batch.image[batch.mask].std() > 20
        seen += int(batch.mask.sum())
    assert seen == sum(reference.startswith("val") for reference in source.references)
