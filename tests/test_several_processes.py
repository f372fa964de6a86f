"""Several processes train as one does, and end when one of them is lost.

Fewer processes can then resume their run.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHILD = Path(__file__).with_name("tiny_train.py")
SETTINGS = ["--data.presize", "16", "--data.size", "16", "--data.batch-size", "8"]
SETTINGS += ["--model.arch", "tiny_train:SPEC"]
# Each process also applies a sampler, class weights and several sizes by itself.
SETTINGS += ["--data.sampler", "balanced", "--fit.sizes", "12,16"]


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


class Together:
    """Processes that train together; their output goes to files."""

    def __init__(self, count, folder, *arguments, own=(), **changes):
        """Starts the processes.

        `own` has additional arguments for each process, and `changes` are explained in
        `tiny_train.py`.
        """
        folder.mkdir()
        port, self.folder = free_port(), folder
        environment = os.environ | {
            "PYTHONPATH": str(CHILD.parents[1]),
            "JAX_NUM_CPU_DEVICES": "2" if count == 2 else "1",
            **{f"TINY_{name.upper()}": str(value) for name, value in changes.items()},
        }
        self.processes = [
            subprocess.Popen(
                [sys.executable, CHILD, *arguments, *(own[number] if own else ())]
                + ["--distributed", f"127.0.0.1:{port},{count},{number}"] * (count > 1),
                stdout=(folder / f"{number}.out").open("w"),
                stderr=(folder / f"{number}.err").open("w"),
                env=environment,
            )
            for number in range(count)
        ]

    def said(self, number, where="err"):
        return (self.folder / f"{number}.{where}").read_text()

    def statuses(self, seconds=120):
        """Waits for all processes, for `seconds` in total, and returns their exit statuses."""
        end = time.monotonic() + seconds
        try:
            return [process.wait(end - time.monotonic()) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
                process.wait()

    def after(self, run, epochs):
        """Waits until `run` has recorded at least `epochs` epochs."""
        end = time.monotonic() + 120
        while len(records(run)) < epochs:
            assert time.monotonic() < end
            assert all(process.poll() is None for process in self.processes), self.said(0)
            time.sleep(0.01)


def records(run):
    file = run / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def assert_same(run, other):
    of_run, of_other = records(run), records(other)
    assert len(of_run) == len(of_other)
    for one, two in zip(of_run, of_other, strict=True):
        assert one["train_loss"] == pytest.approx(two["train_loss"], rel=1e-4)
        assert one["valid_loss"] == pytest.approx(two["valid_loss"], rel=1e-4)


@pytest.fixture(scope="module")
def settings(pictures, tmp_path_factory):
    weights = tmp_path_factory.mktemp("weights") / "weights.toml"
    weights.write_text("blue = 0.5\nred = 2.0\n")
    given = ["--data.path", pictures, "--fit.class-weights", weights, "--model.weights", "none"]
    return [*map(str, given), *SETTINGS]


@pytest.fixture(scope="module")
def alone(settings, tmp_path_factory):
    """A run that was trained by one process."""
    folder = tmp_path_factory.mktemp("alone")
    one = Together(1, folder / "said", *settings, "--fit.epochs", "30", "--workdir", folder / "run")
    assert one.statuses() == [0], one.said(0)
    return folder / "run"


@pytest.mark.slow
def test_two_processes_of_two_devices_train_as_one_does(settings, tmp_path, alone):
    """Two processes with sharded moments reach the losses of one process, within a tolerance.

    Only the first process prints, and its standard output is only the JSON document.
    """
    run, own = tmp_path / "run", ["--fit.epochs", "30", "--json", "--fit.shard-optimizer"]
    two = Together(2, tmp_path / "said", *settings, *own, "--fit.keep-best", "--workdir", run)
    assert two.statuses() == [0, 0], two.said(0) + two.said(1)
    assert_same(run, alone)
    assert json.loads(two.said(0, "out"))["run"] == str(run)
    assert two.said(1, "out") == ""
    assert "accuracy" not in two.said(1)
    assert (run / "report.html").exists()


@pytest.mark.slow
def test_a_run_is_taken_up_by_fewer_processes_when_one_is_lost(settings, tmp_path, alone):
    """A run that loses processes twice ends with the losses of one that was never interrupted.

    One of four processes is killed; two resume the run, and one of these is asked to stop; the last
    one trains to the end.
    """
    run = tmp_path / "run"
    four = Together(4, tmp_path / "4", *settings, "--fit.epochs", "30", "--workdir", run)
    four.after(run, 3)
    four.processes[2].kill()
    began = time.monotonic()
    assert four.statuses() == [1, 1, -signal.SIGKILL, 1], four.said(0)
    assert time.monotonic() - began < 60
    for number in (0, 1, 3):
        last = four.said(number).splitlines()[-1]
        assert last.startswith(f"process {number} of 4: another process has ended"), last

    two = Together(2, tmp_path / "2", "--resume", run)
    two.after(run, len(records(run)) + 3)
    two.processes[1].send_signal(signal.SIGTERM)
    assert two.statuses() == [143, 143], two.said(0)
    assert f"resume  jaxch5 train --resume {run}" in two.said(0)

    one = Together(1, tmp_path / "1", "--resume", run)
    assert one.statuses() == [0], one.said(0)
    assert_same(run, alone)


@pytest.mark.slow
def test_the_others_end_when_the_first_is_lost(settings, tmp_path):
    run = tmp_path / "run"
    two = Together(2, tmp_path / "2", *settings, "--fit.epochs", "500", "--workdir", run)
    two.after(run, 2)
    two.processes[0].kill()
    assert two.statuses(60) == [-signal.SIGKILL, 1]
    assert two.said(1).splitlines()[-1].startswith("process 1 of 2: another process has ended")


@pytest.mark.slow
def test_processes_that_are_told_different_things_say_which(settings, tmp_path):
    """A setting of the file that has no effect is named by the first process alone."""
    own, file = [["--seed", "1"], ["--seed", "2"]], tmp_path / "file.toml"
    file.write_text("[fit]\nlabel_smoothing = 0.1\n")
    idle = ["--config", file, "--fit.loss", "focal", "--workdir", tmp_path / "run"]
    two = Together(2, tmp_path / "2", *settings, *idle, own=own)
    assert two.statuses() == [2, 2], two.said(0)
    (line,) = two.said(0, "out").splitlines()
    assert "fit.label_smoothing = 0.1: only works with fit.loss = cross_entropy" in line
    assert two.said(1, "out") == ""
    for number in (0, 1):
        line = "seed: 1 in process 0 but 2 in process 1; start all processes in the same way"
        assert line in two.said(number)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_the_first_alone_finds_wrong_ends_all(settings, tmp_path):
    """Only the first process creates the run's directory, but all say what is wrong with it."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").touch()
    two = Together(2, tmp_path / "2", *settings, "--workdir", tmp_path / "run")
    assert two.statuses() == [2, 2], two.said(0) + two.said(1)
    line = "already holds a run; resume it with jaxch5 train --resume"
    assert line in two.said(0).splitlines()[-1]
    last = two.said(1).splitlines()[-1]
    assert line in last
    assert last.endswith("(in process 0)")


