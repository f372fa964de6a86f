"""A run that is killed and resumed has the same final weights as one that is never interrupted."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHILD = Path(__file__).with_name("killed.py")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A process that trains a run for each cache and path written to it; see `killed.py`."""
    errors = tmp_path_factory.mktemp("server") / "errors"
    process = subprocess.Popen(
        [sys.executable, CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors.open("w"),
        text=True,
    )
    process.errors = errors
    yield process
    process.communicate()


def start(server, cache, run):
    server.stdin.write(f"{cache} {run}\n")
    server.stdin.flush()
    return int(server.stdout.readline())


def ended(server):
    return int(server.stdout.readline())


def wait(run, seconds, for_save):
    """Waits for the moment to kill a run.

    Returns False if the run ends before that moment. With `for_save`, it goes on waiting until the
    run is saving a checkpoint.
    """
    moment = time.perf_counter() + seconds
    while time.perf_counter() < moment or (for_save and not saving(run)):
        if (run / "bits").exists():
            return False
        # Sleeping leaves the processor to the run.
        time.sleep(0.001)
    return True


def saving(run):
    return any((run / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


@pytest.mark.slow
@pytest.mark.parametrize(("cache", "wanted"), [("memory", 12), ("off", 4), ("device", 4)])
def test_a_run_killed_at_any_moment_ends_with_the_same_bits(server, cache, wanted, tmp_path):
    """A run that is killed again and again ends with the same bits as one that is not killed.

    It is killed while it starts, trains, validates or saves, with each kind of cache.
    """
    # The first run fills the cache of compiled programs, so only the second one is timed.
    for whole in (tmp_path / "first", tmp_path / "second"):
        began = time.perf_counter()
        start(server, cache, whole)
        assert ended(server) == 0, server.errors.read_text()
        duration = time.perf_counter() - began
    expected = (whole / "bits").read_text()
    assert (tmp_path / "first" / "bits").read_text() == expected

    draw, kills, kills_in_saves, runs = random.Random(0), 0, 0, 0
    while kills < wanted:
        runs += 1
        run = tmp_path / str(runs)
        while not (run / "bits").exists():
            child = start(server, cache, run)
            if kills < wanted and wait(run, draw.uniform(0.1, 0.7) * duration, kills % 2 == 0):
                kills_in_saves += saving(run)
                os.kill(child, signal.SIGKILL)
            status = ended(server)
            assert status in (0, -signal.SIGKILL), server.errors.read_text()
            kills += status != 0
        assert (run / "bits").read_text() == expected
        lines = (run / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == 2
    assert kills_in_saves
