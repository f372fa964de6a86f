"""Tests that each row of a table is a picture with a class, or an error that names the line."""

import csv
import io
import os
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jaxch5.config.building import load_data, load_source
from jaxch5.config.settings import Config
from jaxch5.data.sources.table import from_csv
from jaxch5.data.split import column_split, divide, given_split, random_split
from jaxch5.data.verify import check_heads, readable, unreadable
from jaxch5.errors import DataError


def png(color):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), color).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def table(tmp_path):
    """Provides a function that writes a table beside two pictures and returns the table's path."""
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


@pytest.mark.parametrize("separator", ",;\t|")
def test_a_quoted_cell_may_follow_a_space(table, separator):
    rows = (
        ("image", "label", '"is, who"'),
        ("a.png", '"red"', "x"),
        ('"sub/b, c.png"', "red", "y"),
    )
    source = from_csv(table("\n".join(f"{separator} ".join(row) for row in rows) + "\n"))
    assert source.classes == ("red",)
    assert source.columns == {"is, who": ["x", "y"]}


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
        ("image,label\na.png,red\nb.png,blue\n", "line 3.*b.png"),
        ("image,label\na.png,red\na.png,\n", "line 3: label is empty"),
        ("image,label\na.png,red\na.png\n", "line 3: has 1 cell where the header has 2"),
        ("image,label\na.png,red,dark\n", "line 2: has 3 cells where the header has 2"),
        ("image,label,label\na.png,red,b\n", "2 columns named label"),
        ("a.png,red\na.png,blue\n", "its columns: a.png, red"),
        ("image,label\n", "lists no pictures"),
        ("", "no column image"),
        ('image,label\n"a.png,red\n', "cannot be read as CSV"),
    ],
)
def test_what_is_wrong_is_named(text, named, table):
    with pytest.raises(DataError, match=named):
        from_csv(table(text))


def test_one_class_is_refused_where_it_is_split_to_be_trained_on(table):
    source = from_csv(table("image,label\na.png,red\na.png,red\n"))
    with pytest.raises(DataError, match="one class only, red"):
        divide(source, random_split(0.5))


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


def test_a_dead_link_is_an_item_that_cannot_be_read(table, server, own_cache):
    """So dead links are counted, stop training before it begins, and can be left out."""
    dead = [server.link(f"gone/{number}.png") for number in range(9)]
    alive = server.link("far.png", png("green"))
    rows = [f"{link},green" for link in (*dead, alive)]
    file = table("\n".join(["image,label", "a.png,red", *rows]) + "\n")
    source = from_csv(file)
    reasons = {link: f"{link}: there is no such file" for link in dead}
    assert source.notes == (f"9 links lead to no picture ({reasons[dead[0]]})",)
    assert unreadable(source) == reasons
    assert list(readable(source).references) == ["a.png", alive]
    with pytest.raises(DataError, match=f"^9 pictures cannot be read: {reasons[dead[0]]}, "):
        check_heads(source)
    # A server that may be there again tomorrow makes no link a dead one.
    with pytest.raises(DataError, match=r"table\.csv: .*broken/a\.png: the server answered 503"):
        from_csv(table(f"image,label\na.png,red\n{server.link('broken/a.png')},green\n"))


