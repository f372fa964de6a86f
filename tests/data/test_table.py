"""CSV files: every row is a picture with a class, or an error that names the row."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxch5.data.split import column_split
from jaxch5.data.table import from_csv
from jaxch5.errors import DataError


def png(color):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), color).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def table(tmp_path):
    """Writes a table beside two pictures and returns its path."""
    (tmp_path / "a.png").write_bytes(png("red"))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b, c.png").write_bytes(png("blue"))

    def write(text, encoding="utf-8"):
        file = tmp_path / "table.csv"
        file.write_text(text, encoding=encoding)
        return file

    return write


def test_rows_are_pictures(table):
    source = from_csv(table('image,label,who\na.png,red,x\n"sub/b, c.png",blue,y\n'))
    assert source.classes == ("blue", "red")
    assert source.labels.tolist() == [1, 0]
    assert source.read(1) == png("blue")
    assert list(source.columns["who"]) == ["x", "y"]


def test_columns_and_root_can_be_named(table, tmp_path):
    (tmp_path / "lists").mkdir()
    file = tmp_path / "lists" / "t.csv"
    file.write_text("f,c\na.png,red\nsub/../a.png,blue\n", encoding="utf-8-sig")
    source = from_csv(file, image="f", label="c", root=tmp_path)
    assert source.read(0) == png("red")


def test_a_column_may_hold_the_split(table):
    text = "image,label,is_valid\na.png,red,False\na.png,red,TRUE\nsub/b c.png,blue,0\n"
    file = table(text.replace("sub/b c.png", "a.png"))
    train, valid = column_split()(from_csv(file))
    assert train.tolist() == [0, 2]
    assert valid.tolist() == [1]
    with pytest.raises(DataError, match="maybe"):
        column_split()(from_csv(table(file.read_text().replace("TRUE", "maybe"))))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("picture,label\na.png,red\n", "no column image"),
        ("image,label\na.png,red\nb.png,blue\n", "row 3.*b.png"),
        ("image,label\na.png,red\na.png,\n", "row 3: label is empty"),
        ("image,label\na.png,red\na.png\n", "row 3: label is empty"),
        ("image,label\n", "lists no pictures"),
        ("", "no column image"),
        ("image,label\na.png,red\na.png,red\n", "one class only"),
        ('image,label\n"a.png,red\n', "cannot be read as CSV"),
    ],
)
def test_what_is_wrong_is_named(text, named, table):
    with pytest.raises(DataError, match=named):
        from_csv(table(text))


def test_other_encodings_and_absent_files_are_named(table, tmp_path):
    with pytest.raises(DataError, match="cannot be read as CSV"):
        from_csv(table("image,label\nä.png,rot\n", encoding="latin-1"))
    with pytest.raises(DataError, match="no such file"):
        from_csv(tmp_path / "none.csv")


def test_links_are_fetched_and_read_from_the_cache(table, server, own_cache):
    link = server.link("far.png", png("green"))
    source = from_csv(table(f"image,label\na.png,red\n{link},green\n"))
    assert source.references[1] == link
    assert source.read(1) == png("green")
    assert len(list(own_cache.rglob("*.png"))) == 1
    np.testing.assert_array_equal(source.labels, [1, 0])


def test_a_dead_link_is_named(table, server, own_cache):
    with pytest.raises(DataError, match=r"gone\.png"):
        from_csv(table(f"image,label\na.png,red\n{server.link('gone.png')},green\n"))
