"""A packed set is read item by item, whole or by shards; damage is reported in one clear line."""

import shutil

import numpy as np
import pytest

import jaxch5 as jx
from jaxch5.data.packing import pack
from jaxch5.data.source import read_pixels
from jaxch5.data.sources.folder import from_folder
from jaxch5.data.sources.packed import INDEX, from_packed
from jaxch5.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def packed(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "set"
    pack(from_folder(pictures), out, 24, shard_size=9)
    return out


@pytest.fixture
def copy(packed, tmp_path):
    shutil.copytree(packed, tmp_path / "set")
    return tmp_path / "set"


def test_it_goes_through_the_block(packed):
    data = jx.DataBlock(from_packed(packed), jx.random_split(), presize=24, size=16).load(8)
    batch = next(iter(data.train))
    assert batch.image.shape == (8, 24, 36, 3)
    red, _, blue = batch.image[:, :20, :20].mean((1, 2)).T
    assert data.classes == ("blue", "red")
    np.testing.assert_array_equal(batch.label, red > blue)
    np.testing.assert_array_equal(batch.label, data.source.labels[data.train.items][batch.index])


def test_pictures_without_enough_pixels_are_not_enlarged(packed):
    block = jx.DataBlock(from_packed(packed), jx.random_split(), presize=32, size=16)
    with pytest.raises(ConfigError, match="presize = 32: the pictures were packed at 24"):
        block.load(8)


def test_each_process_can_have_shards_of_its_own(packed):
    """The processes' shares together hold each item once, with its own label, name and picture."""
    whole = from_packed(packed)
    shares = [from_packed(packed, slice(k, None, 2)) for k in range(2)]
    assert [len(share) for share in shares] == [22, 18]
    assert sorted(name for share in shares for name in share.references) == sorted(whole.references)
    item_of = {name: item for item, name in enumerate(whole.references)}
    for share in shares:
        for item, name in enumerate(share.references):
            assert share.labels[item] == whole.labels[item_of[name]]
            assert share.read(item) == whole.read(item_of[name])
    with pytest.raises(DataError, match="has 5 shards, but none of them is in"):
        from_packed(packed, slice(7, None))


def test_a_share_opens_no_other_shard(copy):
    whole = from_packed(copy)
    contents = {name: whole.read(item) for item, name in enumerate(whole.references)}
    for shard in sorted(copy.glob("pictures-*"))[1::2]:
        shard.unlink()
    share = from_packed(copy, slice(0, None, 2))
    assert len(share) == 22
    for item, name in enumerate(share.references):
        assert share.read(item) == contents[name]


def test_of_two_processes_that_train_each_opens_its_own_shards(copy):
    """Each process opens the shards that its half of the set is in, and no others.

    Of five shards, the first two belong to one half, the last two to the other, and the middle one
    to both.
    """
    shards = sorted(copy.glob("pictures-*"))
    for part, others in enumerate((shards[3:], shards[:2])):
        for shard in others:
            shard.rename(f"{shard}.away")
        data = jx.DataBlock(from_packed(copy), jx.random_split(), 24, 16).load(8, cache="off")
        own = data.shared(lambda array: array, (part, 2), devices=2)
        assert len(own.train) == len([*own.train.epoch(0)]) == len([*own.train.epoch(1)])
        assert len(own.valid) == len([*own.valid])
        with pytest.raises(DataError, match="missing"):
            [*data.shared(lambda array: array, (1 - part, 2), devices=2).train]
        for shard in others:
            shard.with_name(f"{shard.name}.away").rename(shard)


def read_all(folder):
    source = from_packed(folder)
    for item in range(len(source)):
        read_pixels(source, item)


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (flipped, r"is damaged \(.*jpg cannot be read: .*hash mismatch\); remove it, and run"),
        (lambda content: content[:-100], r"is damaged \(has .* bytes, not .*\); remove it"),
        (lambda content: b"", r"is damaged \(has 0 bytes"),
    ],
)
def test_a_damaged_shard_is_named_with_the_way_out(copy, spoil, line):
    shard = next(copy.glob("pictures-00002*"))
    shard.write_bytes(spoil(shard.read_bytes()))
    with pytest.raises(DataError, match=f"{shard}: {line}") as error:
        read_all(copy)
    assert "jaxch5 pack" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_shard_is_named(copy):
    shard = next(copy.glob("pictures-00002*"))
    shard.unlink()
    with pytest.raises(DataError, match=f"{shard}: is missing"):
        read_all(copy)


def test_shards_that_were_exchanged_are_noticed(copy):
    """If shards have been swapped, reading fails, so that no picture gets another one's label."""
    one, other = sorted(copy.glob("pictures-*"))[:2]
    content = one.read_bytes()
    if one.stat().st_size != other.stat().st_size:
        pytest.skip("the sizes give it away")
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    with pytest.raises(DataError, match="its label differs"):
        read_all(copy)


def test_what_is_no_index_is_one_line(copy):
    for content in (b"", b"{}", b'{"version": 2}', b"[" * 100_000, b"\xff\xfe"):
        (copy / INDEX).write_bytes(content)
        with pytest.raises(DataError, match=f"{INDEX}: is not an index") as error:
            from_packed(copy)
        assert "\n" not in str(error.value)


def test_a_folder_that_is_not_packed_says_how_to_pack(tmp_path):
    with pytest.raises(DataError, match=r"no packed pictures.*jaxch5 pack SOURCE"):
        from_packed(tmp_path)
