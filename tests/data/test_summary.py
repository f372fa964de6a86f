"""The summary reports each stage of the data, or which stage failed on which file."""

import io
import shutil

import numpy as np
import pytest
from rich.console import Console

import jaxch5 as jx
from jaxch5.errors import DataError

STAGES = [
    "source",
    "split",
    "class",
    "sizes",
    "cache",
    "item",
    "read",
    "decode",
    "presize",
    "label",
    "batch",
    "augment",
]


def load(source, **arguments):
    return jx.DataBlock(source, jx.random_split(), presize=40, size=32).load(4, **arguments)


def printed(data):
    file = io.StringIO()
    try:
        data.summary(Console(file=file))
    except DataError as error:
        return file.getvalue(), str(error)
    return file.getvalue(), None


def test_every_stage_is_told(pictures):
    text, error = printed(load(jx.from_folder(pictures)))
    assert error is None
    first = [line.split()[0] for line in text.splitlines()]
    assert [stage for stage in STAGES if stage not in first] == []
    assert "uint8 [4, 40, 60, 3]" in text
    assert "float32 [4, 32, 32, 3]" in text


def test_arrays_have_no_file_to_decode():
    text, error = printed(load(jx.digits()))
    assert error is None
    assert "decode" not in text
    assert "smaller than presize 40 and will be enlarged" in text


def test_the_failing_stage_and_file_are_named_after_what_went_well(pictures, tmp_path):
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    data = load(jx.from_folder(folder), cache="off")
    reference = data.source.references[int(data.train.items[0])]
    content = (folder / reference).read_bytes()
    (folder / reference).write_bytes(content[: len(content) // 2])
    text, error = printed(data)
    assert reference in error
    assert error.startswith("stage decode")
    assert "split     32 for training" in text
    assert f"item      {reference}" in text


def test_imbalance_and_unvalidated_classes_are_warned_of():
    images = np.zeros((40, 8, 8), np.uint8)
    source = jx.from_arrays(images, np.array([0] * 36 + [1] * 4), ["many", "few"])
    text, _ = printed(load(source))
    assert "warning   many has" in text
    source = jx.from_arrays(images, np.array([0] * 20 + [1] * 20), ["even", "odd"])
    text, _ = printed(load(source))
    assert "times the training pictures" not in text
    assert "no validation picture" not in text
    split = lambda source: (np.arange(8, 40), np.arange(8))  # noqa: E731
    text, _ = printed(jx.DataBlock(source, split, presize=8, size=8).load(4))
    assert "warning   no validation picture of odd: the accuracy says nothing" in text


@pytest.mark.parametrize(
    ("validated", "line"),
    [
        ("abcd", None),
        ("abd", "no validation picture of c: the accuracy says nothing about it"),
        ("bd", "no validation picture of a and 1 other: the accuracy says nothing about them"),
        ("d", "no validation picture of a and 2 others: the accuracy says nothing about them"),
    ],
)
def test_classes_that_are_never_validated_are_named(validated, line):
    """A warning names a class that has pictures for training but none for validation."""
    labels = np.arange(40) % 4
    source = jx.from_arrays(np.zeros((40, 8, 8), np.uint8), labels, [*"abcd"])
    held_out = np.isin(labels, ["abcd".index(name) for name in validated]) & (np.arange(40) < 8)
    block = jx.DataBlock(source, lambda source: (~held_out, held_out), presize=40, size=32)
    file = io.StringIO()
    block.load(4).summary(Console(file=file, width=200))
    warned = [row for row in file.getvalue().splitlines() if "no validation picture" in row]
    assert warned == ([f"warning   {line}"] if line else [])


def test_markup_in_class_names_is_printed_as_it_is():
    source = jx.from_arrays(
        np.zeros((20, 8, 8), np.uint8), np.arange(20) % 2, ["[red]a[/red]", ":smile:"]
    )
    text, _ = printed(load(source))
    assert "[red]a[/red]" in text
    assert ":smile:" in text


def test_show_batch_shows_what_it_says(pictures):
    data = load(jx.from_folder(pictures))
    figure = data.show_batch(nrows=2, ncols=4)
    assert len(figure.axes) == 8
    titles = [axes.get_title() for axes in figure.axes]
    assert set(titles) == {"blue", "red"}
    for title, axes in zip(titles, figure.axes, strict=True):
        red, _, blue = axes.images[0].get_array().mean((0, 1))
        assert title == ("red" if red > blue else "blue")
    figure = data.show_batch(nrows=1, ncols=3, unique=True)
    shown = [axes.images[0].get_array() for axes in figure.axes]
    assert len({axes.get_title() for axes in figure.axes}) == 1
    assert not np.array_equal(shown[0], shown[1])


def test_more_cells_than_pictures_stay_empty():
    source = jx.from_arrays(np.zeros((10, 8, 8), np.uint8), np.arange(10) % 2, ["a", "b"])
    figure = load(source).show_batch(nrows=3, ncols=4)
    assert sum(bool(axes.images) for axes in figure.axes) == 8
