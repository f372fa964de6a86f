"""Tests that a record of pictures is read as written, and its pictures are found in any order."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxch5.data.pictures import (
    Pictures,
    find,
    merged,
    pictures_of,
    read_pictures,
    restricted,
    write_pictures,
)
from jaxch5.data.recognition import trained_on
from jaxch5.data.source import from_arrays
from jaxch5.data.sources.folder import from_folder
from jaxch5.errors import CheckpointError

# Any names of files, including bytes that are not valid text, and the same name more than once.
names = st.lists(
    st.text(st.characters(codec=None, exclude_characters="\0"), min_size=1), min_size=1, max_size=8
)


def pictures_named(references, rng, classes=("a", "b", "c")):
    count = len(references)
    return Pictures(
        classes,
        references,
        rng.integers(0, len(classes), count),
        rng.integers(-1, 5, count),
        rng.integers(0, 2, count).astype(bool),
        rng.integers(-1, 5, count),
    )


@given(names, st.integers(0, 99))
def test_it_is_read_as_it_was_written(tmp_path_factory, references, seed):
    file = tmp_path_factory.getbasetemp() / "pictures.jsonl.gz"
    pictures = pictures_named(references, np.random.default_rng(seed))
    write_pictures(file, pictures)
    content = file.read_bytes()
    again = read_pictures(file)
    assert list(again.references) == references
    assert again.digest == pictures.digest
    assert again.sizes.tolist() == pictures.sizes.tolist()
    assert again.contents.tolist() == pictures.contents.tolist()
    write_pictures(file, again)
    assert file.read_bytes() == content
    for line in gzip.decompress(content).splitlines():
        json.loads(line, parse_constant=pytest.fail)


@given(names, st.integers(0, 99))
def test_in_any_order_each_is_found(references, seed):
    """Pictures that are listed in another order are all found, and no two at the same place."""
    rng = np.random.default_rng(seed)
    pictures = pictures_named(references, rng)
    order = rng.permutation(len(references))
    shuffled = Pictures(
        pictures.classes[::-1],
        [references[place] for place in order],
        2 - pictures.labels[order],
        pictures.sizes[order],
        pictures.held_out[order],
        pictures.contents[order],
    )
    found = find(pictures, shuffled)
    assert sorted(found.places.tolist()) == list(range(len(references)))
    assert found.known[found.places].tolist() == list(range(len(references)))
    if len(set(references)) == len(references):
        assert not found.changed.any()
        assert not found.relabelled.any()
        assert trained_on(shuffled, pictures, found) == (0, 0)


def test_different_content_of_the_same_size_is_a_change(tmp_path):
    """With a record without digests, from an earlier version, only a new size shows a change."""
    (tmp_path / "a").mkdir()
    for number in range(3):
        (tmp_path / "a" / f"{number}.bmp").write_bytes(bytes(70))
    source, record = from_folder(tmp_path), tmp_path / "pictures.jsonl.gz"
    write_pictures(record, pictures_of(source))
    head, *lines = map(json.loads, gzip.decompress(record.read_bytes()).splitlines())
    for line in lines:
        del line["digest"]
    before = tmp_path / "before.jsonl.gz"
    before.write_bytes(gzip.compress("\n".join(map(json.dumps, [head, *lines])).encode()))
    (tmp_path / "a" / "1.bmp").write_bytes(b"x" * 70)
    (tmp_path / "a" / "2.bmp").write_bytes(b"x" * 71)
    now = pictures_of(source)
    assert find(read_pictures(record), now).changed.tolist() == [False, True, True]
    assert find(read_pictures(before), now).changed.tolist() == [False, False, True]


@given(st.integers(0, 2**32 - 1))
def test_what_either_of_two_calls_trained_on_was_trained_on(seed):
    rng = np.random.default_rng(seed)
    every = np.array([f"{number}.jpg" for number in range(8)])
    one, other = (pictures_named(sorted(rng.choice(every, 5, False).tolist()), rng) for _ in "ab")

    def named(pictures, held_out):
        return {
            name
            for name, valid in zip(pictures.references, pictures.held_out, strict=True)
            if valid == held_out
        }

    both = merged(one, other)
    assert named(both, False) == named(one, False) | named(other, False)
    assert named(both, True) == (named(one, True) | named(other, True)) - named(both, False)
    assert len(both) == len(set(both.references))


def test_a_source_that_grew_gives_the_pictures_that_were_there():
    """The run's pictures keep their labels even if a new class shifts the labels of the source."""
    images = np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((8, 8), np.uint8)
    before = from_arrays(images, np.array([0, 1, 0, 1]), ["b", "c"])
    pictures = pictures_of(before, np.array([0, 1]), np.array([2, 3]))
    grown = from_arrays(
        np.concatenate([images, images]), np.array([1, 2, 1, 2, 0, 0, 1, 2]), ["a", "b", "c"]
    )
    source = restricted(grown, pictures, find(pictures, pictures_of(grown)))
    assert source.classes == before.classes
    assert source.labels.tolist() == before.labels.tolist()
    assert [source.read(item).max() for item in range(4)] == [0, 1, 2, 3]
    assert [part.tolist() for part in pictures.split(source)] == [[0, 1], [2, 3]]
    same = find(pictures, pictures_of(before))
    assert restricted(before, pictures, same) is before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no gzip",
        gzip.compress(b""),
        gzip.compress(b"{}\n"),
        gzip.compress(b'{"format": "jaxch5 pictures of a run, 1", "classes": [], "train": 1, '),
        gzip.compress(
            b'{"format": "jaxch5 pictures of a run, 1", "classes": [], "train": 1, "valid": 0}\n'
        ),
    ],
    # Compressed contents include the time, so test names made from them would vary among workers.
    ids=["empty", "other", "nothing", "no header", "cut", "not all"],
)
def test_a_damaged_record_is_one_line_with_a_way_out(content, tmp_path):
    file = tmp_path / "pictures.jsonl.gz"
    file.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"is damaged .*; put back a copy, or remove it"
    ) as error:
        read_pictures(file)
    assert "\n" not in str(error.value)


def test_where_there_is_none_nothing_is_read(tmp_path):
    assert read_pictures(tmp_path / "none") is None
    (tmp_path / "file").touch()
    assert read_pictures(tmp_path / "file" / "none") is None
