"""A test run that is terminated ends within seconds, whatever its tests do with the signal."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

# What a test does while it is terminated; each of these would take minutes.
DOINGS = {
    "has no handler": "time.sleep(600)",
    "leaves a process": """
process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
time.sleep(600)""",
    "takes it for an error": """
try:
    time.sleep(600)
except Exception:
    pass""",
    "has a handler that does nothing": """
signal.signal(signal.SIGTERM, lambda number, frame: None)
end = time.monotonic() + 600
while time.monotonic() < end:
    time.sleep(1)""",
    "is in a command": """
from jaxch5.cli import Options, run
run(lambda options: time.sleep(600) or {}, Options, "command", [])""",
    "trains": """
from jaxch5.training.interrupts import Interrupts
with Interrupts() as interrupts:
    for _ in range(6000):
        time.sleep(0.1)
        interrupts.check()""",
}
PROGRAM = """
import signal, subprocess, sys, time
from pathlib import Path
def test_that_goes_on():
    Path(__file__).with_name("started").touch()
{body}
def test_that_must_not_begin():
    Path(__file__).with_name("went_on").touch()
"""


def start(folder, doing, *options):
    folder.mkdir()
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    body = "\n".join(f"    {line}" for line in DOINGS[doing].strip().splitlines())
    (folder / "test_it.py").write_text(PROGRAM.format(body=body))
    (folder / "temporary").mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "--rootdir", folder, *options, "test_it.py"],
        cwd=folder,
        env=os.environ | {"TMPDIR": str(folder / "temporary")},
        stdout=(folder / "said").open("w"),
        stderr=subprocess.STDOUT,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("doings", "options"),
    [(list(DOINGS), ()), (["leaves a process", "is in a command"], ("-n", "1"))],
    ids=["alone", "with workers"],
)
def test_a_run_that_is_terminated_ends(doings, options, tmp_path):
    """A terminated test run starts no other test, and leaves no processes or folders of its own.

    Folders that pytest itself keeps may stay.
    """
    runs = {doing: start(tmp_path / doing, doing, *options) for doing in doings}
    for doing, run in runs.items():
        while not (tmp_path / doing / "started").exists():
            assert run.poll() is None, (tmp_path / doing / "said").read_text()
            time.sleep(0.05)
    # Gives the processes that tests start the time to begin.
    time.sleep(0.5)
    for doing, run in runs.items():
        below = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(signal.SIGTERM)
        said = tmp_path / doing / "said"
        assert run.wait(30) == 128 + signal.SIGTERM, (doing, said.read_text())
        assert not (tmp_path / doing / "went_on").exists(), (doing, said.read_text())
        _, alive = psutil.wait_procs(below, timeout=5)
        assert not alive, doing
        left = [one.name for one in (tmp_path / doing / "temporary").iterdir()]
        assert all(name.startswith("pytest-of") for name in left), (doing, left)
