"""`--data.size weights` becomes the size that the weights were tested at, or is refused."""

import json
import subprocess
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save_file

from jaxch5.cli import Options, parse
from jaxch5.config.settings import from_toml
from jaxch5.errors import ConfigError
from jaxch5.run.checkpoint import Checkpoints
from jaxch5.run.directory import create_run
from jaxch5.training.recipe import Recipe
from jaxch5.training.state import init_state

TRAIN = "jaxch5 train"


class Tiny(nn.Module):
    """A network that is small enough to be initialized quickly."""

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(2, name="head")(x.mean((1, 2)))


@pytest.fixture
def weights(tmp_path):
    """A file of weights whose metadata has a size, and colours that contradict its config.json."""
    path = tmp_path / "weights.safetensors"
    metadata = {"size": "[64, 288]", "mean": "[0.5, 0.5, 0.5]", "std": "[0.5, 0.5, 0.5]"}
    save_file({"a": np.zeros(1, np.float32)}, path, metadata)
    said = {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(said))
    return path


def parsed(weights, *argv, prog=TRAIN):
    words = ["--data.path", "photos", "--model.weights", str(weights), *argv]
    return parse(Options, words, prog).settings()


def test_the_size_is_the_one_that_is_stated_and_the_presize_follows_it(weights, tmp_path):
    """The size is recorded as a number. What else the weights state does not matter for it."""
    config = parsed(weights, "--data.size", "weights")
    assert (config.data.size, config.data.presize) == ((64, 288), 432)
    assert from_toml(create_run(config, tmp_path / "run").config_file).data.size == (64, 288)
    stated = parsed(weights, "--data.size", "weights", "--data.presize", "300")
    assert (stated.data.size, stated.data.presize) == ((64, 288), 300)


def test_a_folder_and_a_run_state_their_sizes_too(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file({"a": np.zeros(1, np.float32)}, folder / "model.safetensors")
    said = {"architecture": "resnet18", "pretrained_cfg": {"test_input_size": [3, 160, 160]}}
    (folder / "config.json").write_text(json.dumps(said))
    assert parsed(folder, "--data.size", "weights").data.size == 160

    run = create_run(parsed("none"), tmp_path / "run")
    state = init_state(Tiny(), Recipe(), 8, jax.random.key(0))
    with Checkpoints(run.checkpoints) as checkpoints:
        about = {"arch": "resnet18", "conditions": {"size": "96"}}
        checkpoints.save(state, [], False, about)
    assert parsed(run.path, "--data.size", "weights").data.size == 96
    # An export within the run's folder does not make it a folder of weights.
    save_file({"a": np.zeros(1, np.float32)}, run.path / "model.safetensors")
    assert parsed(run.path, "--data.size", "weights").data.size == 96


def test_a_file_of_settings_may_have_it_and_the_command_line_takes_precedence(weights, tmp_path):
    file = tmp_path / "settings.toml"
    fit = '[fit]\nschedule = "fine_tune"\nfreeze_epochs = 3\n'
    file.write_text(f'[data]\nsize = "weights"\n{fit}')
    of_file = ["--config", str(file)]
    assert parsed(weights, *of_file).data.size == (64, 288)
    assert parsed(weights, *of_file, "--data.size", "96").data.size == 96
    # As with any other size, settings that belong to the file's schedule are left out.
    file.write_text(fit)
    of_file += ["--fit.schedule", "one_cycle"]
    assert parsed(weights, *of_file, "--data.size", "weights").data.size == (64, 288)
    # A command that reads no size does without it, unless its presize follows the size.
    file.write_text(f'[data]\nsize = "weights"\n[model]\nweights = "{weights}"\n')
    argv = ["--config", str(file), "--data.path", "photos"]
    assert parse(Options, argv, "jaxch5 verify").settings().data.size == 128
    assert parse(Options, argv, "jaxch5 show").settings().data.size == (64, 288)
    assert parse(Options, argv, "jaxch5 pack").settings().data.presize == 432
    argv += ["--data.presize", "300"]
    assert parse(Options, argv, "jaxch5 pack").settings().data.presize == 300
    # Which weights training will begin from is not guessed.
    file.write_text('[data]\nsize = "weights"\n')
    assert parse(Options, argv[:-2], "jaxch5 pack").settings().data.presize == 192
    with pytest.raises(ConfigError, match="jaxch5 show does not know which weights are meant; cho"):
        parse(Options, argv[:-2], "jaxch5 show")


def test_it_is_refused_if_no_size_is_stated_or_no_weights_are_meant(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    unstated = tmp_path / "unstated.safetensors"
    save_file({"a": np.zeros(1, np.float32)}, unstated)
    for weights, reason in {
        "none": "there are no weights (--model.weights)",
        "auto": "no ImageNet weights: timm/resnet18.tv_in1k: the hub cannot be reached",
        unstated: f"the size at which {unstated} was tested is not known",
    }.items():
        with pytest.raises(
            ConfigError, match=r"; choose a number, as in --data\.size 224$"
        ) as told:
            parsed(weights, "--data.size", "weights")
        assert str(told.value).startswith(f"data.size = weights: {reason}")
    argv = ["--data.path", "photos", "--data.size", "weights"]
    with pytest.raises(ConfigError, match="jaxch5 show does not know which weights are meant; cho"):
        parse(Options, argv, "jaxch5 show")


def test_jax_is_not_started_for_it(weights):
    """Otherwise the settings of the process, and other processes to join, would come too late."""
    program = (
        "import sys; from jaxch5.cli import Options, parse\n"
        "print(parse(Options, sys.argv[1:], 'jaxch5 train').data.size)\n"
        "from jax._src import xla_bridge\n"
        "sys.exit(xla_bridge.backends_are_initialized())"
    )
    argv = ["--data.size", "weights", "--model.weights", str(weights)]
    command = [sys.executable, "-c", program, *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "(64, 288)\n"), done.stderr
