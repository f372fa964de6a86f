"""Exports of a classifier have the same bytes in every process, and describe how to use them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

import jaxch5
from jaxch5.models.spec import Normalization
from jaxch5.results.about import About
from jaxch5.results.predictor import Predictor, load_learner

PROGRAM = """
import hashlib, sys
from jaxch5.results.artifacts import FORMATS
from jaxch5.results.predictor import load_learner
predictor = load_learner(sys.argv[1])
for name in ("safetensors", "stablehlo", "learner"):
    content = FORMATS[name](predictor)
    print(name, hashlib.sha256(content).hexdigest(), str(sys.argv[2]).encode() in content)
"""


@pytest.mark.slow
def test_every_process_writes_the_same_bytes_without_its_paths(trained, tmp_path):
    """An export depends neither on the hash seed nor on the folder that the process runs in."""
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


def test_an_export_to_standard_output_is_all_that_is_printed_there(trained):
    from jaxch5.results.artifacts import as_safetensors

    command = [sys.executable, "-m", "jaxch5", "export", trained[0], "--out", "/dev/stdout"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout == as_safetensors(load_learner(trained[0]))
    assert re.fullmatch(rb"safetensors  \S+ MB  /dev/stdout\n", done.stderr)
    done = subprocess.run([*command, "--json"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"out = /dev/stdout: cannot be combined with --json" in done.stderr


def test_a_program_says_what_it_is_of(trained):
    _, learn = trained
    from jaxch5.results.artifacts import as_stablehlo

    program = jax.export.deserialize(bytearray(as_stablehlo(learn.predictor())))
    about = json.loads(program.fun_name)
    assert about["classes"] == ["blue", "red"]
    assert (about["presize"], about["size"], about["crop"]) == (36, 32, "center")


PAGE = Path(__file__).parent.parent / "docs" / "exporting.md"
# The recipe resizes with Pillow's filter instead of jaxch5's, so probabilities may differ by this
# much. Real mistakes make a larger difference: see the test of the bound.
NEAR = 0.05


class Cells(nn.Module):
    """Predicts the brightest of 16 parts of a picture, so it notices parts that are misplaced."""

    @nn.compact
    def __call__(self, x, train):
        return 4 * x.reshape(-1, 4, 32, 4, 32, 3).mean((2, 4, 5)).reshape(-1, 16)


@pytest.fixture(scope="module")
def cells():
    about = About("Cells", "", "fp32", presize=144, size=128)
    plain = Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return Predictor(Cells(), {}, tuple("abcdefghijklmnop"), plain, about)


@pytest.fixture(scope="module")
def recipe(cells, tmp_path_factory):
    """The names that the page's code defines when it runs in a folder with the files it needs."""
    from jaxch5.results.artifacts import as_stablehlo

    folder = tmp_path_factory.mktemp("deployed")
    (folder / "model.stablehlo").write_bytes(as_stablehlo(cells))
    (folder / "holiday").mkdir()
    photograph(0, (90, 60)).save(folder / "holiday" / "1.jpg")
    (lines,) = re.findall(r"```python\n([^`]*model\.stablehlo[^`]*)```", PAGE.read_text("utf-8"))
    names = {}
    before = Path.cwd()
    os.chdir(folder)
    try:
        exec(lines, names)
    finally:
        os.chdir(before)
    return names


def photograph(seed, size):
    """Returns a picture of blotches in many colours, as smooth as a photograph."""
    blotches = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(cv2.resize(blotches, size, interpolation=cv2.INTER_CUBIC))


def answers_of(recipe, files):
    return np.asarray(recipe["program"].call(np.stack([recipe["square"](file) for file in files])))


def check_near(recipe, cells, files):
    expected = np.stack([found.probabilities for found in cells.predict_many(files)])
    got = answers_of(recipe, files)
    assert np.abs(got - expected).max() <= NEAR
    assert np.abs(got - expected).mean() <= NEAR / 5
    first, second = np.sort(expected, axis=1)[:, :-3:-1].T
    clear = first - second > 2 * NEAR
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(got.argmax(1)[clear], expected.argmax(1)[clear])


def test_the_recipe_for_deployment_answers_as_predict(recipe, cells, tmp_path):
    """The recipe's probabilities are close to those of `predict`.

    The pictures are small and large, upright and wide, in two formats and with every orientation
    that EXIF can give.
    """
    files = []
    sizes = [(144, 144), (40, 30), (161, 290), (300, 200), (150, 700), (800, 633), (1000, 80)]
    for seed, size in enumerate(sizes):
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            files.append(tmp_path / f"{seed}-{orientation}.{('jpg', 'png')[orientation % 2]}")
            photograph(seed + orientation, size).save(files[-1], exif=exif)
    check_near(recipe, cells, files)


def test_the_bound_is_one_that_a_wrong_recipe_breaks(recipe, cells, tmp_path):
    """The bound detects a recipe that squashes pictures and ignores their EXIF orientation.

    An earlier version of the page's recipe made these mistakes.
    """
    file = tmp_path / "1.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph(3, (300, 100)).save(file, exif=exif)
    (expected,) = cells.predict_many([file])
    squashed = np.asarray(Image.open(file).convert("RGB").resize(recipe["side"]))
    wrong = np.asarray(recipe["program"].call(squashed[None]))[0]
    assert np.abs(wrong - expected.probabilities).max() > 4 * NEAR


@pytest.mark.slow
def test_the_recipe_for_deployment_answers_as_predict_on_photographs(recipe, cells, flowers):
    """The recipe agrees with `predict` on photographs too, some of which have a colour profile."""
    check_near(recipe, cells, sorted((flowers / "valid").rglob("*.jpg")))


def test_a_program_takes_any_number_of_pictures(recipe, tmp_path):
    files = [tmp_path / f"{seed}.jpg" for seed in range(5)]
    for seed, file in enumerate(files):
        photograph(seed, (80, 60)).save(file)
    together = answers_of(recipe, files)
    alone = np.concatenate([answers_of(recipe, [file]) for file in files])
    np.testing.assert_allclose(together, alone, atol=1e-5)
