"""A default is one, wherever it is asked for: in Python, in a file, on the command line."""

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxch5.augmentation.mixing import MIXERS
from jaxch5.augmentation.policy import Policy, aug_transforms
from jaxch5.cli import Options, parse
from jaxch5.config import (
    AugmentConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    FitConfig,
    ModelConfig,
    from_toml,
    to_toml,
)
from jaxch5.data.block import DataBlock
from jaxch5.data.from_config import policy_of
from jaxch5.data.split import random_split
from jaxch5.learner import Learner, vision_learner
from jaxch5.losses import cross_entropy, focal_loss
from jaxch5.optim.optimizer import make_optimizer
from jaxch5.optim.schedule import (
    fine_tune_momentum,
    fine_tune_schedule,
    flat_cosine,
    one_cycle,
    one_cycle_momentum,
)
from jaxch5.run.hooks.checkpoints import Saving
from jaxch5.settings import deep_update
from jaxch5.training.plan import plans_of_fine_tune
from jaxch5.training.recipe import Recipe

PHOTOGRAPHS = {"data": {"path": "photos"}}


def section(name, **choice):
    """A section of a configuration for photographs in which something is chosen."""
    return getattr(Config.model_validate(deep_update(PHOTOGRAPHS, {name: choice})), name)


# What a setting is called where it goes to, and what is another thing by the same name.
CALLED = {"label_smoothing": "label_smoothing", "alpha": "mix_alpha", "base_lr": "lr"}
# An optimizer of one's own begins at its momentum and rate; a learner sets both before each step.
OTHER = {(make_optimizer, "lr"), (vision_learner, "weights"), (random_split, "seed")}
# The functions that settings go to, each with the section as it is where the function is called.
FEEDS = [
    *((call, section("fit", schedule="one_cycle")) for call in (Learner.fit_one_cycle, one_cycle)),
    (one_cycle_momentum, section("fit", schedule="one_cycle")),
    *(
        (call, section("fit", schedule="fine_tune"))
        for call in (Learner.fine_tune, fine_tune_schedule, fine_tune_momentum, plans_of_fine_tune)
    ),
    (flat_cosine, section("fit", schedule="flat_cosine")),
    *((mixer, section("augment", mix=name)) for name, mixer in MIXERS.items()),
    (vision_learner, section("fit")),
    (vision_learner, section("model")),
    (Recipe, section("fit")),
    (Recipe, section("model")),
    (make_optimizer, section("fit")),
    (cross_entropy, section("fit")),
    (focal_loss, section("fit", loss="focal")),
    (Saving, section("fit")),
    (Saving, CheckpointConfig()),
    (random_split, section("data")),
]
SHARED = [
    (call, settings, name)
    for call, settings in FEEDS
    for name in inspect.signature(call).parameters
    if CALLED.get(name, name) in type(settings).model_fields
    and inspect.signature(call).parameters[name].default is not inspect.Parameter.empty
    and (call, name) not in OTHER
    # A loss, or groups, are chosen by name in a configuration.
    and name not in ("loss", "groups")
]


@pytest.mark.parametrize(
    ("call", "settings", "name"),
    SHARED,
    ids=[f"{call.__qualname__}-{name}" for call, _, name in SHARED],
)
def test_a_setting_and_the_argument_that_it_goes_to_have_one_default(call, settings, name):
    default = inspect.signature(call).parameters[name].default
    assert getattr(settings, CALLED.get(name, name)) == default


def test_the_defaults_that_are_compared_are_many():
    assert len(SHARED) > 45


def test_the_policy_of_photographs_is_the_data_blocks():
    assert (
        policy_of(section("augment")) == DataBlock.__dataclass_fields__["augment"].default_factory()
    )
    assert aug_transforms() == Policy()


GIVEN = {
    "data": st.sampled_from([{}, {"path": "photos"}, {"path": "photos", "size": 96}]),
    "augment": st.sampled_from([{}, {"mix": "cutmix"}, {"mix": "mixup"}, {"max_warp": 0.0}]),
    "model": st.sampled_from([{}, {"weights": "imagenet"}, {"weights": "none"}]),
    "fit": st.sampled_from(
        [{}, {"schedule": "flat_cosine"}, {"schedule": "fine_tune"}, {"lr": 0.1}]
    ),
}
SECTIONS = {"data": DataConfig, "augment": AugmentConfig, "model": ModelConfig, "fit": FitConfig}


@given(st.fixed_dictionaries({}, optional=GIVEN), st.randoms(use_true_random=False))
def test_however_a_configuration_is_made_it_is_the_same(values, random):
    """Of dictionaries, of sections, of both in any order, of a file, and on the command line."""
    expected = Config.model_validate(values)
    names = list(values)
    random.shuffle(names)
    mixed = {
        name: SECTIONS[name](**values[name]) if random.random() < 0.7 else values[name]
        for name in names
    }
    assert Config(**mixed) == expected
    assert Config.model_validate(mixed) == expected
    words = [
        word
        for name, settings in values.items()
        for key, value in settings.items()
        for word in (f"--{name}.{key.replace('_', '-')}", str(value))
    ]
    assert parse(Options, words, "test").settings() == expected


@given(st.fixed_dictionaries({}, optional=GIVEN))
def test_a_complete_file_has_the_values_that_it_had(tmp_path_factory, values):
    """Whatever the defaults have become since it was written."""
    file = tmp_path_factory.mktemp("config") / "config.toml"
    config = Config.model_validate(values)
    file.write_text(to_toml(config).replace("mix_alpha = 1.0", "mix_alpha = 0.4"))
    read = from_toml(file)
    assert read.augment.mix_alpha == 0.4
    assert read.fit == config.fit
    assert read.data == config.data
    assert read.model == config.model
