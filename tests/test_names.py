"""Files and classes may have any name: each command works and prints the names safely."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from jaxch5 import evaluate, pack, predict, show, train, verify
from jaxch5.cli import run as run_command
from jaxch5.data.sources.folder import from_folder, from_regex
from jaxch5.data.sources.listing import list_folder
from jaxch5.data.sources.table import from_csv
from jaxch5.util.text import print_line, printable

NO_TEXT = os.fsdecode(b"\xff\xfe")
FORGED = "\n  0  0.0001  epoch\x1b[31m\x1b]0;title\x07\r"
NAMES = [
    " with  spaces ",
    "quo\"te'd",
    "[bold]markup[ :smile:",
    "$x^2$ %s {0}",
    "<script>alert(1)<",
    "tab\tand\x0bmore\x85\u2028lines",
    "right\u202eto left",
    "crème 猫 😀",
    "-rf",
    "--data.path=x",
    "a..b",
    "=1+1",
    "c,d;e",
    "back\\slash*?",
    f"no text {NO_TEXT}",
    f"forged{FORGED}",
    "x" * 251,
]
# The names of two classes. The first combines several of these names, and files' names begin with
# it; the second is as long as a name can be.
WORST = f"-{NO_TEXT}{FORGED}<b>'\"$,😀", "z" * 255


def put(picture: Path, file: Path) -> None:
    """Copies a picture to `file`, creating the folder if necessary."""
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(picture, file)


@pytest.fixture(scope="module")
def picture(pictures):
    return pictures / "red" / "0.jpg"


@pytest.fixture(scope="module")
def worst(pictures, tmp_path_factory):
    """A folder of the shared pictures under the worst names."""
    root = tmp_path_factory.mktemp("worst")
    for name, color in zip(WORST, ("blue", "red"), strict=True):
        for number in range(20):
            put(pictures / color / f"{number}.jpg", root / name / f"{WORST[0]}{number}.jpg")
    return root


def called(module, name, options, capfd, *arguments):
    status = run_command(getattr(module, name), options, name, [str(word) for word in arguments])
    captured = capfd.readouterr()
    return status, captured.out, captured.err


def unforged(text: str) -> bool:
    """Returns whether a text has no control characters and no line that comes from a name."""
    return "\n  0  0.0001" not in text and text.replace("\n", "").replace("\t", "").isprintable()


def test_names_are_shown_without_what_a_terminal_obeys(capsys):
    for name in [*NAMES, *WORST]:
        assert printable(name).isprintable()
        assert printable(printable(name)) == printable(name)
    assert printable("crème 猫 😀 a b") == "crème 猫 😀 a b"
    print_line(Console(force_terminal=True), f"one {FORGED} line [red]")
    out = capsys.readouterr().out
    assert unforged(out)
    assert out.count("\n") == 1
    assert "[red]" in out


def test_folders_and_files_of_any_name_are_found(picture, tmp_path):
    """A class has exactly its folder's name, and each file in the folder can be read."""
    for name in NAMES:
        put(picture, tmp_path / name / f"{name}.jpg")
        put(picture, tmp_path / name / f"..{name[:200]}..jpg")
        put(picture, tmp_path / f".{name[:200]}" / "hidden.jpg")
    source = from_folder(tmp_path)
    assert set(source.classes) == set(NAMES)
    assert len(source) == len(NAMES)
    for item, reference in enumerate(source.references):
        assert source.read(item) == picture.read_bytes()
        assert reference == f"{source.classes[source.labels[item]]}/{Path(reference).name}"


def test_names_of_files_tell_any_class(picture, tmp_path):
    """A pattern can find any class in the names of files.

    `.` does not match the end of a line, so a pattern for names that contain one needs (?s).
    """
    for name in NAMES:
        put(picture, tmp_path / f"{name[:240]}_1.jpg")
    source = from_regex(tmp_path, r"(?s)(.+)_\d+\.jpg")
    assert set(source.classes) == {name[:240] for name in NAMES}
    assert source.read(0) == picture.read_bytes()


