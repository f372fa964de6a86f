"""Addresses in a configuration keep both slashes; paths stay paths."""

from pathlib import Path

import pytest

from jaxch5.config.settings import Config, from_toml, to_toml
from jaxch5.util.address import Address


def path_of(value):
    return Config.model_validate({"data": {"path": value}}).data.path


@pytest.mark.parametrize("address", ["s3://bucket/flowers", "gs://bucket/a b", "https://host/x"])
def test_an_address_is_left_as_it_is(address):
    path = path_of(address)
    assert isinstance(path, Address)
    assert path == address
    assert path.name == address.rpartition("/")[2]


@pytest.mark.parametrize("given", ["photos", Path("photos")])
def test_a_path_is_a_path_and_absolute(given):
    assert path_of(given) == Path("photos").absolute()


def test_an_address_survives_the_file_of_a_run(tmp_path):
    config = Config.model_validate({"data": {"path": "s3://bucket/flowers"}})
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config))
    assert from_toml(file) == config
    assert isinstance(from_toml(file).data.path, Address)
