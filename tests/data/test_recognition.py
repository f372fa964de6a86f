"""Pictures of another set count as a run's own if their files are equal, whatever their names."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from jaxch5.data.pictures import pictures_of
from jaxch5.data.recognition import recognize
from jaxch5.data.scoring import holds_own, score_all, score_validated
from jaxch5.data.source import take
from jaxch5.data.sources.archive import from_archive
from jaxch5.data.sources.folder import from_folder
from jaxch5.data.sources.table import from_csv
from jaxch5.data.split import random_split


def make(root, suffix="bmp", seed=0):
    """Makes two class folders of ten pictures of noise, whose BMP files are all of one size."""
    rng = np.random.default_rng(seed)
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for number in range(10):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            # The part above the noise has a random height, so compressed files vary in size.
            pixels[: rng.integers(0, 8)] = 0
            Image.fromarray(pixels).save(root / name / f"{number}.{suffix}")
    return root


def trained(root):
    source = from_folder(root)
    return pictures_of(source, *random_split(0.4)(source))


def from_before(pictures):
    """Returns what an earlier version recorded: no digests of the files."""
    return replace(pictures, contents=np.full(len(pictures), -1))


def line(pictures, source, home):
    found = recognize(pictures, pictures_of(source), source.file, home)
    return score_all(len(source), pictures, found, "SET").line.removeprefix("all 20 pictures of ")


SEEN = "SET: 8 validated by the run, 12 seen in training, which makes the scores too good"


def test_copies_are_recognized_under_other_names(tmp_path):
    """A copy with other names is the run's set; other files with equal names and sizes are not."""
    one, other = make(tmp_path / "one"), make(tmp_path / "other", seed=1)
    pictures, source = trained(one), from_folder(other)
    assert line(pictures, source, one) == (
        "SET: 20 different files with the names of some of the run's pictures"
    )
    copied = shutil.copytree(one, tmp_path / "copy")
    for file in list(copied.rglob("*.bmp")):
        file.rename(file.with_name(f"{9 - int(file.stem)} again.bmp"))
    source = from_folder(copied)
    found = recognize(pictures, pictures_of(source), source.file, one)
    assert holds_own(pictures, found)
    assert line(pictures, source, one) == SEEN
    same = {
        (pictures.references[number], source.references[place])
        for number, place in enumerate(found.places)
    }
    assert same == {(f"{c}/{n}.bmp", f"{c}/{9 - n} again.bmp") for c in "ab" for n in range(10)}
    assert score_validated(pictures, found, "SET").line == "8 pictures that the run validated on"


def test_pictures_that_swapped_names_are_recognized_by_their_content(tmp_path):
    root = make(tmp_path / "set")
    pictures, a = trained(root), root / "a"
    for old, new in (("0", "x"), ("1", "0"), ("x", "1")):
        (a / f"{old}.bmp").rename(a / f"{new}.bmp")
    source = from_folder(root)
    found = recognize(pictures, pictures_of(source), source.file, root)
    assert found.places.tolist()[:3] == [1, 0, 2]
    assert found.same.all()


def test_of_equal_files_the_one_of_the_same_name_is_the_same(tmp_path):
    """If two classes have equal files, each file is matched with the one that has its own name."""
    root = make(tmp_path / "set")
    shutil.copy(root / "a" / "0.bmp", root / "b" / "0.bmp")
    source = take(from_folder(root), [10, 3, 0])
    found = recognize(trained(root), pictures_of(source), source.file, root)
    assert found.known.tolist() == [10, 3, 0]
    assert not found.relabelled.any()


def test_files_in_an_archive_are_recognized(tmp_path):
    root = make(tmp_path / "set")
    source = from_archive(shutil.make_archive(str(tmp_path / "other"), "zip", root))
    assert line(trained(root), source, None) == SEEN


