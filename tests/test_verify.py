"""`python -m jaxch5.verify` as a person starts it."""

import json
import shutil

import pytest
from PIL import Image

from jaxch5.cli import run
from jaxch5.verify import VerifyOptions, verify


def started(*argv):
    return run(verify, VerifyOptions, "python -m jaxch5.verify", list(argv))


@pytest.fixture
def spoilt(pictures, tmp_path):
    """A text file, a copy in the same class and one in another class."""
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    (folder / "red" / "0.jpg").write_text("no picture")
    shutil.copy(folder / "red" / "1.jpg", folder / "red" / "copy of 1.jpg")
    shutil.copy(folder / "red" / "2.jpg", folder / "blue" / "2 too.jpg")
    return folder


def test_good_pictures_are_no_problem(pictures, capsys):
    assert started(str(pictures)) == 0
    assert capsys.readouterr().out == "40 pictures read: no problems\n"


def test_problems_are_listed_and_the_status_is_1(spoilt, capsys):
    assert started(str(spoilt), "--data.valid-fraction", "0.05") == 1
    text = capsys.readouterr().out
    assert "1 cannot be read:\n  red/0.jpg: is no picture" in text
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
    assert "1 picture without a picture's ending, passed over:\n  red/9.jpg.orig\n" in text
    assert "39 pictures read: see above" in text


def test_pictures_that_come_out_black_are_listed(pictures, tmp_path, capsys):
    """They may be meant: the status stays 0."""
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    Image.new("RGB", (30, 20), (3, 4, 5)).save(folder / "red" / "night.png")
    assert started(str(folder)) == 0
    text = capsys.readouterr().out
    assert "1 come out black, white or in one colour (--data.range" in text
    assert "red/night.png (red): black" in text
    assert started(str(folder), "--json") == 0
    assert json.loads(capsys.readouterr().out)["blank"] == {"red/night.png": "black"}
