"""The environment records what may make two runs with the same configuration differ."""

import json

import jax

from jaxch5.run.environment import environment


def test_versions_and_device_are_named():
    said = json.loads(json.dumps(environment()))
    assert said["versions"]["jax"] == jax.__version__
    assert said["device"] == "cpu"
