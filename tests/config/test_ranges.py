"""The values of black and white, given or guessed, hold in training, in files and in prediction."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxch5.cli import run as run_command
from jaxch5.config.building import as_decided, load_source
from jaxch5.config.ranges import parse_range
from jaxch5.config.settings import MAX_PIXELS, Config, DataConfig, from_toml
from jaxch5.config.toml import to_toml
from jaxch5.data.block import DataBlock
from jaxch5.data.decode import Reading
from jaxch5.data.packing import pack
from jaxch5.data.source import read_pixels
from jaxch5.data.sources.folder import from_folder
from jaxch5.data.sources.packed import from_packed
from jaxch5.data.split import random_split
from jaxch5.errors import ConfigError
from jaxch5.predict import PredictOptions, predict, range_of
from jaxch5.results.artifacts import as_learner
from jaxch5.results.predictor import load_learner
from jaxch5.util.files import write_file

DECIDED = "auto integers 0,4095"


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A folder of 16-bit pictures with 12-bit values, in two classes: dark and bright."""
    folder = tmp_path_factory.mktemp("deep")
    generator = np.random.default_rng(0)
    for label, low in (("dark", 300), ("bright", 2200)):
        (folder / label).mkdir()
        for number in range(6):
            values = low + generator.integers(0, 1800, (20, 30))
            Image.fromarray(values.astype(np.uint16)).save(folder / label / f"{number}.png")
    return folder


@pytest.mark.parametrize("text", ["", "white", "1,2,3", "5,5", "auto 4095 1", "nan", "integers"])
def test_a_range_that_is_none_is_refused_in_one_line(text):
    with pytest.raises(ValueError, match="should be"):
        parse_range(text)
    with pytest.raises(ValueError, match=r"data\.range"):
        DataConfig(range=text)


@pytest.mark.parametrize(
    ("text", "integers", "floats", "file_first"),
    [
        ("auto", None, None, True),
        ("4095", (0, 4095), (0, 4095), False),
        ("-1024,3071", (-1024, 3071), (-1024, 3071), False),
        ("1,0", (1, 0), (1, 0), False),
        ("auto floats 0,1", None, (0, 1), True),
        ("auto integers 0,4095 floats -1,1", (0, 4095), (-1, 1), True),
    ],
)
def test_a_range_means_what_it_says(text, integers, floats, file_first):
    assert parse_range(text) == (file_first, integers, floats)


def test_it_is_guessed_when_a_set_is_loaded_and_said(deep):
    """The range is guessed, and reported once, in the same way by a configuration and in Python."""
    for source in (
        load_source(DataConfig(path=deep)),
        DataBlock(from_folder(deep), random_split(), 16, 16).load(batch_size=4).source,
    ):
        assert source.reading.range == DECIDED
        (note,) = source.notes
        assert "0 to 4,095" in note
        assert "--data.range" in note
        assert 120 < max(read_pixels(source, item).max() for item in range(len(source))) <= 255
    data = DataBlock(source, random_split(), 16, 16).load(batch_size=4)
    assert data.describe().count("4,095") == 1


def test_what_is_set_is_obeyed_and_not_guessed(deep):
    source = load_source(DataConfig(path=deep, range="65535"))
    assert source.reading.range == "65535"
    assert not source.notes
    assert read_pixels(source, 0).max() <= 16


def test_what_was_decided_is_written_down_and_means_the_same(deep, tmp_path):
    config = Config(data=DataConfig(path=deep))
    decided = as_decided(config, load_source(config.data))
    (tmp_path / "config.toml").write_text(to_toml(decided))
    again = from_toml(tmp_path / "config.toml")
    assert again.data.range == DECIDED
    assert load_source(again.data).reading == Reading(DECIDED)


def test_a_packed_set_brings_it_along(deep, tmp_path):
    source = load_source(DataConfig(path=deep))
    index = pack(source, tmp_path / "packed", 16)
    assert index.range == DECIDED
    packed = from_packed(tmp_path / "packed")
    assert packed.reading.range == DECIDED
    with pytest.raises(ConfigError, match="pack them again"):
        load_source(DataConfig(path=tmp_path / "packed", range="65535"))
    # A set that was packed before packed sets recorded ranges.
    file = tmp_path / "packed" / "packed.json"
    said = json.loads(file.read_text())
    del said["range"]
    file.write_text(json.dumps(said))
    assert from_packed(tmp_path / "packed").reading == Reading()


@pytest.fixture(scope="module")
def learner(trained, tmp_path_factory):
    """The file of a learner that records how pictures are decoded."""
    predictor = load_learner(trained[0]).reading(range=DECIDED, max_pixels=2_000_000)
    file = tmp_path_factory.mktemp("learner") / "red.safetensors"
    write_file(file, as_learner(predictor))
    return file


def predicted(capsys, *argv):
    status = run_command(predict, PredictOptions, "predict", [*map(str, argv), "--json"])
    captured = capsys.readouterr()
    rows = json.loads(captured.out)["predictions"] if captured.out else []
    return status, [row.get("classes") for row in rows], captured.err


def test_a_learners_file_brings_it_along(trained, learner, deep, tmp_path):
    again = load_learner(learner)
    assert (again.about.range, again.about.max_pixels) == (DECIDED, 2_000_000)
    picture = deep / "bright" / "0.png"
    source = load_source(DataConfig(path=deep))
    item = list(source.references).index("bright/0.png")
    as_pixels = again.predict(read_pixels(source, item)).probabilities
    np.testing.assert_allclose(again.predict(picture).probabilities, as_pixels, atol=1e-6)
    # The learner's range also applies to a source for which no range was decided.
    rows = again.probabilities_of(from_folder(deep), np.array([item]))
    np.testing.assert_allclose(rows[0], as_pixels, atol=1e-6)


def test_a_picture_has_the_same_range_on_standard_input_as_by_its_path(deep):
    picture = deep / "bright" / "0.png"
    of_path, of_content = (
        range_of([(name, content)], MAX_PIXELS)
        for name, content in ((str(picture), str(picture)), ("-", picture.read_bytes()))
    )
    assert of_content == of_path
    assert of_content[0] == DECIDED


def test_predict_takes_what_is_said(learner, deep, capsys):
    picture = deep / "bright" / "0.png"
    _, (as_trained,), _ = predicted(capsys, learner, picture)
    _, (white,), _ = predicted(capsys, learner, picture, "--data.range", "1")
    _, (same,), _ = predicted(capsys, learner, picture, "--data.range", "4095")
    assert same == as_trained
    assert white != as_trained


def test_predict_takes_the_limit_of_pixels(learner, tmp_path, capsys):
    Image.new("RGB", (1600, 1000)).save(tmp_path / "large.png")
    assert predicted(capsys, learner, tmp_path / "large.png")[0] == 0
    status, _, error = predicted(
        capsys, learner, tmp_path / "large.png", "--data.max-pixels", "1000000"
    )
    assert status == 1
    assert "--data.max-pixels" in error


def test_predict_guesses_where_training_saw_none_and_says_so(trained, deep, capsys):
    _, _, error = predicted(capsys, trained[0], deep)
    assert "0 to 4,095" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("place", [None, "pictures"])
def test_a_range_that_changes_nothing_is_said(place, pictures):
    """A note says that a given range has no effect on digits and JPEG files, which have 8 bits.

    There is no such note for a range that was decided earlier by guessing.
    """
    source = load_source(DataConfig(path=place and pictures, range="4095"))
    assert source.notes == ("data.range = 4095 has no effect: no picture has more than 8 bits",)
    assert not load_source(DataConfig(path=place and pictures, range=DECIDED)).notes
