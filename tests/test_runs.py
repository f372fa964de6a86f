"""`jaxch5 runs` lists the runs in a folder, and compares runs that are named."""

import json
import shutil
import subprocess
import sys

import pytest

from jaxch5.cli import run
from jaxch5.run.directory import RunDir, locked
from jaxch5.runs import RunsOptions, runs
from tests.pages import FAINT


def started(*argv):
    return run(runs, RunsOptions, "jaxch5 runs", list(map(str, argv)))


@pytest.fixture
def folder(trained, tmp_path):
    """A folder with a run that ended, one that was cut off, a damaged run, and another file."""
    folder = tmp_path / "runs"
    for name in ("one", "two", "<b>damaged"):
        shutil.copytree(trained[0], folder / name, ignore=shutil.ignore_patterns("checkpoints"))
    longer = (folder / "two" / "config.toml").read_text()
    (folder / "two" / "config.toml").write_text(longer.replace("\nepochs = 1\n", "\nepochs = 3\n"))
    (folder / "<b>damaged" / "metrics.jsonl").write_text("{")
    (folder / "notes.txt").touch()
    return folder


def test_runs_are_listed_with_what_is_none(folder, capsys):
    assert started(folder) == 0
    text = capsys.readouterr().out
    one, two = (line.split() for line in text.splitlines()[1:3])
    assert (one[0], two[0]) == ("one", "two")
    assert {"1/1", "ended", "pictures0", "resnet18"} <= set(one)
    assert {"1/3", "cut", "off"} <= set(two)
    assert "1 path is not a run:\n" in text
    assert "notes.txt" in text
    assert "1 run cannot be read:\n" in text
    assert "metrics.jsonl: is damaged" in text


def test_a_folder_of_suspects_is_no_run(folder, trained, tmp_path, capsys):
    """It has the settings and the record of the pictures, but nothing was trained."""
    (folder / "suspects").mkdir()
    for name in ("config.toml", "pictures.jsonl.gz"):
        shutil.copy(trained[0] / name, folder / "suspects")
    assert started("--json", folder) == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["run"] for one in document["runs"]] == ["one", "two"]
    assert str(folder / "suspects") in document["not_runs"]


def test_a_run_that_is_being_written_is_training(folder, capsys):
    with locked(RunDir(folder / "two")):
        assert started("--json", folder) == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["state"] for one in document["runs"]] == ["ended", "training"]
    assert list(document["damaged"]) == [str(folder / "<b>damaged")]
    assert document["not_runs"] == [str(folder / "notes.txt")]


def test_runs_that_are_named_are_compared(folder, capsys):
    """Runs are compared in the order in which the command names them.

    Each accuracy has its interval, and the settings that differ are listed.
    """
    assert started("--json", folder / "two", folder / "one") == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["run"] for one in document["runs"]] == ["two", "one"]
    assert document["differ"] == {"fit.epochs": ["3", "1"]}
    assert document["same_validation"]
    low, high = document["runs"][0]["interval"]
    assert low < document["runs"][0]["best"] <= high
    assert started(folder / "one", folder / "two") == 0
    assert "fit.epochs  1    3" in capsys.readouterr().out
    assert started(folder / "one", folder / "one") == 0
    assert "no setting differs" in capsys.readouterr().out


def test_runs_whose_pictures_may_differ_are_compared_with_care(folder, capsys):
    (folder / "two" / "pictures.jsonl.gz").unlink()
    assert started(folder / "one", folder / "two") == 0
    said = "the validation pictures or labels may differ (the records do not say): compare"
    assert said in capsys.readouterr().out
    assert started("--json", folder / "one", folder / "two") == 0
    assert json.loads(capsys.readouterr().out)["same_validation"] is None


def test_a_damaged_record_of_pictures_is_named(folder, tmp_path, capsys):
    """The run is listed without an interval of its accuracy, and the page is written."""
    file = folder / "two" / "pictures.jsonl.gz"
    file.write_bytes(b"no pictures")
    assert started("--json", folder, "--out", tmp_path / "runs.html") == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert [one["interval"] is None for one in document["runs"]] == [False, True]
    assert document["same_validation"] is None
    assert f"{file}: is damaged" in captured.err
    assert f"{file}: is damaged" in (tmp_path / "runs.html").read_text()


def test_a_page_has_all_of_it_as_text(folder, tmp_path, capsys):
    out = tmp_path / "runs.html"
    assert started(folder, "--out", out) == 0
    page = out.read_text()
    assert 'href="runs/one/report.html"' in page
    assert "fit.epochs" in page
    assert "&lt;b&gt;damaged" in page
    assert "<b>damaged" not in page
    assert "://" not in page
    assert started(folder, "--out", tmp_path / "runs.txt") == 2
    assert "should end in .html" in capsys.readouterr().err


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(375, "dark"), (1280, "light")])
def test_a_page_fits_its_screen(trained, folder, tmp_path, new_tab, width, scheme):
    """A page of runs fits its screen; on a wide one, even a run with a long name has one line."""
    name = "2026-11-27_09-10-25-a-set-with-a-longer-name-resnet18"
    shutil.copytree(trained[0], folder / name, ignore=shutil.ignore_patterns("checkpoints"))
    assert started(folder, "--out", tmp_path / "runs.html") == 0
    tab = new_tab(width, color_scheme=scheme)
    tab.goto((tmp_path / "runs.html").as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(FAINT, True) == []
    assert not tab.complaints
    if width == 1280:
        rows = tab.locator("#runs tbody tr").all()
        assert len({row.bounding_box()["height"] for row in rows}) == 1


def test_no_folder_and_no_runs_are_a_line(tmp_path, capsys):
    assert started(tmp_path / "none") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert started(tmp_path) == 0
    assert "no runs yet: create one with jaxch5 train" in capsys.readouterr().out


def test_it_does_not_wait_for_jax():
    code = (
        "import sys; from jaxch5.runs import main; sys.argv = ['runs', '.']; main(); "
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
