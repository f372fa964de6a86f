"""Empty environment variables count as unset, and what libraries log can be hidden for a while."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxch5.util.libraries import PREFIXES, empty_is_unset, logging_from, silent, variable

ROOT = Path(__file__).parents[2]
# Matches code that asks whether a variable is set and that counts an empty variable as set.
ASKS = re.compile(
    r"in os\.environ\b(?!\.)|getenv\(|\.setdefault\(\"[A-Z]|environ\.get\([^)]*\)(?! or)"
)
# Lines that contain one of these may match: pytest-xdist never leaves its variable empty, the
# compiler's flags are a string that may be empty, and a loop over all names reads no value.
EXCUSED = ("PYTEST_XDIST_WORKER", 'get("XLA_FLAGS", "")', "for name in os.environ")


@pytest.mark.parametrize("folder", ["jaxch5", "tests", "benchmarks"])
def test_no_file_takes_an_empty_variable_for_one_that_is_set(folder):
    files = [file for file in (ROOT / folder).rglob("*.py") if file != Path(__file__)]
    assert len(files) > 10
    lines = [
        f"{file.name}: {line.strip()}"
        for file in files
        for line in file.read_text(encoding="utf-8").splitlines()
        if ASKS.search(line) and not any(excuse in line for excuse in EXCUSED)
    ]
    assert not lines


def test_an_empty_variable_is_none(monkeypatch):
    monkeypatch.setenv("JAXCH5_FLOWERS", "")
    assert variable("JAXCH5_FLOWERS") is None
    monkeypatch.setenv("JAXCH5_FLOWERS", "photos")
    assert variable("JAXCH5_FLOWERS") == "photos"


def test_libraries_see_no_empty_variable(monkeypatch):
    """`empty_is_unset` hides empty variables, except for one that hides all GPUs if it is empty.

    Afterwards, all variables are as before.
    """
    names = [f"{prefix}HOME" for prefix in PREFIXES]
    for name in (*names, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HF_TOKEN", "token")
    before = dict(os.environ)
    with empty_is_unset():
        assert not set(names) & set(os.environ)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
        assert os.environ["HF_TOKEN"] == "token"
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("name", "program"),
    [
        (
            "HF_HOME",
            """
from jaxch5.errors import WeightsError
from jaxch5.models.pretrained import from_hub
try:
    from_hub("resnet18")
except WeightsError:
    pass
from huggingface_hub.constants import HF_HUB_CACHE as folder
""",
        ),
        (
            "TFDS_DATA_DIR",
            """
from jaxch5.data.sources.tfds import from_tfds
from jaxch5.errors import DataError
try:
    from_tfds("no_such_set")
except DataError:
    pass
from tensorflow_datasets.core.constants import DATA_DIR as folder
""",
        ),
        (
            "JAX_COMPILATION_CACHE_DIR",
            """
import jax
from jaxch5.training.compiler import keep_compiled_programs
keep_compiled_programs()
folder = jax.config.values["jax_compilation_cache_dir"]
""",
        ),
    ],
)
def test_where_a_library_keeps_files_is_as_without_the_variable(name, program, tmp_path):
    """With an empty variable, a library keeps its files where it keeps them without the variable.

    Otherwise, it might keep them in whatever folder is the current one.
    """
    without = {key: value for key, value in os.environ.items() if key != name}
    folders = [
        subprocess.check_output(
            [sys.executable, "-c", f"{program}\nprint(folder)"],
            env=without | {"HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"} | changes,
            cwd=tmp_path,
            text=True,
        )
        for changes in ({}, {name: ""})
    ]
    assert folders[0].startswith(str(tmp_path))
    assert folders[0] == folders[1]
    assert not (tmp_path / "hub").exists()


@pytest.mark.slow
def test_tests_that_need_what_an_empty_variable_names_are_skipped():
    names = ("JAXCH5_FLOWERS", "JAXCH5_PEER_PYTHON", "JAX_COMPILATION_CACHE_DIR", "HF_HOME")
    tests = [
        "tests/data/test_block.py::test_photographs_from_folder_to_batch",
        "tests/data/test_image.py::test_photographs_at_a_fraction_look_like_the_whole",
        "tests/models/test_weights.py",
        "tests/test_benchmarks.py::test_the_step_prints_both_sides_and_their_ratio",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", *tests],
        cwd=ROOT,
        env=os.environ | dict.fromkeys(names, ""),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "does not name a folder of photographs" in done.stdout
    assert "there is no peer" in done.stdout


def test_a_library_is_silent_for_a_while(capfd):
    logger = logging.getLogger("absl")
    before = (logger.level, sys.unraisablehook)
    with silent():
        logger.critical("loud")
        with logging_from(logging.ERROR, "absl"):
            assert logger.level == logging.ERROR
        assert logger.level > logging.CRITICAL
    assert (logger.level, sys.unraisablehook) == before
    assert "loud" not in capfd.readouterr().err
