"""`jaxch5 show` prints a summary of the data and writes a figure, or reports what prevents it."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from jaxch5.cli import run
from jaxch5.show import ShowOptions, show


def started(*argv):
    return run(show, ShowOptions, "jaxch5 show", list(argv))


def test_it_prints_the_summary_and_writes_the_figure(pictures, tmp_path, capsys):
    out = tmp_path / "batch.png"
    argv = ["--data.path", str(pictures), "--data.batch-size", "4", "--out", str(out)]
    assert started(*argv, "--nrows", "1", "--ncols", "2") == 0
    text = capsys.readouterr().out
    assert "source    40 pictures of 2 classes" in text
    assert str(out) in text
    picture = Image.open(out).convert("RGB")
    assert picture.width > picture.height
    # Below its title, each half of the figure shows a picture in one of the two colours.
    for half in np.array_split(np.asarray(picture).astype(int), 2, axis=1):
        red, blue = half[..., 0], half[..., 2]
        share = (np.abs(red - blue) > 60).mean()
        assert share > 0.2


def test_json_has_the_summary(tmp_path, capsys):
    out = tmp_path / "digits.svg"
    assert started("--json", "--unique", "--nrows", "1", "--out", str(out)) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["figure"] == str(out)
    assert any(line.startswith("presize") for line in document["summary"])
    assert out.read_text().startswith("<?xml")


def test_what_cannot_be_written_is_one_line(pictures, tmp_path, capsys):
    out = tmp_path / "folder.png"
    out.mkdir()
    assert started("--data.path", str(pictures), "--data.batch-size", "4", "--out", str(out)) == 1
    assert started("--out", str(tmp_path / "b.nothing")) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "folder.png" in lines[0]
    assert "b.nothing" in lines[-1]


def test_a_figure_without_a_folder_is_refused_before_anything_is_done(capsys, tmp_path):
    out = tmp_path / "none" / "batch.png"
    assert started("--out", str(out)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"out = {out}: there is no folder {out.parent}" in said.err


def test_nor_is_it_done_for_a_folder_that_cannot_be_written_to():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        # The superuser may write anywhere, so the process becomes another user after its imports.
        code = f"""
import os, pathlib
from jaxch5.cli import drawable
if not os.getuid():
    os.setuid(65534)
drawable(pathlib.Path({f"{folder}/batch.png"!r}))
"""
        command = [sys.executable, "-c", code]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"{folder} cannot be written to; name a file elsewhere" in ended.stderr