def test_equal_names_and_sizes_of_other_pictures_prove_nothing(tmp_path):
    one, other = make(tmp_path / "one"), make(tmp_path / "other", seed=1)
    pictures, source = from_before(trained(one)), from_folder(other)
    found = recognize(pictures, pictures_of(source), source.file, one)
    assert not holds_own(pictures, found)
    scored = score_all(20, pictures, found, "SET")
    counts = {"validated": 0, "trained": 0, "changed": 0, "unproven": 20, "new": 0}
    assert scored.counts == counts
    assert "20 have the names of some of the run's pictures, and may be those" in scored.line
    # If the user insists, the names are believed, and the line says that only names were compared.
    insisted = score_validated(pictures, found, "SET").line
    assert insisted == "8 pictures that the run validated on (recognized by name alone)"


@pytest.mark.parametrize("side", ["run", "set"])
def test_sizes_that_are_not_known_prove_nothing(side, tmp_path):
    """A packed set has no files; either the run's pictures or those to be scored are packed."""
    root = make(tmp_path / "one", "png")
    pictures, others = trained(root), pictures_of(from_folder(root))
    unknown = pictures if side == "run" else others
    unknown.sizes[:] = unknown.contents[:] = -1
    assert recognize(pictures, others).unproven.all()


def test_names_and_sizes_prove_it_where_sizes_vary(tmp_path):
    one = make(tmp_path / "one", "png")
    pictures = from_before(trained(one))
    moved = from_folder(shutil.copytree(one, tmp_path / "moved"))
    found = recognize(pictures, pictures_of(moved), moved.file, one)
    assert holds_own(pictures, found)
    assert not found.unproven.any()
    other = from_folder(make(tmp_path / "other", "png", seed=1))
    # A few files have equal sizes by coincidence, but that does not make them the run's files.
    for number in range(3):
        (tmp_path / "other" / "a" / f"{number}.png").write_bytes(bytes(pictures.sizes[number]))
    found = recognize(pictures, pictures_of(other), other.file, one)
    assert 3 <= found.unproven.sum() < 10
    assert not found.same.any()


def table(file, names):
    file.parent.mkdir(exist_ok=True)
    rows = [f"{name},{os.path.basename(os.path.dirname(name))}\n" for name in names]
    file.write_text("".join(["image,label\n", *rows]))
    return from_csv(file)


@pytest.mark.parametrize("form", ["absolute", "relative", "linked"])
def test_files_of_the_run_are_recognized_under_any_name(form, tmp_path):
    """A table elsewhere that lists the run's own files holds the run's own pictures."""
    root = make(tmp_path / "set")
    pictures = trained(root)
    names = list(from_folder(root).references)
    (tmp_path / "link").symlink_to(root)
    base = {"absolute": root, "relative": "../set", "linked": "../link"}[form]
    source = table(tmp_path / "cleaned" / "labels.csv", [f"{base}/{name}" for name in names])
    found = recognize(pictures, pictures_of(source), source.file, root)
    assert holds_own(pictures, found)
    assert line(pictures, source, root) == SEEN
    assert line(pictures, source, None) == SEEN
    # An earlier version's record has paths only.
    pictures = from_before(pictures)
    assert line(pictures, source, root) == SEEN
    # Even if it is not known where the run's pictures are, no picture is called new.
    assert line(pictures, source, None) == "SET: 20 under names that the run does not know"


@pytest.mark.parametrize("version", [lambda pictures: pictures, from_before])
def test_a_file_of_the_run_goes_before_another_of_its_name(version, tmp_path):
    """A table in another set lists a file of that set, and the run's file of the same name."""
    one, other = make(tmp_path / "one"), make(tmp_path / "other", seed=1)
    source = table(other / "all.csv", ["a/0.bmp", "../one/a/0.bmp", "../one/b/0.bmp"])
    pictures = version(trained(one))
    found = recognize(pictures, pictures_of(source), source.file, one)
    assert found.known.tolist()[0] == -1
    assert [pictures.references[place] for place in found.known[1:]] == ["a/0.bmp", "b/0.bmp"]
    assert found.same.sum() == 2


def test_a_row_that_repeats_a_picture_is_matched_once(tmp_path):
    root = make(tmp_path / "set")
    source = take(from_folder(root), [0, 10, 0])
    found = recognize(pictures_of(source), pictures_of(source), source.file, root)
    assert found.places.tolist() == [0, 1, 2]
