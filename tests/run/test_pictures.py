"""The warning about weights trained on validation pictures says no more than is known."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxch5.config.building import load_data
from jaxch5.config.settings import Config
from jaxch5.data.pictures import read_pictures, write_pictures
from jaxch5.models.pretrained import Pretrained
from jaxch5.models.spec import Normalization
from jaxch5.run.directory import RunDir, create_run
from jaxch5.run.pictures import known_by, record_pictures


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two folders of different pictures with the same names; all BMP files have the same size."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for place in (root / name / label for name in ("one", "other") for label in ("a", "b")):
        place.mkdir(parents=True)
        for number in range(10):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.bmp")
    return root


def config_of(path, seed=42):
    data = {"path": path, "size": 8, "presize": 8, "batch_size": 4, "split_seed": seed}
    return Config.model_validate({"data": {**data, "split": "random"}})


@pytest.fixture
def weights(photos, tmp_path):
    """Empty weights, from a run that recorded the pictures of the first folder."""
    config = config_of(photos / "one")
    run = create_run(config, tmp_path / "run")
    record_pictures(run, load_data(config))
    return Pretrained({}, Normalization((0.5,) * 3, (0.5,) * 3), None, str(run.path))


def test_other_pictures_of_the_same_names_are_not_said_to_be_known(photos, weights):
    """A warning is given only if the record has no digests, as in earlier versions."""
    data = load_data(config_of(photos / "other", seed=1))
    assert known_by(weights, data) is None
    record = RunDir(Path(weights.origin)).pictures_file
    pictures = read_pictures(record)
    write_pictures(record, replace(pictures, contents=np.full(len(pictures), -1)))
    said = known_by(weights, data)
    assert "was trained on pictures with the names of " in said
    assert said.endswith("if they are the same pictures, the accuracy will be too high")


def test_the_runs_files_are_known_under_any_name(photos, weights, tmp_path):
    """A table in another folder that lists the files gets the same warning as the files' folder."""
    names = [f"{photos}/one/{label}/{number}.bmp,{label}" for label in "ab" for number in range(10)]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["image,label", *names]))
    data = load_data(config_of(photos / "one", seed=1))
    said = known_by(weights, data)
    assert f"{weights.origin} was trained on " in said
    assert said.endswith(" of the 4 validation pictures: the accuracy will be too high")
    assert known_by(weights, load_data(config_of(table, seed=1))) == said
    assert known_by(weights, load_data(config_of(photos / "one"))) is None


def test_copies_of_the_runs_files_are_known_under_other_names(photos, weights, tmp_path):
    shutil.copytree(photos / "one", tmp_path / "copy")
    for file in list((tmp_path / "copy").rglob("*.bmp")):
        file.rename(file.with_stem(f"copy {file.stem}"))
    said = known_by(weights, load_data(config_of(tmp_path / "copy", seed=1)))
    assert f"{weights.origin} was trained on " in said
    assert said.endswith(" of the 4 validation pictures: the accuracy will be too high")
