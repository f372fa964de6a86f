"""Pictures in folders are found in a fixed order; errors about unusable folders are one line."""

import os
import time
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image

from jaxch5.data.packing import pack
from jaxch5.data.source import digits
from jaxch5.data.sources.archive import from_archive
from jaxch5.data.sources.folder import from_folder, from_regex
from jaxch5.data.sources.packed import from_packed
from jaxch5.data.sources.table import from_csv
from jaxch5.data.split import divide, random_split
from jaxch5.errors import ConfigError, DataError


def put(root: Path, *names: str) -> Path:
    """Saves small pictures below `root`, and returns `root`."""
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(file, "PNG")
    return root


def complaint(call, *arguments) -> str:
    """Returns the message of the error that a call raises, which must be one line."""
    with pytest.raises(DataError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_class_folders(tmp_path):
    """Each top folder is a class; classes are in the order of names; references use slashes."""
    put(tmp_path, "roses/b.png", "roses/a.png", "daisies/deep/er/c.png")
    source = from_folder(tmp_path)
    assert source.classes == ("daisies", "roses")
    assert list(source.references) == ["daisies/deep/er/c.png", "roses/a.png", "roses/b.png"]
    assert source.labels.tolist() == [0, 1, 1]
    assert source.read(1) == (tmp_path / "roses/a.png").read_bytes()


@pytest.mark.parametrize("valid", ["valid", "val"])
def test_train_and_valid_folders(tmp_path, valid):
    """If there are a train and a validation folder, the column "folder" tells them apart.

    Both folders have the same classes.
    """
    put(tmp_path, "train/a/1.png", "train/b/1.png", f"{valid}/a/2.png", f"{valid}/b/2.png")
    source = from_folder(tmp_path)
    assert source.classes == ("a", "b")
    assert list(source.columns["folder"]) == ["train", "train", valid, valid]
    assert source.labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("path", [".", "./", "absolute"])
def test_validation_pictures_within_the_training_folder_are_not_trained_on(
    tmp_path, monkeypatch, path
):
    """However the set's folder is written, the validation folder is left out of the training's."""
    put(tmp_path, "images/a/1.png", "images/b/1.png", "images/val/a/2.png", "images/val/b/2.png")
    monkeypatch.chdir(tmp_path)
    root = tmp_path if path == "absolute" else path
    source = from_folder(root, train="images", valid="images/val")
    assert source.classes == ("a", "b")
    assert list(source.references) == [
        "images/a/1.png", "images/b/1.png", "images/val/a/2.png", "images/val/b/2.png",
    ]  # fmt: skip
    assert not source.passed_over
    source = from_folder(tmp_path / "images" if path == "absolute" else "images", ".", "val")
    assert list(source.columns["is_valid"]) == [False, False, True, True]


def test_any_suffix_in_any_case_and_nothing_hidden(tmp_path):
    put(tmp_path, "a/1.JPG", "a/2.jpeg", "a/3.Png", "a/4.webp", "a/5.bmp", "b/6.gif", "b/7.TIFF")
    put(tmp_path, "a/.hidden.png", ".cache/x.png", "b/._7.tiff")
    (tmp_path / "a/notes.txt").write_text("not a picture")
    (tmp_path / "b/Thumbs.db").write_bytes(b"\0")
    names = [Path(reference).name for reference in from_folder(tmp_path).references]
    assert names == ["1.JPG", "2.jpeg", "3.Png", "4.webp", "5.bmp", "6.gif", "7.TIFF"]


def test_links_that_lead_back_end(tmp_path):
    """Links to a folder above, to the link itself or to nothing do not disturb the search."""
    put(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "b/self").symlink_to(tmp_path / "b/self")
    (tmp_path / "b/gone.png").symlink_to(tmp_path / "nowhere.png")
    references = list(from_folder(tmp_path).references)
    assert {"a/1.png", "b/1.png"} <= set(references)
    assert len(references) < 10
    assert "b/gone.png" not in references


def test_circles_of_links_show_each_picture_once(tmp_path):
    """Each picture is found once, even if links offer millions of paths to it.

    Here, each of ten folders has links to all ten.
    """
    names = [f"{number}" for number in range(10)]
    put(tmp_path, *(f"a/{name}/1.png" for name in names), "b/1.png")
    for name in names:
        for other in names:
            (tmp_path / "a" / name / f"to {other}").symlink_to(tmp_path / "a" / other)
    (tmp_path / "b/self.png").symlink_to("self.png")
    source = from_folder(tmp_path)
    real = [os.path.realpath(tmp_path / name) for name in source.references]
    assert len(real) == len(set(real)) == 11


def test_a_link_leads_anywhere_that_can_be_read(tmp_path):
    """A class may be a link to a folder elsewhere, and two classes may link to the same folder."""
    put(tmp_path / "elsewhere", "1.png")
    put(tmp_path / "set", "a/1.png")
    for name in "bc":
        (tmp_path / "set" / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/a/2.png").symlink_to(tmp_path / "elsewhere/1.png")
    references = list(from_folder(tmp_path / "set").references)
    assert references == ["a/1.png", "a/2.png", "b/1.png", "c/1.png"]


def test_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    """Whatever order a folder is listed in, items come in the order of their names."""
    put(tmp_path, *(f"{name}/{number}.png" for name in "abc" for number in range(5)))
    forward = list(from_folder(tmp_path).references)
    scandir = os.scandir

    class Backward:
        def __init__(self, path):
            with scandir(path) as listing:
                self.entries = list(listing)[::-1]

        def __iter__(self):
            return iter(self.entries)

        def __enter__(self):
            return self.entries

        def __exit__(self, *_):
            pass

        def close(self):
            pass

    monkeypatch.setattr(os, "scandir", Backward)
    assert list(from_folder(tmp_path).references) == forward == sorted(forward)


def test_a_class_may_be_called_train(tmp_path):
    """A folder `train` is a class (of vehicles, say) if it holds pictures, but no folders."""
    put(tmp_path, "bus/1.png", "bus/2.png", "train/1.png", "train/2.png")
    assert from_folder(tmp_path).classes == ("bus", "train")


def test_a_test_folder_is_no_class(tmp_path):
    """If there are folders `train` and `test`, but none for validation, only `train` is read."""
    put(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/2.png", "test/3.png")
    source = from_folder(tmp_path)
    assert source.classes == ("a", "b")
    assert list(source.references) == ["train/a/1.png", "train/b/1.png"]


def test_unusable_folders_are_named(tmp_path):
    file = tmp_path / "file.png"
    file.write_bytes(b"")
    assert "no such" in complaint(from_folder, tmp_path / "missing")
    assert str(file) in complaint(from_folder, file)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no pictures" in complaint(from_folder, empty)
    message = complaint(from_folder, put(tmp_path / "loose", "1.png", "2.png"))
    assert "1.png" in message
    assert "--data.pattern" in message
    single = from_folder(put(tmp_path / "single", "a/1.png", "a/2.png"))
    assert "one class" in complaint(divide, single, random_split(0.5))


@pytest.mark.parametrize(
    "call",
    [
        from_folder,
        lambda path: from_folder(".", train=path),
        lambda path: from_regex(path, "(.)"),
        from_csv,
        from_archive,
        from_packed,
        lambda path: pack(digits(), path, 8),
    ],
)
def test_the_home_of_nobody_is_named(call):
    with pytest.raises(ConfigError, match=r"^~photos.*: there is no such home .* mean ~/photos"):
        call("~photos/pets")


def test_valid_class_without_training_pictures(tmp_path):
    put(tmp_path, "train/a/1.png", "train/b/1.png", "valid/a/2.png", "valid/c/2.png")
    assert "class c" in complaint(from_folder, tmp_path)


def test_regex_takes_the_class_from_the_name(tmp_path):
    """A pattern takes the class from file names such as fastbook's `great_pyrenees_173.jpg`."""
    put(tmp_path, "great_pyrenees_173.jpg", "Abyssinian_1.jpg", "x/Abyssinian_22.jpg")
    source = from_regex(tmp_path, r"^(.+)_\d+\.jpg$")
    assert source.classes == ("Abyssinian", "great_pyrenees")
    assert [source.classes[label] for label in source.labels] == [
        reference.rpartition("/")[2].rpartition("_")[0] for reference in source.references
    ]


def test_regex_must_match_the_whole_name(tmp_path):
    put(tmp_path, "cat_1.jpg", "dog_1.jpg", "cat_2.jpeg", "dog.jpg")
    message = complaint(from_regex, tmp_path, r"(.+)_\d+\.jpg")
    assert "2 of 4" in message
    assert "cat_2.jpeg" in message
    assert "dog.jpg" in message


@pytest.mark.parametrize("pattern", ["(.+", ".+"])
def test_regex_that_cannot_serve(tmp_path, pattern):
    assert pattern in complaint(from_regex, put(tmp_path, "a_1.png", "b_1.png"), pattern)


def test_a_file_that_went_away_is_named(tmp_path):
    source = from_folder(put(tmp_path, "a/1.png", "b/1.png"))
    (tmp_path / "b/1.png").unlink()
    assert "b/1.png" in complaint(source.read, 1)


@pytest.mark.slow
def test_a_hundred_thousand_files(tmp_path):
    """A hundred thousand files are found in less than 3 s and 200 MB of Python's memory."""
    for folder in range(100):
        (tmp_path / f"class_{folder:03d}").mkdir()
        for number in range(1000):
            os.close(os.open(tmp_path / f"class_{folder:03d}" / f"{number:06d}.jpg", os.O_CREAT))
    began = time.perf_counter()
    source = from_folder(tmp_path)
    seconds = time.perf_counter() - began
    assert len(source) == 100_000
    assert seconds < 3
    tracemalloc.start()
    source = from_folder(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
