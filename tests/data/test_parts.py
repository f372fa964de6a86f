"""A column that is meant to split a table does so, is refused, or is reported as not used."""

import pytest
from PIL import Image

from jaxch5.config.building import load_data
from jaxch5.config.settings import Config
from jaxch5.errors import DataError


@pytest.fixture
def load(tmp_path):
    """Returns a function that loads a table of pictures with the given columns."""

    def load(columns, names=None, **settings):
        names = names or [f"{number}.png" for number in range(8)]
        for name in set(names):
            Image.new("RGB", (4, 4)).save(tmp_path / name)
        rows = zip(names, "abababab", *columns.values(), strict=True)
        lines = [",".join(("image", "label", *columns)), *map(",".join, rows)]
        (tmp_path / "t.csv").write_text("\n".join(lines))
        data = {"path": tmp_path / "t.csv", "presize": 8, "size": 8, **settings}
        return load_data(Config.model_validate({"data": data}))

    return load


def held_out(data):
    return sorted(data.valid.items.tolist())


PARTS = ["train"] * 6 + ["valid"] * 2


def test_a_column_called_folder_is_like_any_other(load):
    """A column `folder` need not name the parts of a set, and does not rule out other columns."""
    cameras = ["cam1", "cam2"] * 4
    words = ["no"] * 5 + ["", "yes", "yes"]
    assert held_out(load({"folder": cameras, "is_valid": words})) == [6, 7]
    assert held_out(load({"folder": cameras, "is_valid": ["0"] * 6 + ["1"] * 2})) == [6, 7]
    assert held_out(load({"folder": cameras, "mine": words}, split_column="mine")) == [6, 7]
    assert len(held_out(load({"folder": cameras}, valid_fraction=0.25))) == 2
    data = load({"folder": PARTS})
    assert held_out(data) == [6, 7]
    assert "split by its column folder" in data.describe()


def test_a_picture_in_two_parts_is_refused_whatever_the_column_is_called(load):
    names = [*(f"{number}.png" for number in range(7)), "0.png"]
    for column in ("folder", "split"):
        with pytest.raises(DataError, match=r"0\.png is both for training and for validation"):
            load({column: PARTS}, names)


@pytest.mark.parametrize("column", ["split", "Subset", "part", "set"])
@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([*PARTS[:7], "unlabeled"], "unlabeled is neither.*--data.split random"),
        (["trian", *PARTS[1:]], "trian is neither.*correct it"),
        (["", *PARTS[1:]], "is empty in one row"),
        (["valid"] * 7 + ["x"], "x is neither"),
        (["0"] * 6 + ["1"] * 2, "is 0 or 1.*--data.split-column.*--data.split random"),
        (["True"] * 6 + ["False"] * 2, "is false or true"),
    ],
)
def test_a_column_called_split_is_never_overlooked(load, column, words, named):
    with pytest.raises(DataError, match=f"column {column}: .*{named}"):
        load({column: words})
    # Both ways out that the message names work.
    assert len(held_out(load({column: words}, split="random", valid_fraction=0.25))) == 2
    if "--data.split-column" in named:
        assert held_out(load({column: words}, split_column=column)) == [6, 7]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("set", ["A", "B"] * 4),
        ("split", ["train"] * 8),
        ("part", ["1"] * 8),
        # Any column that names several parts, even if not in every row.
        ("use", [*PARTS[:7], "unlabeled"]),
    ],
)
def test_a_column_that_seems_to_split_but_does_not_is_named(load, column, words):
    remark = f"its column {column} is not used for the split"
    data = load({column: words}, valid_fraction=0.25)
    assert remark in data.describe()
    assert len(held_out(data)) == 2
    assert remark in load({column: words, "is_valid": ["0"] * 6 + ["1"] * 2}).describe()
    assert remark not in load({column: words}, split="random").describe()


def test_other_columns_are_passed_without_a_word(load):
    assert "not used" not in load({"by": ["me"] * 8, "vehicle": ["train", "car"] * 4}).describe()
