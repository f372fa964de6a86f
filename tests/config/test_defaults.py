"""A setting has the same default in Python, in a file and on the command line."""

import ast
import inspect
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxch5
from jaxch5.augmentation.mixing import MIXERS
from jaxch5.cli import Options, parse
from jaxch5.config.building import policy_of
from jaxch5.config.cases import CASES
from jaxch5.config.settings import (
    AugmentConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    FitConfig,
    ModelConfig,
    from_toml,
    to_toml,
)
from jaxch5.config.toml import deep_update, flat
from jaxch5.data.block import DataBlock
from jaxch5.data.split import random_split
from jaxch5.learner import Learner
from jaxch5.losses import cross_entropy, focal_loss
from jaxch5.optim.optimizer import make_optimizer
from jaxch5.optim.schedule import (
    fine_tune_momentum,
    fine_tune_schedule,
    flat_cosine,
    one_cycle,
    one_cycle_momentum,
)
from jaxch5.pack import PackOptions
from jaxch5.run.hooks.checkpoints import Saving
from jaxch5.task import one_vs_rest, task_of
from jaxch5.training.plan import plans_of_fine_tune
from jaxch5.training.recipe import Recipe
from jaxch5.verify import VerifyOptions

PHOTOGRAPHS = {"data": {"path": "photos"}}


def section(name, **choice):
    """Returns a section of a configuration for photographs, with the given settings."""
    return getattr(Config.model_validate(deep_update(PHOTOGRAPHS, {name: choice})), name)


# The settings' names, keyed by the names of the parameters that they are passed to.
CALLED = {"label_smoothing": "label_smoothing", "alpha": "mix_alpha", "base_lr": "lr"}
# Parameters that mean something other than the setting of the same name. For example, `lr` is the
# rate of an optimizer that is used without a learner; a learner sets the rate before each step.
OTHER = {(make_optimizer, "lr"), (random_split, "seed")}
# For these parameters, None means the plan's default, which depends on whether the plan has two
# phases or one cycle.
OTHER |= {(Learner.fine_tune, n) for n in ("freeze_epochs", "lr_mult", "pct_start", "div")}
# A recipe distinguishes a head that was given from the default, as only a given one can be refused.
OTHER |= {(Recipe, "head")}
# The functions that settings are passed to, each with a section of a configuration for which the
# function is called.
FEEDS = [
    *((call, section("fit", schedule="one_cycle")) for call in (Learner.fit_one_cycle, one_cycle)),
    (one_cycle_momentum, section("fit", schedule="one_cycle")),
    *(
        (call, section("fit", schedule="fine_tune"))
        for call in (Learner.fine_tune, fine_tune_schedule, fine_tune_momentum, plans_of_fine_tune)
    ),
    (flat_cosine, section("fit", schedule="flat_cosine")),
    *((mixer, section("augment", mix=name)) for name, mixer in MIXERS.items()),
    (Recipe, section("fit")),
    (Recipe, section("model")),
    (one_vs_rest, section("model")),
    (task_of, section("model")),
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
    # In a configuration, a loss, a task and groups are chosen by name.
    and name not in ("loss", "task", "groups")
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


# Functions that pass the same parameters on to one another. The value of a default is written in
# only one of them, or in a constant that they share.
CHAINS = [
    {"learner:Learner.fit_one_cycle", "training.plan:plan_of_one_cycle"}
    | {"optim.schedule:one_cycle", "optim.schedule:one_cycle_momentum"},
    {"learner:Learner.fine_tune", "training.plan:plans_of_fine_tune"}
    | {"optim.schedule:fine_tune_schedule", "optim.schedule:fine_tune_momentum"},
    {"learner:Learner.lr_find", "training.lr_finder:find_lr", "training.lr_finder:sweep_rates"},
    {"optim.optimizer:make_optimizer", "training.recipe:Recipe", "training.step:make_train_step"},
    {"augmentation.policy:aug_transforms", "augmentation.policy:Policy"},
]
LITERALS_OF_THE_LIST = {
    # Settings whose own defaults are for the digits rather than for photographs, and settings that
    # are not parameters of any function in this package.
    *("presize", "size", "batch_size", "do_flip", "max_lighting", "max_warp", "min_scale"),
    *("weights", "head", "arch", "epochs", "schedule", "cycle_epochs", "loss", "mix", "task"),
    *("split", "on_bad", "log", "profile", "max_pixels"),
}


def defaults_in_source(function):
    """Returns the expressions of defaults in the source code, keyed by the parameters' names."""
    module, _, path = function.partition(":")
    file = Path(jaxch5.__file__).parent / f"{module.replace('.', '/')}.py"
    node = ast.parse(file.read_text())
    for name in path.split("."):
        (node,) = (each for each in node.body if getattr(each, "name", None) == name)
    if isinstance(node, ast.ClassDef):
        fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
        return {field.target.id: field.value for field in fields if field.value}
    arguments = reversed([*node.args.args, *node.args.kwonlyargs])
    values = reversed([*node.args.defaults, *node.args.kw_defaults])
    return {argument.arg: value for argument, value in zip(arguments, values, strict=False)}


@pytest.mark.parametrize("chain", CHAINS, ids=min)
def test_the_value_of_a_default_stands_once(chain):
    found = [defaults_in_source(function) for function in chain]
    for name in set(itertools.chain(*found)):
        expressions = [each[name] for each in found if name in each]
        expressions = [each for each in expressions if getattr(each, "value", 0) is not None]
        literals = [each for each in expressions if isinstance(each, ast.Constant | ast.Tuple)]
        assert not literals or len(expressions) == 1, name


def test_the_list_of_settings_has_no_value_that_a_function_has():
    module = ast.parse(Path(inspect.getfile(Config)).read_text())
    literals = {
        field.target.id
        for section in module.body
        if isinstance(section, ast.ClassDef)
        for field in section.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.value, ast.Call)
        for default in field.value.args[field.value.func.id == "setting" :][:1]
        if isinstance(default, ast.Constant) and default.value is not None
    }
    assert literals <= LITERALS_OF_THE_LIST


