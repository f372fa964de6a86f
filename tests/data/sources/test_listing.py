"""Every file below a folder is listed once, as a picture or as passed over, with the reason."""

import io
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from jaxch5.cli import save_figure
from jaxch5.data.sources import listing
from jaxch5.data.sources.folder import from_folder, from_regex
from jaxch5.data.sources.listing import (
    AGAIN,
    CLOSED,
    DEAD,
    EMPTY,
    HIDDEN,
    NAMED,
    OTHER,
    OWN,
    SPECIAL,
    UNENDED,
    UNREAD,
    list_folder,
)
from jaxch5.errors import DataError


def encoded(form="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (4, 3)).save(file, form)
    return file.getvalue()


CONTENTS = {form: encoded(form) for form in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF")}
FOLDERS = (
    *("roses", "daisies", "train", "valid", "Test", "a.jpg", ".git", "__MACOSX", "@eaDir"),
    *("runs", "deep", "x.heic", "checkpoints", "é", "e\u0301", "line\nfeed"),
)
FILES = (
    *("1.jpg", "2.JPEG", "3.png", "4.webp", "5.jfif", "6.avif", "7.heic", "8.svg", "9.CR2"),
    *("none", "odd.part", "labels.csv", "README", "LICENSE.txt", "a.json", ".DS_Store", "._1.jpg"),
    *("Thumbs.db", "desktop.ini", "config.toml", "lock", "batch.png", "x.zip", "a.jpg", "x.heic"),
)
KINDS = ("file", "picture", "empty", "dead", "self", "up", "other", "pipe", "folder", "drawn")
TREES = st.lists(
    st.tuples(
        st.lists(st.sampled_from(FOLDERS), max_size=3),
        st.sampled_from(FILES),
        st.sampled_from(KINDS),
        st.sampled_from(sorted(CONTENTS)),
    ),
    max_size=25,
)


def plant(root: Path, tree) -> None:
    """Makes the entries of a tree, except those that earlier entries make impossible."""
    root.mkdir()
    for folders, name, kind, form in tree:
        place = root.joinpath(*folders)
        target = place / name
        try:
            place.mkdir(parents=True, exist_ok=True)
            if target.exists() or target.is_symlink():
                continue
            if kind == "file":
                target.write_text("some text")
            elif kind == "picture":
                target.write_bytes(CONTENTS[form])
            elif kind == "empty":
                target.touch()
            elif kind in ("dead", "self", "up", "other"):
                leads = {"dead": "nowhere", "self": name, "up": "..", "other": root / "roses"}
                target.symlink_to(leads[kind])
            elif kind == "pipe":
                os.mkfifo(target)
            elif kind == "folder":
                target.mkdir()
            else:
                target.write_bytes(DRAWN)
        except OSError:
            pass


def drawn() -> bytes:
    folder = Path(tempfile.mkdtemp())
    save_figure(Figure(), folder / "figure.png")
    content = (folder / "figure.png").read_bytes()
    shutil.rmtree(folder)
    return content


DRAWN = drawn()


def everything(root: Path) -> list[str]:
    """Returns all files and links below a folder; no link is followed."""
    found = []
    for folder, folders, files in os.walk(root):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        found += [os.path.relpath(os.path.join(folder, name), root) for name in [*files, *links]]
    return found


def accounts(name: str, pictures, passed_over) -> int:
    """Counts how often a file is listed, itself or as part of a folder that was not searched."""
    count = list(pictures).count(name)
    for paths in passed_over.values():
        for path in paths:
            whole = path.endswith("/")
            count += name == path or (whole and (name + "/").startswith(path))
    return count


@settings(deadline=None, max_examples=150)
@given(TREES)
def test_every_file_is_a_picture_or_is_passed_over_once(tree):
    """Every file below a folder is listed exactly once, whatever the folder holds.

    A link to a folder may be listed itself, or be represented by what is found through it.
    """
    # A link may lead to the folder around the set, which must therefore hold nothing else.
    root = Path(tempfile.mkdtemp()) / "set"
    try:
        plant(root, tree)
        pictures, passed_over, _ = list_folder(root)
        for name in everything(root):
            followed = (root / name).is_symlink() and (root / name).is_dir()
            through = any(path.startswith(f"{name}/") for path in pictures)
            beyond = any(
                path.startswith(f"{name}/") for paths in passed_over.values() for path in paths
            )
            times = accounts(name, pictures, passed_over)
            assert times == 1 or (followed and (through or beyond or times == 0)), name
        listed = [*pictures, *(path for paths in passed_over.values() for path in paths)]
        assert len(listed) == len(set(listed))
        assert all(paths for paths in passed_over.values())
        assert all((root / name).is_file() for name in pictures)
    finally:
        shutil.rmtree(root.parent)


@settings(deadline=None, max_examples=100)
@given(TREES, st.sampled_from([None, "roses", "."]))
def test_a_source_accounts_for_every_file_below_its_root(tree, train):
    """A source lists every file below its root once, whichever folder is for training."""
    root = Path(tempfile.mkdtemp()) / "set"
    try:
        plant(root, [entry for entry in tree if entry[2] not in ("self", "up", "other")])
        try:
            source = from_folder(root, train)
        except DataError:
            return
        passed_over = {**source.passed_over}
        passed_over.pop(EMPTY, None)
        for name in everything(root):
            assert accounts(name, source.references, passed_over) == 1, name
    finally:
        shutil.rmtree(root.parent)


def put(root: Path, **files: str) -> Path:
    for form, names in files.items():
        for name in names.split():
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(CONTENTS.get(form, b"no picture at all"))
    return root


def reasons(root: Path) -> dict:
    return list_folder(root).passed_over


def test_each_kind_has_its_reason(tmp_path):
    put(tmp_path, PNG="a/1.png a/none a/2.jpg~ x.heic.png a/.hidden.png __MACOSX/a/1.png")
    put(tmp_path, text="a/notes b/labels.csv a/3.dng a/.DS_Store a/4.jpg/inside.png")
    (tmp_path / "a/5.jpg").symlink_to("gone.jpg")
    (tmp_path / "a/gone").symlink_to("gone")
    (tmp_path / "a/again").symlink_to(tmp_path / "a")
    (tmp_path / "a/6.jpg").mkdir()
    os.mkfifo(tmp_path / "a/7.jpg")
    os.mkfifo(tmp_path / "a/pipe")
    listing = list_folder(tmp_path)
    assert listing.pictures == ["a/1.png", "x.heic.png"]
    assert listing.passed_over == {
        HIDDEN: ["__MACOSX/a/1.png", "a/.DS_Store", "a/.hidden.png"],
        UNENDED: ["a/2.jpg~", "a/none"],
        UNREAD: ["a/3.dng"],
        NAMED: ["a/4.jpg/inside.png", "a/6.jpg/"],
        DEAD: ["a/5.jpg", "a/gone"],
        SPECIAL: ["a/7.jpg"],
        AGAIN: ["a/again/"],
        OTHER: ["a/notes", "a/pipe", "b/labels.csv"],
    }


@pytest.mark.parametrize("form", sorted(CONTENTS))
def test_a_picture_is_known_by_its_first_bytes(tmp_path, form):
    put(tmp_path, **{form: "a/picture a/picture.orig"})
    assert reasons(tmp_path) == {UNENDED: ["a/picture", "a/picture.orig"]}


@pytest.mark.parametrize(
    "text", ["BMW 3, a car", "P1 and P2 are players", "P3\n", "", "GIF", "II*"]
)
def test_texts_do_not_look_like_pictures(tmp_path, text):
    (tmp_path / "note").write_text(text)
    assert reasons(tmp_path) == {OTHER: ["note"]}


@pytest.mark.skipif(os.geteuid() == 0, reason="for the superuser every folder can be listed")
def test_a_folder_that_cannot_be_listed_is_named(tmp_path):
    put(tmp_path, PNG="a/1.png b/1.png c/1.png")
    (tmp_path / "c").chmod(0)
    assert reasons(tmp_path) == {CLOSED: ["c/"]}


def test_folders_nested_more_deeply_than_functions_may_be(tmp_path):
    """A picture in the innermost of 1,500 nested folders is listed."""
    here, levels = os.getcwd(), 1500
    os.chdir(tmp_path)
    try:
        for _ in range(levels):
            os.mkdir("d")
            os.chdir("d")
        Path("1.png").write_bytes(CONTENTS["PNG"])
    finally:
        os.chdir(here)
    try:
        assert list_folder(tmp_path).pictures == ["d/" * levels + "1.png"]
    finally:
        # pytest, which removes other folders later, cannot remove folders nested this deeply.
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)


def test_an_empty_class_folder_is_named_and_another_is_not(tmp_path):
    """A folder without pictures is reported unless it is hidden, `runs` or has annotations."""
    put(tmp_path, PNG="a/1.png b/1.png", text="c/.DS_Store d/x.dng annotations/1.xml")
    for name in ("e", "runs", ".git"):
        (tmp_path / name).mkdir()
    assert from_folder(tmp_path).passed_over[EMPTY] == ["c/", "d/", "e/"]


def test_own_runs_and_figures_are_no_pictures(tmp_path):
    """Files of a run within the set are passed over, and so are figures, wherever they are."""
    put(tmp_path, PNG="a/1.png a/2.jpg b/1.png runs/one/evaluation/top_losses.png")
    put(tmp_path, text="runs/one/config.toml runs/one/metrics.jsonl runs/one/report.html")
    put(tmp_path, text="runs/one/checkpoints/1/data")
    for name in ("batch.png", "a/batch.png", "b/look.png", "b/look.svg"):
        save_figure(Figure(), tmp_path / name)
    source = from_folder(tmp_path)
    assert list(source.references) == ["a/1.png", "a/2.jpg", "b/1.png"]
    assert len(source.passed_over[OWN]) == 9
    assert set(source.passed_over) == {OWN}
    assert len(from_regex(tmp_path, r"(\d)\..*")) == 3


def test_among_many_png_files_the_figures_of_commands_are_known_by_their_names(
    tmp_path, monkeypatch
):
    """Figures with the names that commands give them are passed over among many PNG files, too.

    If there are many, only files with such names are opened, since opening all would take long.
    """
    monkeypatch.setattr(listing, "PNG_OPENED", 1)
    put(tmp_path, PNG="a/1.png b/1.png")
    for name in ("confusion_matrix", "top_losses", "calibration", "unanswered"):
        save_figure(Figure(), tmp_path / "a" / f"{name}.png")
    assert list(from_folder(tmp_path).references) == ["a/1.png", "b/1.png"]


def test_a_folder_of_ones_own_that_has_a_configuration_is_no_run(tmp_path):
    put(tmp_path, PNG="a/1.png b/1.png", text="config.toml checkpoints/x")
    assert len(from_folder(tmp_path)) == 2
