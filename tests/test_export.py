"""The same classifier gives the same bytes in every process, and they say what a reader needs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import jaxch5

PROGRAM = """
import hashlib, sys
from jaxch5.artifacts import FORMATS
from jaxch5.predictor import load_learner
predictor = load_learner(sys.argv[1])
for name in ("safetensors", "stablehlo", "learner"):
    content = FORMATS[name](predictor)
    print(name, hashlib.sha256(content).hexdigest(), str(sys.argv[2]).encode() in content)
"""


@pytest.mark.slow
def test_every_process_writes_the_same_bytes_without_its_paths(trained, tmp_path):
    """Whatever the order of its dictionaries and the folder that it runs in."""
    package = Path(jaxch5.__file__).parent.parent
    lines = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(package)}
        argv = [sys.executable, "-c", PROGRAM, trained[0], str(package)]
        done = subprocess.run(
            argv, cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
        lines.append(done.stdout.splitlines())
    assert lines[0] == lines[1]
    assert all(line.endswith("False") for line in lines[0])
    assert len(set(lines[0])) == 3


def test_a_program_says_what_it_is_of(trained):
    _, learn = trained
    from jaxch5.artifacts import as_stablehlo

    program = jax.export.deserialize(bytearray(as_stablehlo(learn.predictor())))
    about = json.loads(program.fun_name)
    assert about["classes"] == ["blue", "red"]
    assert (about["presize"], about["size"], about["crop"]) == (36, 32, "center")
