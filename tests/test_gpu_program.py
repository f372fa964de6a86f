"""The programs that XLA compiles for an H100 are no worse than those recorded before.

The test compiles each program, which needs no GPU, and counts its operations.
`tests/gpu_program.json` has the output of benchmarks/gpu_program.py for each program, called with
`ARGUMENTS`.
"""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parent.parent
# No layer has as many channels as a batch has rows, which distinguishes activations from weights.
ARGUMENTS = ["--size", "64", "--presize", "96", "--batch", "80"]
RECORDED = json.loads((ROOT / "tests" / "gpu_program.json").read_text(encoding="utf-8"))
# The programs that .ci/run compiles; the others are tested after a change to the step, to a network
# or to the version of jax.
QUICK = ("resnet18/bf16/deterministic", "resnet18/bf16/scan", "resnet18/bf16/global")
MARGIN = 1.02


def is_installed():
    try:
        return version("nvidia-cuda-nvcc") and version("jax-cuda13-plugin") == jax.__version__
    except PackageNotFoundError:
        return False


pytestmark = [
    pytest.mark.gpu_program,
    pytest.mark.skipif(not is_installed(), reason="the extra gpu-program is not installed"),
    pytest.mark.skipif(RECORDED["jax"] != jax.__version__, reason="recorded for another jax"),
]


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(program, marks=[] if program in QUICK else pytest.mark.slow)
        for program in RECORDED["programs"]
    ],
)
def test_a_program_is_no_worse_than_it_was(program, usual_compiler):
    command = [sys.executable, ROOT / "benchmarks" / "gpu_program.py", program, *ARGUMENTS]
    environment = usual_compiler | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [*command, "--json"], stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    found, before = json.loads(ended.stdout)[program], RECORDED["programs"][program]
    for name in ("kernels", "GB", "temporaries, GB", "sent, MB"):
        assert found[name] <= MARGIN * before[name], name
    for name in ("convolutions", "products", "messages"):
        assert found[name] == before[name], name
    for name in ("kept", "moved"):
        # "kept" counts activations that kernels write, "moved" those that are copied or transposed.
        for kind, count in found[name].items():
            assert count <= before[name].get(kind, 0), f"{name}: {kind}"
    assert found["sorts"] == 0
    assert found["scattered"] <= before["scattered"]


def test_the_options_that_gpu_sh_tries_are_known():
    script = (ROOT / "benchmarks" / "gpu.sh").read_text(encoding="utf-8")
    options = re.findall(r"^ +(xla_gpu_\w+)=(\S*)$", script, re.MULTILINE)
    assert len(options) > 3
    program = """
import sys
import jax
from gpu_program import gpus_of, stored

on = jax.sharding.SingleDeviceSharding(gpus_of("h100")[0])
options = dict(option.split("=", 1) for option in sys.argv[1:])
jax.jit(lambda x: x + 1, compiler_options=options).lower(stored(jax.numpy.ones(8), on)).compile()
"""
    path = f"{ROOT}:{ROOT / 'benchmarks'}"
    command = [sys.executable, "-c", program, *(f"{name}={value}" for name, value in options)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": path})
