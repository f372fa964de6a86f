"""A run's training pictures are never scored as validation pictures, however its files change.

The tests use real files. Each file has a unique length, by which a test recognizes it after it has
been moved.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxch5.data.pictures import find, pictures_of, read_pictures, with_classes, write_pictures
from jaxch5.data.scoring import holds_own, score_all, score_validated
from jaxch5.data.source import from_arrays, take
from jaxch5.data.sources.folder import from_folder
from jaxch5.data.split import random_split
from jaxch5.errors import ConfigError, DataError

CLASSES = ("äpfel", "birnen", "citrus")
PER_CLASS = 4


def make(root):
    """Makes class folders of files with unique lengths; returns an iterator of unused lengths."""
    lengths = iter(range(1, 10_000))
    for name in CLASSES:
        (root / name).mkdir()
        for number in range(PER_CLASS):
            (root / name / f"{number}.jpg").write_bytes(bytes(next(lengths)))
    return lengths


places = st.tuples(st.sampled_from(CLASSES), st.integers(0, PER_CLASS + 2))
changes = st.lists(
    st.one_of(
        st.tuples(st.just("add"), places, places),
        st.tuples(st.just("remove"), places, places),
        st.tuples(st.just("move"), places, places),
        st.tuples(st.just("copy"), places, places),
        st.tuples(st.just("rewrite"), places, places),
    ),
    max_size=8,
)


def change(root, what, lengths):
    kind, *names = what
    one, other = (root / folder / f"{number}.jpg" for folder, number in names)
    match kind:
        case "add" if not one.exists():
            one.write_bytes(bytes(next(lengths)))
        case "rewrite" if one.exists():
            one.write_bytes(bytes(next(lengths)))
        case "remove":
            one.unlink(missing_ok=True)
        case "move" if one.exists():
            one.replace(other)
        case "copy" if one.exists() and one != other:
            shutil.copy(one, other)


def lengths_of(source, items):
    return [source.file(int(item)).stat().st_size for item in items]


@settings(deadline=None)
@given(changes, st.integers(0, 3))
def test_only_what_was_validated_is_scored_and_all_of_it_that_is_there(some, seed):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        lengths = make(root)
        before = from_folder(root)
        train, valid = random_split(0.4, seed)(before)
        record = Path(folder) / "pictures.jsonl.gz"
        write_pictures(record, pictures_of(before, train, valid))
        validated = dict(
            zip((before.references[item] for item in valid), lengths_of(before, valid), strict=True)
        )
        trained_on = set(lengths_of(before, train))

        for what in some:
            change(root, what, lengths)
        if sum(any((root / name).iterdir()) for name in CLASSES) < 2:
            return
        now = from_folder(root)
        pictures = read_pictures(record)
        found = find(pictures, pictures_of(now))
        there = {
            name
            for name, length in validated.items()
            if (root / name).exists() and (root / name).stat().st_size == length
        }
        if there:
            scored = score_validated(pictures, found, folder)
            assert not trained_on & set(lengths_of(now, scored.items))
            assert {now.references[item] for item in scored.items} == there
            counts = scored.counts
            left = counts["validated"] - counts["missing"] - counts["changed"]
            assert len(scored.items) == len(there) == left
            assert f"{len(there)} " in scored.line
        else:
            with pytest.raises(DataError, match="none of the 4 pictures that the run validated on"):
                score_validated(pictures, found, folder)

        everything = score_all(len(now), pictures, found, folder)
        assert sum(everything.counts.values()) == len(everything.items) == len(now)
        known = [now.references[item] in before.references for item in range(len(now))]
        assert everything.counts["new"] == len(now) - sum(known)
        assert everything.counts["validated"] == len(there)


def test_a_label_that_was_put_right_is_scored_as_it_is_now(tmp_path):
    """A picture whose label has been corrected is scored against its new class.

    This holds if its name stays the same, as in a table. With class folders, a new class means a
    new name.
    """
    make(tmp_path)
    source = from_folder(tmp_path)
    train, valid = random_split(0.4)(source)
    pictures = pictures_of(source, train, valid)
    source.labels[valid[0]] = (source.labels[valid[0]] + 1) % 3
    scored = score_validated(pictures, find(pictures, pictures_of(source)), "a table")
    assert scored.counts["relabelled"] == 1
    assert "1 is now in another class" in scored.line
    assert scored.items.tolist() == valid.tolist()


def test_a_copy_of_the_set_is_its_own_and_another_set_of_its_names_is_not(tmp_path):
    """A copy of a run's set counts as its own; another set with the same file names does not.

    Cameras and scripts number the pictures of every set alike, but the files' lengths differ.
    """
    sets = []
    for name in ("set", "copy", "other"):
        root = tmp_path / name
        root.mkdir()
        make(root)
        if name == "other":
            for file in root.rglob("*.jpg"):
                file.write_bytes(bytes(100 + file.stat().st_size))
        sets.append(from_folder(root))
    one, copy, other = sets
    pictures = pictures_of(one, *random_split(0.4)(one))
    assert holds_own(pictures, find(pictures, pictures_of(copy)))
    found = find(pictures, pictures_of(other))
    assert not holds_own(pictures, found)
    assert (
        "12 different files with the names of some of the run's pictures"
        in score_all(12, pictures, found, "other").line
    )


def test_class_names_are_compared_composed_and_one_that_has_no_pictures_need_not_be_known():
    pictures = np.zeros((3, 8, 8), np.uint8)
    source = from_arrays(pictures, np.arange(3), ["birnen", "datteln", "a\u0308pfel"])
    assert with_classes(take(source, [0, 2]), CLASSES).labels.tolist() == [1, 0]
    with pytest.raises(ConfigError, match="class datteln is not one of the run's"):
        with_classes(source, CLASSES)
