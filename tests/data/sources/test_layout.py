"""Folders of a set are recognized as parts or as classes, and messages tell what was guessed."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxch5.data.parts import PART_NAMES, TEST, TRAIN, VALID
from jaxch5.data.sources.folder import from_folder, from_regex
from jaxch5.data.split import divide, folder_split, given_split, random_split
from jaxch5.errors import DataError


def put(root, *names):
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".csv"):
            file.write_text("image,label\n")
        else:
            Image.new("RGB", (4, 3)).save(file, "PNG")
    return root


def complaint(call, *arguments, **keywords) -> str:
    with pytest.raises(DataError) as caught:
        call(*arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message
    return message


def cased(word, how):
    return {"lower": word, "title": word.title(), "upper": word.upper()}[how]


WORDS = st.tuples(
    *(
        st.builds(cased, st.sampled_from(PART_NAMES[part]), st.sampled_from(["lower", "title"]))
        for part in (TRAIN, VALID, TEST)
    ),
    st.sampled_from(["lower", "title", "upper"]),
)


@settings(deadline=None, max_examples=60)
@given(WORDS)
def test_parts_are_known_by_what_people_call_them(tmp_path_factory, words):
    """Folders with the usual names of parts, in any letter case, are parts and not classes.

    The classes are the folders in the parts, the split follows the parts, and the test pictures are
    passed over.
    """
    train, valid, test, case = words
    train, valid = cased(train, case), cased(valid, case)
    root = tmp_path_factory.mktemp("set")
    put(root, *(f"{part}/{name}/1.png" for part in (train, valid, test) for name in "ab"))
    put(root, f"{train}/a/2.png", f"{test}/loose.png")
    source = from_folder(root)
    assert source.classes == ("a", "b")
    for split in (folder_split(), given_split()):
        parts = [[source.references[item] for item in part] for part in split(source)]
        assert parts == [
            [f"{train}/a/1.png", f"{train}/a/2.png", f"{train}/b/1.png"],
            [f"{valid}/a/1.png", f"{valid}/b/1.png"],
        ]
    ((reason, paths),) = source.passed_over.items()
    assert sorted(paths) == [f"{test}/a/1.png", f"{test}/b/1.png", f"{test}/loose.png"]
    assert f"in {test}/" in reason.text()
    assert f"--data.valid {test}" in reason.text()
    assert not reason.suspect


@settings(deadline=None, max_examples=40)
@given(st.sets(st.sampled_from(sum(PART_NAMES.values(), ())), min_size=1), st.booleans())
def test_parts_without_class_folders_are_no_classes(tmp_path_factory, names, table):
    """A set whose classes would all be named like parts is refused.

    The message names the table, if there is one.
    """
    root = tmp_path_factory.mktemp("set")
    put(root, *(f"{name}/{number}.png" for name in names for number in range(2)))
    if table:
        put(root, "labels.csv")
    message = complaint(from_folder, root)
    assert ("labels.csv" in message) == table
    assert "--data" in message
    if len(names) > 1:
        assert set(from_folder(root, train=".").classes) == names


@pytest.mark.parametrize("valid", ["valid", "Testing", "holdout", "2024"])
@pytest.mark.parametrize("train", [None, "train", "Good", "deep/er"])
def test_folders_that_are_named_are_the_parts(tmp_path, train, valid):
    chosen = train or "train"
    put(tmp_path, *(f"{part}/{name}/1.png" for part in (chosen, valid, "other") for name in "ab"))
    source = from_folder(tmp_path, train, valid)
    in_train, in_valid = given_split()(source)
    assert {source.references[item].rpartition("/")[0] for item in in_train} == {
        f"{chosen}/a",
        f"{chosen}/b",
    }
    assert [source.references[item] for item in in_valid] == [
        f"{valid}/a/1.png",
        f"{valid}/b/1.png",
    ]
    assert [[*paths] for paths in source.passed_over.values()] == [
        ["other/a/1.png", "other/b/1.png"]
    ]


def test_a_validation_folder_beside_class_folders(tmp_path):
    """A validation folder beside class folders is refused until a setting says what it is.

    With `valid="val"`, the other folders are trained on; with `train="."`, `val` is a class.
    """
    put(tmp_path, *(f"{name}/1.png" for name in ("cat", "dog", "val/cat", "val/dog")))
    message = complaint(from_folder, tmp_path)
    assert "val/" in message
    assert "--data.valid val" in message
    source = from_folder(tmp_path, valid="val")
    assert source.classes == ("cat", "dog")
    assert [len(part) for part in given_split()(source)] == [2, 2]
    assert from_folder(tmp_path, train=".").classes == ("cat", "dog", "val")


def test_a_part_elsewhere(tmp_path):
    put(tmp_path / "here", *(f"{name}/1.png" for name in "ab"))
    put(tmp_path / "there", *(f"{name}/2.png" for name in "ab"))
    source = from_folder(tmp_path / "here", valid=str(tmp_path / "there"))
    train, valid = given_split()(source)
    assert [source.references[item] for item in valid] == ["../there/a/2.png", "../there/b/2.png"]
    assert all(source.read(int(item)) for item in np.concatenate([train, valid]))


def test_a_folder_that_is_not_there_is_named_and_so_are_those_that_are(tmp_path):
    put(tmp_path, "train/a/1.png", "train/b/1.png", "good/a/1.png")
    for keywords in ({"train": "gone"}, {"valid": "gone"}):
        message = complaint(from_folder, tmp_path, **keywords)
        assert f"--data.{next(iter(keywords))}" in message
        assert "good, train" in message
    assert "two folders" in complaint(from_folder, tmp_path, train="train", valid="train")


def test_two_training_folders_are_not_chosen_from(tmp_path):
    put(tmp_path, *(f"{part}/a/1.png" for part in ("train2014", "train2017", "val2017")))
    assert "--data.train" in complaint(from_folder, tmp_path)
    put(tmp_path, "train2017/b/1.png")
    assert len(from_folder(tmp_path, train="train2017")) == 3


def test_a_class_that_is_called_like_a_part_is_said(tmp_path):
    put(tmp_path, "bus/1.png", "train/1.png")
    assert from_folder(tmp_path).notes == ("train/ is treated as a class",)


def test_one_level_too_high_or_too_low(tmp_path):
    put(tmp_path, "photos/cat/1.png", "photos/dog/1.png")
    message = complaint(divide, from_folder(tmp_path), random_split(0.5))
    assert f"--data.path {tmp_path / 'photos'}" in message
    message = complaint(from_folder, tmp_path / "photos" / "cat")
    assert f"--data.path {tmp_path / 'photos'}" in message


@pytest.mark.parametrize("table", ["labels.csv", "images/labels.csv"])
def test_a_table_beside_one_folder_of_pictures_is_named(tmp_path, table):
    put(tmp_path, "images/1.png", "images/2.png", table)
    message = complaint(divide, from_folder(tmp_path), random_split(0.5))
    assert f"--data.path {tmp_path / table}" in message


def test_the_validation_folder_beside_is_said(tmp_path):
    put(tmp_path, *(f"{part}/{name}/1.png" for part in ("train", "val") for name in "ab"))
    (note,) = from_folder(tmp_path / "train").notes
    assert "val/" in note
    assert f"--data.path {tmp_path}" in note


def test_pictures_beside_the_parts_are_missed_unless_they_are_for_testing(tmp_path):
    put(tmp_path, *(f"{part}/{name}/1.png" for part in ("train", "valid") for name in "ab"))
    put(tmp_path, "more/a/1.png", "loose.png", "test/1.png")
    reasons = {tuple(paths): reason for reason, paths in from_folder(tmp_path).passed_over.items()}
    assert {paths: reason.suspect for paths, reason in reasons.items()} == {
        ("more/a/1.png",): True,
        ("loose.png",): True,
        ("test/1.png",): False,
    }


def test_a_pattern_and_parts(tmp_path):
    """With a pattern, all folders are read as one set, with a note, unless parts are named."""
    put(tmp_path, *(f"{part}/{name}_1.png" for part in ("train", "test") for name in "ab"))
    pattern = r"(.)_\d\.png"
    source = from_regex(tmp_path, pattern)
    assert len(source) == 4
    (note,) = source.notes
    assert "--data.train train --data.valid test" in note
    source = from_regex(tmp_path, pattern, "train", "test")
    assert [part.tolist() for part in given_split()(source)] == [[0, 1], [2, 3]]


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([r"(daisy)?.*", r"(daisy)?(rose)?.*\.png", r"()\w*.*", r"(\d*)\w*\.png"]),
    st.sets(st.sampled_from(["daisy1", "rose1", "tulip", "ö"]), min_size=1),
)
def test_a_group_without_a_class_is_one_line(tmp_path_factory, pattern, names):
    root = tmp_path_factory.mktemp("set")
    put(root, *(f"{name}.png" for name in names))
    message = complaint(lambda: divide(from_regex(root, pattern), random_split(0.5)))
    assert "--data.pattern" in message or "one class only" in message
    assert any(f"{name}.png" in message for name in names) or "one class only, daisy" in message


def test_names_match_however_an_umlaut_is_stored(tmp_path):
    forms = ("K\u00e4fer_1.png", "Ka\u0308fer_2.png", "Wanze_1.png")
    put(tmp_path, *forms)
    for pattern in ("(K\u00e4fer|Wanze)_.*", "(Ka\u0308fer|Wanze)_.*"):
        source = from_regex(tmp_path, pattern)
        assert source.classes == ("K\u00e4fer", "Wanze")
        assert sorted(source.references) == sorted(forms)


@pytest.mark.parametrize(("one", "other"), [*itertools.permutations(["e\u0301", "\u00e9"])])
def test_a_class_is_one_in_both_parts_however_it_is_stored(tmp_path, one, other):
    put(tmp_path, f"train/{one}/1.png", "train/b/1.png", f"valid/{other}/1.png", "valid/b/1.png")
    assert from_folder(tmp_path).classes == ("b", "\u00e9")