@pytest.mark.slow
def test_what_another_alone_finds_wrong_ends_all(settings, tmp_path):
    """A process that lacks a hook ends all of them, and no run is left behind."""
    hook = ["--hooks", "tiny_train:watch", "--workdir", tmp_path / "run"]
    two = Together(2, tmp_path / "2", *settings, *hook, lacks=1)
    assert two.statuses() == [2, 2], two.said(0) + two.said(1)
    assert two.said(0).splitlines()[-1].endswith("(in process 1)")
    assert "tiny_train:watch" in two.said(1).splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_others_wait_for_a_report_that_takes_long(settings, tmp_path):
    """The first process may take longer to end than a process that is silent counts as alive."""
    slow = ["--hooks", "tiny_train:slow", "--fit.epochs", "2"]
    two = Together(2, tmp_path / "2", *settings, *slow, "--workdir", tmp_path / "run", silent=4)
    assert two.statuses(300) == [0, 0], two.said(0) + two.said(1)
    assert "report  " in two.said(0, "out")


@pytest.mark.parametrize("wrong", ["here", "host:1,2", "host:1,2,2"])
def test_what_names_no_processes_is_refused(wrong, tmp_path, capsys, monkeypatch):
    from jaxch5.train import main

    monkeypatch.setattr(sys, "argv", ["train", "--distributed", wrong])
    assert main() == 2
    assert "should be auto or HOST:PORT,COUNT,ID" in capsys.readouterr().err
