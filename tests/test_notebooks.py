"""The notebooks run from top to bottom, and their stored outputs are fit to be shown."""

import ast
import re
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 1_500_000
# Twice the time that the notebooks promise, because tests share the processor.
SECONDS = 360
# Text that is useless to readers: paths on somebody's disk, and a terminal's control codes.
MACHINE = re.compile(r"(?<![\w.:/])/(home|root|tmp|opt|work|usr|var|Users|private)/|[A-Z]:\\")
ESCAPE = "\x1b"
SHOWN = {"text/plain", "image/png"}


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook):
    """Yields the text of each output of a notebook."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            yield output.text if output.output_type == "stream" else output.data["text/plain"]


def check(notebook):
    """Checks that every cell has run, in order, and that the outputs are fit to be shown.

    They contain no error, no warning and no path of the machine.
    """
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type in ("stream", "execute_result", "display_data"), output
            if output.output_type == "stream":
                assert output.name == "stdout", output.text
            else:
                assert set(output.data) <= SHOWN, set(output.data)
                is_figure = output.data["text/plain"].startswith("<Figure")
                assert is_figure == ("image/png" in output.data)
    for text in texts(notebook):
        assert ESCAPE not in text
        assert not MACHINE.search(text), text
        assert "Warning:" not in text


def test_they_are_all_here():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [file.name for file in NOTEBOOKS] == re.findall(r"\((\d\d_\w+\.ipynb)\)", readme)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_outputs_are_kept(path):
    """A notebook is stored with its outputs and figures, so it can be read without being run."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < LARGEST
    check(notebook)
    pictures = [
        output
        for cell in code_cells(notebook)
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 3


def test_the_chapter_reads_the_same_for_photographs_and_digits():
    """The same cells serve photographs and digits, without an `if`.

    Each call of `lr_find` shows its figure, and the answers to the exercises are folded.
    """
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    cells = code_cells(notebook)
    assert not any(
        isinstance(node, ast.If) for cell in cells for node in ast.walk(ast.parse(cell.source))
    )
    sweeps = [cell.outputs for cell in cells if "lr_find(" in cell.source]
    assert len(sweeps) == 2
    assert all("image/png" in outputs[0].data for outputs in sweeps)
    (exercises,) = [cell.source for cell in notebook.cells if "## Exercises" in cell.source]
    assert exercises.count("<details><summary>Answer</summary>\n\n") == exercises.count("\n**") > 5


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_between_them_hold(path):
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"\]\(([\w./]+\.(?:ipynb|md))\)", text):
        assert (FOLDER / name).exists(), name


@pytest.mark.slow
@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, monkeypatch, usual_compiler):
    """A notebook runs from top to bottom in a limited time, without the pets data set."""
    monkeypatch.setenv("XLA_FLAGS", usual_compiler["XLA_FLAGS"])
    monkeypatch.delenv("JAXCH5_PETS", raising=False)
    notebook = nbformat.read(path, as_version=4)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    begin = time.monotonic()
    resources = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=resources).execute()
    assert time.monotonic() - begin < SECONDS
    check(notebook)