def test_a_default_is_read_without_its_function():
    """`--help` and errors in settings do not wait for jax or NumPy to be imported."""
    code = (
        "import sys, jaxch5.config.settings, jaxch5.lr_find; "
        "print({'jax', 'numpy'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"


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
    """Dictionaries, sections, both in any order, and the command line give equal configurations."""
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
def test_no_two_cases_differ_about_a_setting(values):
    """No setting has defaults in two cases that hold at once, so the cases' order has no effect."""
    given = flat(Config.model_validate(values))
    holding = [case.defaults for case in CASES if case.holds(given.get)]
    keys = [key for defaults in holding for key in defaults]
    assert len(set(keys)) == len(keys)


@given(st.fixed_dictionaries({}, optional=GIVEN), st.fixed_dictionaries({}, optional=GIVEN))
def test_a_copy_with_changes_is_what_one_would_have_made_with_them(values, changes):
    config = Config.model_validate(values)
    expected = Config.model_validate(deep_update(values, changes))
    copied = config.model_copy(update=changes)
    assert copied == expected
    as_sections = {name: getattr(expected, name) for name in changes}
    assert config.model_copy(update=as_sections) == expected
    assert copied.given() == expected.given()


def test_what_was_given_stays_in_a_copy_whatever_it_is():
    """A given value is kept in a copy, even if it equals the default.

    A setting that was not given gets the default that goes with the copy's other settings.
    """
    config = Config.model_validate({"fit": {"div": 25.0}})
    assert config.model_copy(update={"fit": {"schedule": "fine_tune"}}).fit.div == 25.0
    fit = Config().fit.model_copy(update={"schedule": "fine_tune"})
    assert (fit.div, Config().fit.div, fit.given()) == (5.0, 25.0, {"schedule": "fine_tune"})


@given(st.fixed_dictionaries({}, optional=GIVEN))
def test_a_complete_file_has_the_values_that_it_had(tmp_path_factory, values):
    """A file with all values is read as it was written, even if defaults have changed since."""
    file = tmp_path_factory.mktemp("config") / "config.toml"
    config = Config.model_validate(values)
    file.write_text(to_toml(config).replace("mix_alpha = 1.0", "mix_alpha = 0.4"))
    read = from_toml(file)
    assert read.augment.mix_alpha == 0.4
    assert read.fit == config.fit
    assert read.data == config.data
    assert read.model == config.model


@pytest.mark.parametrize("options", [PackOptions, VerifyOptions])
def test_an_argument_that_is_the_path_counts_as_one(options):
    """A path given as an argument has the same effect as `data.path`, on defaults too."""
    words = ["photos", "out"][: 1 + (options is PackOptions)]
    parsed = parse(options, words, "test")
    assert parsed.data.batch_size == parsed.settings().data.batch_size == 32
    assert parsed.settings() == Config.model_validate(PHOTOGRAPHS)