def test_a_link_that_is_not_text_is_named_with_its_line(tmp_path):
    file = tmp_path / "table.csv"
    file.write_bytes("image,label\nhttps://host/café.jpg,red\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"table\.csv, line 2: .* not in UTF-8"):
        from_csv(file)


def touched(folder, names):
    """Writes small pictures with the given names, and creates the folders that they need."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(folder / name, "PNG")


texts = st.text("abäß ,;\t|\"'\n", min_size=1, max_size=6).filter(str.strip)


@given(
    labels=st.lists(texts, min_size=2, max_size=8).filter(
        lambda labels: len({unicodedata.normalize("NFC", label.strip()) for label in labels}) > 1
    ),
    separator=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    header=st.sampled_from([("image", "label"), ("Image", " label"), ("IMAGE ", "Label")]),
    ending=st.sampled_from([".csv", ".TSV", ".txt"]),
    blanks=st.booleans(),
)
def test_every_row_of_a_table_is_an_item_with_its_label(
    labels, separator, quoting, end, encoding, header, ending, blanks
):
    """Every row is read, however the table is separated, quoted and encoded.

    If a row has a cell too many or too few, an error names its line.
    """
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, quoting=quoting, lineterminator=end)
    writer.writerow(["other", *header])
    begins = []
    for number, label in enumerate(labels):
        if blanks:
            text.write(end)
        begins.append(text.getvalue().count("\n") + 1)
        writer.writerow(["x", f"{number}.png", label])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        touched(folder, [f"{number}.png" for number in range(len(labels))])
        file = folder / f"table{ending}"
        file.write_bytes(text.getvalue().encode(encoding))
        source = load_source(Config.model_validate({"data": {"path": file}}).data)
        assert list(source.references) == [f"{number}.png" for number in range(len(labels))]
        assert [source.classes[label] for label in source.labels] == [
            unicodedata.normalize("NFC", label.strip()) for label in labels
        ]

        row = separator.join(["x", "0.png", "a"])
        for damaged in (row + separator + "b", separator.join(["x", "0.png"])):
            file.write_bytes((text.getvalue() + damaged + end).encode(encoding))
            line = text.getvalue().count("\n") + 1
            with pytest.raises(DataError, match=f"line {line}: has [24] cells where the header"):
                from_csv(file)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("photos/Äpfel 1.jpg", "photos/Äpfel 1.jpg"),
        ("./photos//Äpfel 1.jpg", "photos/Äpfel 1.jpg"),
        ("photos/Äpfel 1", "photos/Äpfel 1.jpg"),
        ("photos\\Äpfel 1.jpg", "photos/Äpfel 1.jpg"),
        ("Photos/äpfel 1.JPG", "photos/Äpfel 1.jpg"),
        (unicodedata.normalize("NFD", "photos/Äpfel 1.jpg"), "photos/Äpfel 1.jpg"),
        ("0017", "0017.png"),
        ("b.c", "b.c.webp"),
        ("twice", ["twice.jpg", "twice.png"]),
        ("same.jpg", ["Same.jpg", "SAME.jpg"]),
        ("notes", None),
        ("photos", None),
        ("nowhere/../0017", None),
    ],
)
def test_a_picture_is_found_where_exactly_one_file_fits(name, found, tmp_path):
    """Names may be written as on other systems: in another case, or without an extension.

    A file that is not a picture is never taken. If several files fit a name, none of them is taken.
    """
    files = ["photos/Äpfel 1.jpg", "0017.png", "b.c.webp", "twice.jpg", "twice.png", "notes.md"]
    touched(tmp_path, [*files, "Same.jpg", "SAME.jpg"])
    if name == "same.jpg" and not {"Same.jpg", "SAME.jpg"} <= set(os.listdir(tmp_path)):
        pytest.skip("the file system tells no case")
    table = tmp_path / "t.csv"
    table.write_text(f"image,label\n0017.png,a\n{name},b\n", encoding="utf-8")
    if isinstance(found, str):
        source = from_csv(table)
        assert source.references[1] == found
        assert (tmp_path / found).samefile(source.file(1))
        return
    with pytest.raises(DataError, match=r"line 3: ") as caught:
        from_csv(table)
    for candidate in found or ["there is no picture"]:
        assert candidate in str(caught.value)


def test_the_line_that_tells_excel_the_separator_is_no_header(table):
    source = from_csv(table('sep=;\nimage;label\na.png;red\n"sub/b, c.png";blue\n'))
    assert source.classes == ("blue", "red")
    with pytest.raises(DataError, match="line 3: has 1 cell"):
        from_csv(table("sep=;\nimage;label\na.png\n"))


def test_a_table_that_is_no_text_is_named(tmp_path):
    file = tmp_path / "t.csv"
    file.write_bytes("image,label\na.png,red\n".encode("utf-16-le"))
    with pytest.raises(DataError, match=r"null bytes.*save it as CSV in UTF-8"):
        from_csv(file)


def test_rows_of_one_file_have_one_reference_however_they_name_it(tmp_path):
    touched(tmp_path, ["a.jpg", "b.jpg"])
    (tmp_path / "soft.jpg").symlink_to("a.jpg")
    os.link(tmp_path / "a.jpg", tmp_path / "hard.jpg")
    names = ["a.jpg", "./a.jpg", str(tmp_path / "a.jpg"), "soft.jpg", "hard.jpg", "A", "b.jpg"]
    rows = [f"{name},{'y' if name == 'b.jpg' else 'x'}\n" for name in names]
    (tmp_path / "t.csv").write_text("image,label\n" + "".join(rows))
    source = from_csv(tmp_path / "t.csv")
    assert list(source.references) == ["a.jpg"] * 6 + ["b.jpg"]
    assert "5 rows repeat a picture" in source.notes


def test_a_picture_of_two_classes_is_said(table):
    source = from_csv(table("image,label\na.png,red\na.png,blue\n"))
    assert any("more than one class (a.png: blue, red)" in note for note in source.notes)


WORDS = {
    "train": ["train", "Training", "TRAIN", "train_set"],
    "valid": ["valid", "val", "Validation", "dev"],
    "test": ["test", "Testing"],
}


@given(
    parts=st.lists(st.sampled_from(["train", "valid", "test"]), min_size=3, max_size=12).filter(
        lambda parts: "train" in parts and len(set(parts)) > 1
    ),
    column=st.sampled_from(["split", "Subset", " data set"]),
    data=st.data(),
)
def test_a_column_of_parts_is_the_split(parts, column, data):
    """A column may name each item's part; items for testing are then in neither part.

    If no item is for validation, the items for testing are held out instead.
    """
    rows = []
    for number, part in enumerate(parts):
        # Every part gets pictures of both classes.
        word = data.draw(st.sampled_from(WORDS[part]))
        rows += [f"{number}{label}.png,{label},{word}\n" for label in "ab"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        touched(folder, [row.split(",")[0] for row in rows])
        (folder / "t.csv").write_text(f"image,label,{column}\n" + "".join(rows))
        config = Config.model_validate({"data": {"path": folder / "t.csv", "batch_size": 2}})
        loaded = load_data(config)
    held_out = "valid" if "valid" in parts else "test"
    of_items = [part for part in parts for _ in "ab"]
    assert {of_items[item] for item in loaded.train.items} == {"train"}
    assert {of_items[item] for item in loaded.valid.items} == {held_out}
    neither = 2 * parts.count("test") if held_out == "valid" else 0
    assert len(loaded.train.items) + len(loaded.valid.items) == len(of_items) - neither
    assert (f", {neither} for neither" in loaded.describe()) == bool(neither)
    assert f"split by its column {column.strip()}" in loaded.describe()


@pytest.mark.parametrize(
    ("column", "named"),
    [
        (["train", "valid", "trian"], "trian is neither"),
        (["train", "valid", ""], "is empty in one row"),
        (["0", "1", "2"], "2 is neither"),
    ],
)
def test_a_column_that_is_no_split_is_named(table, column, named):
    rows = [f"{name},{part}\n" for name, part in zip(["a.png,x"] * 3, column, strict=True)]
    text = "image,label,part\nsub/b c,y,\n".replace("sub/b c,y,\n", "") + "".join(rows)
    source = from_csv(table(text.replace("a.png,x", "a.png,y", 1)))
    with pytest.raises(DataError, match=named):
        column_split("part")(source)


def test_a_picture_in_both_parts_is_named(table):
    text = "image,label,is_valid\na.png,red,0\na.png,red,1\nsub/b,blue,0\n"
    source = from_csv(table(text.replace("sub/b", '"sub/b, c.png"')))
    with pytest.raises(DataError, match=r"a\.png is both for training and for validation"):
        divide(source, given_split())
