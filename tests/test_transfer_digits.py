"""A network that knows some digits learns the other digits from ten pictures of each class."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "transfer.py"


@pytest.mark.slow
def test_fine_tuning_beats_training_from_scratch_by_five_points(usual_compiler):
    """Fine-tuning for ten steps is at least five points more accurate than training from scratch.

    Both are means over five seeds; training from scratch has the best of the benchmark's rates.
    """
    command = [sys.executable, BENCHMARK, "--part", "transfer", "--seeds", "5", "--json"]
    command += ["--scratch-lrs", "2e-3"]
    ended = subprocess.run(command, capture_output=True, text=True, env=usual_compiler)
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert document["gain over scratch at 0.002"] >= 0.05
