"""A run is resumed only under the conditions that it began with; an error names what differs."""

import io
from dataclasses import dataclass, replace
from functools import partial

import flax.linen as nn
import jax
import numpy as np
import pytest
from rich.console import Console

import jaxch5 as jx
from jaxch5.config.settings import Config
from jaxch5.configured import recipe_of
from jaxch5.data.sampler import balanced
from jaxch5.errors import CheckpointError, ConfigError
from jaxch5.run.checkpoint import Checkpoints, StoredCheckpoints
from jaxch5.run.conditions import CONDITIONS, about_run, check_conditions
from jaxch5.run.directory import create_run
from jaxch5.training.recipe import Recipe


class Tiny(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(2, name="head")(nn.Conv(4, (3, 3))(x).mean((1, 2)))


def data_of(batch_size=8, seed=0, **settings):
    images = np.random.default_rng(0).integers(0, 256, (50, 12, 12, 3), dtype=np.uint8)
    source = jx.from_arrays(images, np.arange(50) % 2, ["a", "b"])
    how = {"presize": 12, "size": 8, "augment": None} | settings
    return jx.DataBlock(source, jx.random_split(0.2), **how).load(batch_size, seed=seed)


def learner(data=None, **settings):
    learn = jx.vision_learner(data or data_of(), Tiny(), **settings)
    learn.console = Console(file=io.StringIO())
    return learn


def saved(learn, path, about):
    """Returns a run with a checkpoint of the learner's state, which `about` describes."""
    run = create_run(Config(), path)
    with Checkpoints(run.checkpoints) as saves:
        saves.save(learn.state, [], epoch_done=False, about=about)
    return run


@pytest.fixture(scope="module")
def learn():
    return learner()


@pytest.fixture(scope="module")
def run(learn, tmp_path_factory):
    return saved(learn, tmp_path_factory.mktemp("runs") / "run", learn._about())


@pytest.fixture(scope="module")
def older(learn, tmp_path_factory):
    """A run like those of versions that did not record the conditions."""
    about = learn._about()
    del about[CONDITIONS]
    return saved(learn, tmp_path_factory.mktemp("runs") / "older", about)


def halved(logits, labels):
    return jx.cross_entropy(logits, labels) / 2


@dataclass(frozen=True)
class Scaled:
    by: float = 1.0

    def __call__(self, logits, labels):
        return self.by * jx.cross_entropy(logits, labels)


def described(learn, recipe=None, data=None, seed=0):
    rest = (
        recipe or Recipe(),
        data or learn.data,
        seed,
        learn.normalization,
        learn.view,
        learn.licence,
    )
    return about_run(learn.model, learn.spec, 0, *rest)


def compare(then, now, learn, tmp_path):
    run = saved(learn, tmp_path / "compared", then)
    check_conditions(StoredCheckpoints(run.checkpoints), 0, now)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"optimizer": "sgd"}, "has optimizer adam, not sgd; resume a run with the network"),
        ({"average": 0.9}, r"has average 0, not 0\.9"),
        ({"accumulate": 2}, "has accumulate 1, not 2"),
        ({"precision": "fp16"}, "has precision fp32, not fp16"),
        ({"seed": 1}, "has seed 0, not 1"),
        ({"mix": jx.mixup}, "has mix None, not mixup"),
        ({"layer_decay": 0.5}, r"has layer_decay 1, not 0\.5"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_differs_is_named_and_the_learner_stays_as_it_was(settings, words, run):
    other = learner(**settings)
    before = jax.device_get(other.state)
    with pytest.raises(ConfigError, match=f"^{run.checkpoints}/0: {words}"):
        other.restore(run)
    jax.tree.map(np.testing.assert_array_equal, other.state, before)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 5}, "has batch_size 8, not 5"),
        ({"seed": 3}, "has shuffle_seed 0, not 3"),
        ({"size": 12}, "has size 8, not 12"),
        ({"size": (8, 12)}, r"has size 8, not \[8, 12\]"),
        ({"presize": 16}, "has presize 12, not 16"),
        ({"method": "squish"}, "has method crop, not squish"),
        ({"sampler": balanced}, "has sampler shuffled, not balanced"),
        ({"augment": jx.aug_transforms()}, "has augment None, not Policy"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_other_batches_are_named(settings, words, learn, run):
    now = described(learn, data=data_of(**settings))
    with pytest.raises(ConfigError, match=words):
        check_conditions(StoredCheckpoints(run.checkpoints), 0, now)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"wd": 0.1}, r"has wd 0\.01, not 0\.1"),
        ({"clip": 1}, "has clip 0, not 1"),
        ({"loss": halved}, "has loss cross_entropy, not halved"),
        ({"loss": Scaled(2)}, r"has loss cross_entropy, not Scaled\(by=2\)"),
        (
            {"loss": partial(jx.cross_entropy, label_smoothing=0.1)},
            r"has loss cross_entropy, not cross_entropy\(label_smoothing=0\.1\)",
        ),
        (
            {"task": replace(jx.single_label(), best=jx.single_label().best._replace(
                metric="error_rate", direction="lowest"))},
            r"has best \[accuracy, highest\], not \[error_rate, lowest\]",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_another_recipe_is_named(settings, words, learn, run):
    now = described(learn, Recipe(**settings))
    with pytest.raises(ConfigError, match=words):
        check_conditions(StoredCheckpoints(run.checkpoints), 0, now)


def test_another_strength_of_augmentation_is_named(learn, tmp_path):
    then, now = (
        described(learn, data=data_of(augment=jx.aug_transforms(max_rotate=angle)))
        for angle in (10, 20)
    )
    with pytest.raises(ConfigError, match="has max_rotate 10, not 20"):
        compare(then, now, learn, tmp_path)


def test_what_does_not_change_the_result_may_differ(learn, run):
    """Values may be written in another way, and settings for memory and devices may differ.

    An argument that has its default value counts as if it were left out, because a command passes
    such arguments and a script need not.
    """
    ways = (
        {"remat": True, "devices": 1, "shard_optimizer": True, "metrics": ("top_5",)},
        {"loss": partial(jx.cross_entropy, label_smoothing=0.0)},
        {"wd": np.float64(0.01), "average": 0, "groups": "fastai"},
    )
    for settings in ways:
        now = described(learn, Recipe(**settings), seed=np.int64(0))
        check_conditions(StoredCheckpoints(run.checkpoints), 0, now)
    # A command has the same defaults as the Python interface.
    by_command = described(learn, recipe_of(Config.model_validate({"fit": {"wd": 0.01}})))
    assert by_command[CONDITIONS] == described(learn)[CONDITIONS]


@pytest.mark.parametrize("bn", ["local", "global"])
def test_the_number_of_devices_is_named_if_batch_norms_depend_on_it(bn, learn, tmp_path):
    eight, one = (replace(learn.data, devices=devices) for devices in (8, 1))
    then, now = (described(learn, Recipe(bn=bn), data=data) for data in (eight, one))
    if bn == "global":
        return compare(then, now, learn, tmp_path)
    with pytest.raises(ConfigError, match="has devices 8, not 1; resume a run with"):
        compare(then, now, learn, tmp_path)


def test_the_default_mixing_of_a_command_is_that_of_python(learn):
    config = Config.model_validate({"augment": {"mix": "mixup"}})
    assert recipe_of(config).mix is not jx.mixup
    texts = [
        described(learn, recipe)[CONDITIONS]["mix"]
        for recipe in (recipe_of(config), Recipe(mix=jx.mixup))
    ]
    assert texts == ["mixup", "mixup"]


def test_a_run_with_the_same_conditions_is_restored(learn, run):
    other = learner()
    other.state = other.state.replace(step=other.state.step + 3)
    assert other.restore(run)
    jax.tree.map(np.testing.assert_array_equal, other.state, learn.state)


def test_a_run_of_an_earlier_version_is_restored(learn, older):
    """Its conditions are not known, so they are not compared."""
    other = learner(seed=1, wd=0.1)
    assert other.restore(older)
    jax.tree.map(np.testing.assert_array_equal, other.state.params, learn.state.params)


def test_a_state_of_other_settings_is_not_called_damaged(older):
    """The error names the settings instead, even if the run did not record its conditions."""
    for settings in ({"optimizer": "sgd"}, {"average": 0.9}, {"precision": "fp16"}):
        with pytest.raises(ConfigError, match=r"saved with other settings \(.*optimizer, av"):
            learner(**settings).restore(older)


def test_damage_is_still_called_damage(learn, tmp_path):
    run = saved(learn, tmp_path / "run", learn._about())
    (run.checkpoints / "0" / "rest" / "arrays.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"/0: is damaged: .*begin a new run"):
        learner().restore(run)
