"""`jaxch5 verify` finds unreadable, duplicate, leaked and blank pictures in a set."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxch5.cli import run
from jaxch5.verify import VerifyOptions, verify


def started(*argv):
    return run(verify, VerifyOptions, "jaxch5 verify", list(argv))


@pytest.fixture
def spoilt(pictures, tmp_path):
    """A set with a text file, a copy of a picture in the same class, and one in the other."""
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    (folder / "red" / "0.jpg").write_text("no picture")
    shutil.copy(folder / "red" / "1.jpg", folder / "red" / "copy of 1.jpg")
    shutil.copy(folder / "red" / "2.jpg", folder / "blue" / "2 too.jpg")
    return folder


def test_good_pictures_are_no_problem(pictures, capsys):
    assert started(str(pictures)) == 0
    assert capsys.readouterr().out == (
        "40 pictures checked: no problems; 2 too small or too plain to compare with others\n"
    )
    assert started(str(pictures), "--no-near") == 0
    assert capsys.readouterr().out == "40 pictures checked: no problems\n"


def test_problems_are_listed_and_the_status_is_1(spoilt, capsys):
    assert started(str(spoilt), "--data.valid-fraction", "0.05") == 1
    text = capsys.readouterr().out
    assert "1 picture cannot be read:\n  red/0.jpg: is not a picture" in text
    assert "red/1.jpg (red) = red/copy of 1.jpg (red)" in text
    assert "blue/2 too.jpg (blue) = red/2.jpg (red)" in text


def test_a_leak_is_found(pictures, tmp_path, capsys):
    for part, numbers in (("train", range(5)), ("valid", range(4, 8))):
        for name in ("red", "blue"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in numbers:
                shutil.copy(pictures / name / f"{number}.jpg", tmp_path / part / name)
    assert started(str(tmp_path), "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["leaks"] == [
        [f"train/{name}/4.jpg", f"valid/{name}/4.jpg"] for name in ("blue", "red")
    ]
    assert report["duplicates"] == report["conflicts"] == report["unreadable"] == []


def test_near_duplicates_are_shown_as_a_guess_of_each_kind(pictures, tmp_path, capsys):
    """Nearly identical pictures are listed as a guess, and leave the exit status at 0.

    They are listed by kind: copies in one class, in several classes, and in both parts of a split.
    """
    draws = np.random.default_rng(0)
    shown = [Image.fromarray(one) for one in draws.integers(0, 256, (4, 12, 12, 3), np.uint8)]
    shown = [one.resize((120, 90), Image.Resampling.BICUBIC) for one in shown]
    copies = (("a", "a", "train"), ("a", "b", "train"), ("a", "a", "valid"), ("b", "b", "train"))
    for number, (picture, (label, other, part)) in enumerate(zip(shown, copies, strict=True)):
        for folder in (tmp_path / "train" / label, tmp_path / part / other):
            folder.mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "train" / label / f"{number}.png")
        kept = picture.crop((0, 3, 110, 90)) if number < 3 else picture
        kept.save(tmp_path / part / other / f"{number} <b>[red]\x1b.jpg", quality=90)
    (tmp_path / "valid" / "b").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "valid" / "b" / "plain.png")
    assert started(str(tmp_path), "--json") == 0
    report = json.loads(capsys.readouterr().out)
    name = "{} <b>[red]\x1b.jpg"
    assert report["near_duplicates"] == [
        [f"train/a/{name.format(0)}", "train/a/0.png"],
        [f"train/b/{name.format(3)}", "train/b/3.png"],
    ]
    assert report["near_conflicts"] == [["train/a/1.png", f"train/b/{name.format(1)}"]]
    assert report["near_leaks"] == [["train/a/2.png", f"valid/a/{name.format(2)}"]]
    assert report["not_compared"] == 1
    assert report["duplicates"] == report["conflicts"] == report["leaks"] == []
    assert started(str(tmp_path)) == 0
    text = capsys.readouterr().out
    assert "1 picture is in more than one class as nearly identical copies (a guess; --no-" in text
    assert "train/a/2.png (a) ~ valid/a/2 <b>[red]\\x1b.jpg (a)" in text
    assert "9 pictures checked: see above; 1 too small or too plain" in text
    assert started(str(tmp_path), "--no-near") == 0
    assert capsys.readouterr().out.count("\n") == 3


def test_a_wrong_path_is_one_line(capsys):
    assert started("/no/such/folder") == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_flowers_have_no_problem(flowers, capsys):
    assert started(str(flowers)) == 0


def test_what_is_passed_over_is_listed_and_what_looks_like_pictures_is_a_problem(
    pictures, tmp_path, capsys
):
    folder = tmp_path / "set"
    shutil.copytree(pictures, folder)
    (folder / "README").write_text("about them")
    assert started(str(folder), "--json") == 0
    assert json.loads(capsys.readouterr().out)["passed_over"] == {
        "files of other kinds": ["README"]
    }
    (folder / "red" / "9.jpg").rename(folder / "red" / "9.jpg.orig")
    assert started(str(folder)) == 1
    text = capsys.readouterr().out
    assert "1 picture without a picture's file extension, passed over:\n  red/9.jpg.orig\n" in text
    assert "39 pictures checked: see above" in text


def test_pictures_that_come_out_black_are_listed(pictures, tmp_path, capsys):
    """The exit status stays 0, because such pictures may be intended."""
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    Image.new("RGB", (30, 20), (3, 4, 5)).save(folder / "red" / "night.png")
    assert started(str(folder)) == 0
    text = capsys.readouterr().out
    assert "1 picture comes out black, white or in one colour (--data.range" in text
    assert "red/night.png (red): black" in text
    assert started(str(folder), "--json") == 0
    assert json.loads(capsys.readouterr().out)["blank"] == {"red/night.png": "black"}
