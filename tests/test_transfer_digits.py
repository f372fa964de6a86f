"""A real transfer: digits that were never seen are learned from ten pictures a class."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "transfer.py"


@pytest.mark.slow
def test_fine_tuning_beats_the_default_run_from_scratch_by_five_points():
    """Mean of five seeds, the same number of steps; docs/benchmarks.md has other rates too."""
    command = [sys.executable, BENCHMARK, "--part", "transfer", "--seeds", "5", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["gain over scratch at 0.003"] >= 0.05
