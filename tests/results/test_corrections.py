"""A table of corrected labels contains the corrections that were given, and no other changes."""

import os

import pytest
from PIL import Image

from jaxch5.data.sources.table import from_csv
from jaxch5.data.split import column_split
from jaxch5.errors import CheckpointError, DataError
from jaxch5.results.answers import Answer
from jaxch5.results.corrections import (
    Row,
    about_labels,
    check_listable,
    corrected,
    remarks,
    summary,
    write_labels,
)

ROWS = [
    Row("/a.jpg", "cat", False),
    Row("/b.jpg", "cat", True),
    Row("/c.jpg", "dog", False),
    Row("/d.jpg", "dog", True),
]


def answers(*given):
    """Returns answers about `ROWS`, each given as (number of the row, kind, class)."""
    found = {}
    for number, kind, *label in given:
        key = (ROWS[number].image, ROWS[number].label)
        found[key] = Answer(kind, (key,), *label)
    return found


def test_an_answer_changes_its_picture_and_no_other():
    now = corrected(ROWS, answers((0, "class", "dog"), (1, "keep"), (2, "drop"), (3, "unsure")))
    assert now.rows == [ROWS[0]._replace(label="dog"), ROWS[1], ROWS[3]]
    assert dict(now.relabelled) == {("train", "cat", "dog"): 1}
    assert dict(now.dropped) == {("train", "dog"): 1}
    assert summary(now, False) == "1 kept, 1 relabelled, 1 dropped, 1 unsure (unchanged)"


def test_what_nobody_is_sure_of_may_be_left_out():
    given = answers((3, "unsure"))
    assert len(corrected(ROWS, given).rows) == 4
    now = corrected(ROWS, given, drop_unsure=True)
    assert now.rows == ROWS[:3]
    assert summary(now, True) == "0 kept, 0 relabelled, 0 dropped, 1 unsure (left out)"


def test_an_answer_about_another_label_of_the_file_changes_nothing():
    """An answer applies only while the picture has the label that the answer was about."""
    key = ("/a.jpg", "horse")
    now = corrected(ROWS, {key: Answer("drop", (key,))})
    assert now.rows == ROWS
    assert now.elsewhere == 1
    assert remarks(ROWS, now) == [
        "1 answer is about pictures that are no longer in the set, or have another label now, and "
        "changed nothing"
    ]


def test_classes_that_go_come_or_cannot_be_trained_are_said():
    now = corrected(ROWS, answers((0, "class", "fox"), (1, "class", "fox"), (2, "drop")))
    assert remarks(ROWS, now) == [
        "no picture of cat is left: a network trained on these labels will not know it",
        "fox is a new class",
        "dog has no pictures for training, so train will refuse these labels: correct or drop "
        "its pictures for validation",
        "fewer than two classes are left: train will refuse these labels",
    ]
    now = corrected(ROWS, answers((1, "drop"), (3, "drop")))
    assert remarks(ROWS, now) == [
        "no picture is left in the part valid: train will refuse these labels"
    ]
    assert remarks(ROWS, corrected(ROWS, {})) == []


def test_the_table_is_read_as_it_was_written_whatever_the_names(tmp_path):
    """Paths and classes are read back as they were, and each picture stays in its part.

    Names may contain quotes, line feeds, and bytes that are not valid text.
    """
    names = [os.fsdecode(b"\xff.png"), 'a "quote", and\nmore.png', "<b>.png", "=1+1.png"]
    for name in names:
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    classes = ["=cat", 'd"o,g', "=cat", 'd"o,g']
    rows = [
        Row(str(tmp_path / name), label, number > 1)
        for number, (name, label) in enumerate(zip(names, classes, strict=True))
    ]
    write_labels(tmp_path / "labels.csv", corrected(rows, {}), tmp_path / "run")
    source = from_csv(tmp_path / "labels.csv")
    assert list(source.references) == [row.image for row in rows]
    assert [source.classes[label] for label in source.labels] == classes
    assert [part.tolist() for part in column_split()(source)] == [[0, 1], [2, 3]]


def test_what_was_corrected_is_beside_the_table_for_as_long_as_it_is_true(tmp_path):
    path = tmp_path / "labels.csv"
    write_labels(path, corrected(ROWS, answers((0, "class", "dog"))), tmp_path / "run")
    about = about_labels(path)
    assert about["run"] == str(tmp_path / "run")
    assert about["relabelled"] == [["train", "cat", "dog", 1]]
    assert not about["edited"]
    path.write_text(path.read_text().replace("cat", "fox"))
    assert about_labels(path)["edited"]
    assert about_labels(tmp_path / "others.csv") is None


@pytest.mark.parametrize("suffix", [".csv", ".toml"])
def test_a_table_or_settings_that_were_edited_by_hand_are_kept(tmp_path, suffix):
    path, now, settings = tmp_path / "labels.csv", corrected(ROWS, {}), "seed = 1\n"
    assert [write_labels(path, now, None, settings) for _ in range(2)] == [{}, {}]
    file = path.with_suffix(suffix)
    written = file.read_text()
    for name in (f"labels-edited{suffix}", f"labels-edited-2{suffix}"):
        file.write_text(f"{written}# mine\n")
        assert write_labels(path, now, None, settings) == {file: tmp_path / name}
        assert (tmp_path / name).read_text().endswith("# mine\n")
        assert file.read_text() == written
    # What the command itself wrote is replaced, whatever the new labels and settings are.
    changed = corrected(ROWS, answers((0, "class", "dog")))
    assert write_labels(path, changed, None, "seed = 2\n") == {}
    assert (path.with_suffix(".toml")).read_text() == "seed = 2\n"


def test_a_table_that_cannot_be_read_is_not_replaced(tmp_path):
    path = tmp_path / "labels.csv"
    path.mkdir()
    with pytest.raises(CheckpointError, match="cannot be read, so it is not replaced: Is a dir"):
        write_labels(path, corrected(ROWS, {}), None)
    assert [file.name for file in tmp_path.iterdir()] == ["labels.csv"]


def test_settings_that_cannot_be_read_leave_the_table_as_it_was(tmp_path):
    path = tmp_path / "labels.csv"
    write_labels(path, corrected(ROWS, {}), None)
    before = path.read_text()
    (tmp_path / "labels.toml").mkdir()
    with pytest.raises(CheckpointError, match=r"labels\.toml: cannot be read, so it is n"):
        write_labels(path, corrected(ROWS, answers((0, "class", "dog"))), None, "seed = 1\n")
    assert path.read_text() == before


def test_names_that_a_table_cannot_hold_are_refused():
    for row, line in (
        (Row("/a", os.fsdecode(b"\xff"), False), "is not valid text"),
        (Row("/a", " cat", False), "differs from another only by spaces"),
        (Row("/a ", "dog", False), "a table drops the spaces around it"),
    ):
        with pytest.raises(DataError, match=line):
            check_listable([*ROWS, row])
    check_listable([*ROWS, Row("/a", " fox ", False)])
