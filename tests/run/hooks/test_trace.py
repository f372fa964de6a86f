"""With `--profile`, a run writes a readable trace of some of its steps and prints its path."""

import gzip
import json

from jaxch5.train import main


def test_a_run_leaves_a_trace_of_some_steps_and_says_where(pictures, tmp_path, capsys, monkeypatch):
    """The trace names the operations of the step; the file that TensorBoard reads is beside it."""
    arguments = [
        *("--data.path", pictures, "--data.presize", 48, "--data.size", 32),
        *("--data.batch-size", 8, "--model.weights", "none", "--fit.epochs", 2),
        *("--workdir", tmp_path / "run", "--profile"),
    ]
    monkeypatch.setattr("sys.argv", ["train", *map(str, arguments)])
    assert main() == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "--profile" in line]
    (file,) = (tmp_path / "run" / "profile" / "one_cycle").rglob("perfetto_trace.json.gz")
    assert line.endswith(f"; open {file} in https://ui.perfetto.dev")
    with gzip.open(file, "rt", encoding="utf-8") as opened:
        names = {event.get("name", "") for event in json.load(opened)["traceEvents"]}
    assert any("conv" in name for name in names)
    # TensorBoard and xprof read this file.
    assert list(file.parent.glob("*.xplane.pb"))


def test_a_run_of_too_few_steps_says_that_none_was_traced(pictures, tmp_path, capsys, monkeypatch):
    arguments = [
        *("--data.path", pictures, "--data.presize", 48, "--data.size", 32),
        *("--data.batch-size", 24, "--model.weights", "none", "--fit.epochs", 1),
        *("--workdir", tmp_path / "run", "--profile"),
    ]
    monkeypatch.setattr("sys.argv", ["train", *map(str, arguments)])
    assert main() == 0
    said = "--profile: the last phase was not traced, as a trace needs more than 5 steps"
    assert said in capsys.readouterr().out
