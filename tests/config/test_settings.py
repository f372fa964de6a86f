"""A configuration is complete and checked, and stays the same if it is written and read again."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from jaxch5.config.settings import Config, differing, from_toml, to_toml
from jaxch5.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("config", [Config(), Config.model_validate({"data": {"path": "x"}})])
def test_toml_round_trip(config, tmp_path):
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config))
    assert from_toml(file) == config


def test_the_digits_configuration_is_the_default():
    assert from_toml(CONFIGS / "digits.toml") == Config()


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.toml")), ids=lambda file: file.stem)
def test_every_configuration_in_the_folder_can_be_used(file):
    config = from_toml(file)
    assert file.stem == "digits" or file.stem.endswith(config.model.arch)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"path": "x", "tfds": "y"}, "data.tfds; name one of them"),
        ({"pattern": "(.+)_1"}, "data.pattern = (.+)_1: only works with a folder or an archive ("),
        ({"tfds": "y", "root": "z"}, "only works with a table as data.path"),
        ({"archive": "y", "sha256": "0"}, "data.sha256"),
    ],
)
def test_places_that_do_not_go_together_are_named(data, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        Config.model_validate({"data": data})


def test_pictures_of_ones_own_have_other_defaults():
    config = Config.model_validate({"data": {"path": "photos", "size": 96}})
    assert (config.data.presize, config.data.size, config.data.batch_size) == (192, 96, 32)
    assert config.augment.do_flip
    assert not Config().augment.do_flip


@pytest.mark.parametrize(
    ("arch", "size", "expected"),
    [
        ("resnet18", None, (192, 128)),
        ("resnet18", 128, (192, 128)),
        ("resnet18", 64, (192, 64)),
        ("resnet18", 224, (336, 224)),
        ("resnet18", "100x225", (338, (100, 225))),
        ("resnet18", 4096, (4096, 4096)),
        ("vit_small_patch14_dinov2", None, (336, 224)),
        ("vit_base_patch16_224", 384, (576, 384)),
        ("vit_base_patch16_224", 160, (240, 160)),
        ("vit_base_patch16_224", 128, (192, 128)),
    ],
)
def test_presize_leaves_room_for_a_crop_whatever_the_size(arch, size, expected):
    data = {"path": "photos"} | ({"size": size} if size else {})
    config = Config.model_validate({"data": data, "model": {"arch": arch}})
    assert (config.data.presize, config.data.size) == expected
    assert "presize" not in config.data.model_fields_set
    digits = Config.model_validate({"data": {"size": 64}})
    assert digits.data.presize == 80


def test_a_path_is_kept_absolute_so_that_a_run_can_be_taken_up_from_elsewhere():
    assert Config.model_validate({"data": {"path": "photos"}}).data.path == Path.cwd() / "photos"
    for place, kept in (
        ("pets.zip", str(Path.cwd() / "pets.zip")),
        ("https://example.org/pets.zip", "https://example.org/pets.zip"),
    ):
        assert Config.model_validate({"data": {"archive": place}}).data.archive == kept


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        ("[data]\npresise = 50", "data.presise: no such setting; did you mean data.presize?"),
        ("colour = 1", "colour: no such setting"),
        ("[fit]\nepochs = 0", "fit.epochs = 0: should be greater than or equal to 1"),
        (
            f"[fit]\nepochs = {10**20}",
            f"fit.epochs = {10**20}: should be less than or equal to 1000000",
        ),
        ("[fit]\nepochs = 'x'", "fit.epochs = x: should be a valid integer"),
        ("[fit]\nlr = nan", "fit.lr = nan: should be a finite number"),
        ("[model]\narch = 'resnet19'", "should be resnet18, resnet34, resnet50"),
        (
            "[model]\nhead = 3",
            "model.head = 3: should be 'linear', 'concat_pool' or 'mean_pool'",
        ),
        (
            "[model]\nhead = 'lineal'",
            "head = lineal: should be one of linear, concat_pool, mean_pool; did you mean linear?",
        ),
        ("[data]\npresize = 30", "data.presize = 30 is below data.size = 32"),
        ("[augment]\nmin_zoom = 2.0", "augment.min_zoom = 2.0 is above augment.max_zoom = 1.1"),
        ("[fit]\nmoms = [0.9, 0.8, 1.0]", "each must be at least 0 and below 1"),
        ("data = 3", "data = 3: should be"),
        ("seed =", "not a TOML file"),
    ],
)
def test_a_bad_file_ends_in_one_line_that_names_the_key_and_what_is_allowed(toml, line, tmp_path):
    file = tmp_path / "bad.toml"
    file.write_text(toml)
    with pytest.raises(ConfigError) as caught:
        from_toml(file)
    assert line in str(caught.value)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml: there is no such configuration file"):
        from_toml(tmp_path / "nowhere.toml")


def test_differing_names_nested_settings():
    other = Config.model_validate({"fit": {"epochs": 6}, "seed": 3})
    assert differing(Config(), other) == ["fit.epochs", "seed"]


def test_a_path_that_toml_cannot_hold_is_refused():
    with pytest.raises(ValidationError, match="not valid UTF-8"):
        Config.model_validate({"data": {"path": "photos\udcff"}})


def test_a_home_that_nobody_has_is_one_line_with_what_was_meant():
    """For the path `~photos`, the error suggests `~/photos`; Python's own error names neither."""
    with pytest.raises(ConfigError, match="did you mean ~/no_such_user/x"):
        Config.model_validate({"data": {"path": "~no_such_user/x"}})