def test_a_table_lists_files_of_any_name(picture, tmp_path):
    """A table can list files of any name; bytes that are not text are allowed only in paths."""
    import csv

    rows = [(f"{name.strip()}.jpg", name.strip()) for name in NAMES if NO_TEXT not in name]
    rows.append((f"{NO_TEXT}.jpg", "bytes"))
    for file, _ in rows:
        put(picture, tmp_path / file)
    with (tmp_path / "all.csv").open("w", newline="", errors="surrogateescape") as opened:
        csv.writer(opened).writerows([("image", "label"), *rows])
    source = from_csv(tmp_path / "all.csv")
    assert list(source.references) == [file for file, _ in rows]
    assert [source.classes[label] for label in source.labels] == [label for _, label in rows]
    assert source.read(len(rows) - 1) == picture.read_bytes()


def test_verify_pack_and_show_print_no_more_lines_than_their_own(worst, tmp_path, capfd):
    broken = tmp_path / "broken"
    shutil.copytree(worst, broken)
    (broken / WORST[0] / f"{FORGED}.jpg").write_bytes(b"no picture")
    status, out, err = called(verify, "verify", verify.VerifyOptions, capfd, broken)
    assert status == 1
    assert "1 picture cannot be read" in out
    assert unforged(out), out
    assert unforged(err), err
    status, out, err = called(
        pack, "pack", pack.PackOptions, capfd,
        broken, tmp_path / f"set{FORGED}", "--data.presize", 36, "--data.on-bad", "skip",
    )  # fmt: skip
    assert status == 0, err
    assert "1 picture left out" in out
    assert unforged(out), out
    sizes = ("--data.presize", 36, "--data.size", 32, "--data.batch-size", 8)
    figure = tmp_path / f"{WORST[0][:20]}.png"
    status, out, err = called(
        show, "show", show.ShowOptions, capfd, "--data.path", worst, *sizes, f"--out={figure}"
    )
    assert status == 0, err
    assert figure.stat().st_size > 1000
    assert unforged(out), out


def test_an_error_is_one_line_whatever_it_names(tmp_path, capfd):
    for module, name, options in (
        (verify, "verify", verify.VerifyOptions),
        (predict, "predict", predict.PredictOptions),
        (evaluate, "evaluate", evaluate.EvaluateOptions),
    ):
        gone = tmp_path / f"gone{FORGED}"
        arguments = (gone, "a.jpg") if module is predict else (gone,)
        status, _, err = called(module, name, options, capfd, *arguments)
        assert status in (1, 2)
        assert err.count("\n") == 1
        assert unforged(err), err


@pytest.mark.slow
def test_a_run_over_the_worst_names(worst, tmp_path, capfd, monkeypatch):
    """A run over the worst names is trained and evaluated, and predicts.

    No output contains a line or a control character that comes from a name.
    """
    run = tmp_path / "run"
    status, out, err = called(
        train, "train", train.TrainOptions, capfd,
        "--data.path", worst, "--data.presize", 36, "--data.size", 32, "--data.batch-size", 8,
        "--model.weights", "none", "--fit.epochs", 1, "--workdir", run,
    )  # fmt: skip
    assert status == 0, err
    assert unforged(out), out
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<b>'" not in page
    assert "\x1b" not in page

    odd = ["-dash.jpg", "a,b.jpg", 'one"quote.jpg', "[a].jpg", "null", "\udcff.jpg"]
    monkeypatch.chdir(tmp_path)
    for name in odd:
        put(next(worst.rglob("*0.jpg")), tmp_path / name)
    pictures = [os.path.join(worst, name) for name in list_folder(Path(worst)).pictures]
    files = pictures[:2]
    words = (run, *files, "--", *odd)
    status, out, err = called(predict, "predict", predict.PredictOptions, capfd, *words)
    assert status == 0, err
    assert out.count("\n") == 2 + len(odd)
    assert unforged(out), out
    status, out, _ = called(predict, "predict", predict.PredictOptions, capfd, run, worst, "--json")
    assert status == 0
    said = json.loads(out)["predictions"]
    assert len(said) == 40
    assert said[0]["path"] in pictures
    assert set(said[0]["classes"]) == set(WORST)

    status, out, err = called(
        evaluate, "evaluate", evaluate.EvaluateOptions, capfd, run, "--data.path", worst
    )
    assert status == 0, err
    assert unforged(out), out
    suspects = run / "evaluation" / "suspects.csv"
    assert re.match("image,label,", suspects.read_text(errors="surrogateescape"))
