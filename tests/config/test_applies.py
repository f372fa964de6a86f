"""A given setting either changes something or is refused in one line that names it."""

import io
import re
import tomllib
from functools import cache, partial
from typing import Literal, get_args, get_origin

import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from safetensors.numpy import save_file

from jaxch5.cli import Options, parse
from jaxch5.config.applies import NEUTRAL, RULES
from jaxch5.config.building import load_data, with_epochs
from jaxch5.config.section import LENIENT
from jaxch5.config.settings import Config, from_toml, to_toml
from jaxch5.config.toml import deep_update, flat, known_keys
from jaxch5.configured import learner_of, loss_of, train_as_configured
from jaxch5.errors import ConfigError, DataError
from jaxch5.learner import Learner
from jaxch5.models.registry import create_model
from jaxch5.models.weights import export_state_dict
from jaxch5.run.directory import create_run, open_run
from jaxch5.view import view_of

# All settings but two that name sources of pictures; the tests of these sources cover them.
KEYS = [key for key in known_keys(Config) if key not in ("data.archive", "data.tfds")]
SIZES = ("--data.presize", "10", "--data.size", "9", "--data.batch-size", "4")
# Settings that are always refused here, because they need one of those two sources, several devices
# or another architecture; other tests cover them.
ELSEWHERE = {"data.sha256", "data.tfds_dir", "model.bn", "model.drop_path", "fit.shard_optimizer"}
# Settings that have no effect alone, each with the arguments that are given along with it.
TOGETHER = {
    "model.mean": ["--model.std", "0.4,0.4,0.4"],
    "model.std": ["--model.mean", "0.4,0.4,0.4"],
}
# For each setting whose value may be an import path or a user's own name, two other values.
NAMES = {
    "fit.loss": ("cross_entropy", "focal"),
    "fit.class_weights": ("none", "balanced"),
    "data.pad_mode": ("reflection", "#ffffff"),
    "model.arch": ("resnet18", "resnet34"),
    "model.head": ("linear", "concat_pool"),
    "model.task": ("softmax", "sigmoid"),
}
# Settings that are accepted even if they ask for what happens anyway.
OBEYED = {"data.split"}


def field_of(key):
    model = Config
    for part in key.split("."):
        field = model.model_fields[part]
        model = field.annotation
    return field


def other_value(key, value, places):
    """Returns an allowed value of a setting other than `value`; fails for an unknown type."""
    if key in places:
        return places[key]
    kind = field_of(key).annotation
    if get_origin(kind) is Literal or key in NAMES:
        return next(word for word in NAMES.get(key, get_args(kind)) if word != value)
    if kind is bool:
        return not value
    if kind in (int, int | None):
        return (value or 0) + 1
    if kind is float:
        low = [mark.gt for mark in field_of(key).metadata if hasattr(mark, "gt")]
        return value / 2 if value else 0.01 + max([0, *low])
    raise AssertionError(f"{key}: say in this test what another value of it would be")


def words(key, value):
    """Returns the arguments that give the setting on a command line."""
    name = key.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Folders and tables of pictures, and other values that a setting's type does not suggest."""
    root = tmp_path_factory.mktemp("places")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(32):
        name, part = "ab"[number % 2], ("train", "valid")[number // 2 % 4 == 3]
        picture = Image.fromarray(rng.integers(0, 255, (9, 10, 3), np.uint8))
        for place in (
            f"flat/{name}",
            f"parts/{part}/{name}",
            f"parts/more/{name}",
            f"other/{name}",
        ):
            (root / place).mkdir(parents=True, exist_ok=True)
            picture.save(root / place / f"{number}_{'xy'[number % 3 > 0]}.png")
        file, valid = f"flat/{name}/{number}_{'xy'[number % 3 > 0]}.png", part == "valid"
        rows.append(f"{file},{name},{file.replace('flat', 'other')},{'xy'[number % 3 > 0]}")
        rows[-1] += f",{valid},{number < 8}\n"
    head = "image,label,image2,label2,is_valid,other\n"
    (root / "split.csv").write_text(head + "".join(rows))
    (root / "plain.csv").write_text(
        "".join(
            re.sub(",(True|False|is_valid),(True|False|other)\n", "\n", row)
            for row in [head, *rows]
        )
    )
    init = partial(create_model("resnet18", num_classes=3).init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), np.zeros((1, 8, 8, 3)))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    save_file(export_state_dict(zeros, "resnet18"), root / "weights.safetensors")
    # Another root below which the tables' paths exist too.
    (root / "elsewhere").mkdir()
    for place in ("flat", "other"):
        (root / "elsewhere" / place).symlink_to(root / place)
    return {
        "root": root,
        "sources": {
            "digits": [],
            "folder": ["--data.path", root / "flat"],
            "parts": ["--data.path", root / "parts"],
            "table": ["--data.path", root / "plain.csv"],
            "split table": ["--data.path", root / "split.csv"],
        },
        "data.path": root / "other",
        "data.pattern": r"\d+_(.)\.png",
        "data.image_column": "image2",
        "data.label_column": "label2",
        "data.root": root / "elsewhere",
        "data.split_column": "other",
        "data.tfds_dir": root,
        "data.sha256": "0" * 64,
        "model.weights": root / "weights.safetensors",
        "data.train": "more",
        "data.valid": "more",
        "data.range": "4095",
        "data.crop_pct": 0.9,
        "data.size": "9x8",
        "data.interpolation": "bicubic",
        "data.sampler": "balanced",
        "augment.max_zoom": 1.3,
        "fit.moms": (0.9, 0.8, 0.9),
        "fit.metrics": ("f1", "top_1"),
        "fit.best": "valid_loss",
        "fit.sizes": (8, 9),
        "hooks": ("builtins:print",),
        "model.mean": (0.5, 0.5, 0.5),
        "model.std": (0.5, 0.5, 0.5),
    }


class Listening(Learner):
    """Records the plans that it is given, instead of training."""

    def _fit(self, plans):
        self.plans = plans


# Settings that affect only the plans, not the learner.
OF_PLANS = ("epochs", "lr", "pct_start", "div", "div_final", "moms", "freeze_epochs", "lr_mult")
OF_PLANS += ("cycle_epochs",)


@cache
def learner_for(recipe):
    """Returns a learner that trains nothing, for a configuration in TOML.

    Learners are cached, because making one takes seconds. Of the state, only a sum and the shapes
    are kept, because the states of two hundred learners took 10 GB.
    """
    config = Config.model_validate(tomllib.loads(recipe), context={LENIENT: True})
    learn = learner_of(load_data(config), config)
    learn.__class__, learn.console = Listening, Console(file=io.StringIO())
    learn.weights = float(np.sum(np.asarray(jax.tree.leaves(learn.state.params)[0])))
    learn.state = jax.eval_shape(lambda: learn.state)
    return learn


def observed(config, with_learner):
    """Returns everything that a run would do, in a form that can be compared."""
    data = load_data(config)
    source = data.source
    seen = {
        "files": [source.file and str(source.file(item)) for item in range(len(source))],
        "classes": [source.classes[label] for label in source.labels],
        "train": data.train.items.tolist(),
        "valid": data.valid.items.tolist(),
        "reading": source.reading,
        "order": next(iter(data.train)).index.tolist(),
        "sizes": (data.presize, data.size, data.train.batch_size),
        "framing": data.framing,
        "augment": data.augment,
        "cache": data.cache,
        "on_bad": config.data.on_bad,
        "view": view_of(config.data.model_dump()),
    }
    if not with_learner:
        return seen
    plain = {name: getattr(Config().fit, name) for name in OF_PLANS}
    fit = config.fit.model_copy(update=plain)
    learn = learner_for(to_toml(config.model_copy(update={"fit": fit})))
    train_as_configured(learn, with_epochs(config, len(data.train.items)).fit)
    recipe = vars(learn.recipe) if hasattr(learn.recipe, "__dict__") else learn.recipe._asdict()
    # Functions cannot be compared, so their parts and results are compared instead.
    mix = recipe["mix"] and (recipe["mix"].func, recipe["mix"].keywords)
    logits = np.array([[2.0, -1.0], [0.5, 1.5]], np.float32)
    return seen | {
        "recipe": {name: value for name, value in recipe.items() if name not in ("loss", "mix")},
        "mix": mix,
        "loss": np.asarray(loss_of(config.fit)(logits, np.array([0, 0]))).tolist(),
        "model": repr(learn.model),
        "normalization": learn.normalization,
        "pretrained": learn.pretrained and learn.pretrained.origin,
        "groups": learn.groups.names,
        "weights": learn.weights,
        "saving": learn.saving,
        "log": (learn.log, learn.profile, learn.hooks),
        "plans": [
            (
                plan.name,
                plan.epochs,
                plan.frozen_to,
                [[*plan.rates(step), plan.momentum(step)] for step in range(plan.epochs)],
                [*plan.rates(plan.epochs * len(data.train) - 1)],
            )
            for plan in learn.plans
        ],
    }


def settings(argv):
    return parse(Options, [*map(str, argv)], "test").settings()


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_every_setting_changes_something_or_is_refused(key, places):
    """Another value of a setting changes what a run does, or is refused by name, in each context.

    It is refused in every context only if the setting is in ELSEWHERE. Contexts differ in the
    source of the pictures, the augmentation, the schedule, the loss or the task.
    """
    section = key.partition(".")[0]
    with_learner = section not in ("data", "augment") or key.startswith("augment.mix")
    contexts = {
        name: [*argv, *SIZES, "--model.weights", "none"] for name, argv in places["sources"].items()
    }
    base = contexts["folder"]
    if with_learner and key not in RULES:
        contexts = {"one_cycle": base}
    elif section in ("model", "fit"):
        contexts = {
            "one_cycle": base,
            "fine_tune": [*base, "--fit.schedule", "fine_tune"],
            "focal": [*base, "--fit.loss", "focal"],
            "sigmoid": [*base, "--model.task", "sigmoid"],
        }
        if section == "fit":
            others = ("flat_cosine", "triangular", "sgdr")
            contexts |= {name: [*base, "--fit.schedule", name] for name in others}
    elif key == "augment.mix_alpha":
        contexts = {"folder": base, "mix": [*base, "--augment.mix", "cutmix"]}
    elif section == "augment":
        still = ["--augment.p-affine", "0", "--augment.p-lighting", "0"]
        contexts |= {"flip": [*base, "--augment.do-flip"], "still": [*base, *still]}
    changed = []
    for name, argv in contexts.items():
        plain = settings(argv)
        value = other_value(key, flat(plain)[key], places)
        argv = [*(argv if key != "data.path" else argv[-len(SIZES) :]), *words(key, value)]
        argv += TOGETHER.get(key, [])
        try:
            after = observed(settings(argv), with_learner)
        except (ConfigError, DataError) as error:
            if not re.match(rf"{re.escape(key)} = |.*\bmore\b", str(error)):
                raise
            continue
        if value == NEUTRAL.get(key, ()) or key in OBEYED:
            changed.append(name)
            continue
        assert after != observed(plain, with_learner), f"{key} = {value} does nothing for {name}"
        changed.append(name)
    assert changed or key in ELSEWHERE


def test_a_complete_configuration_is_no_offence(tmp_path):
    """A run's file, which holds the values of all settings, is accepted as a configuration.

    This also holds if the command line changes the schedule or the source of the pictures.
    """
    for number, argv in enumerate(
        (
            [],
            ["--data.path", "photos"],
            ["--data.tfds", "pets", "--fit.schedule", "sgdr"],
            ["--data.path", "t.csv", "--fit.schedule", "fine_tune", "--fit.freeze-epochs", "3"],
        )
    ):
        config = settings(argv)
        file = create_run(config, tmp_path / str(number)).config_file
        assert from_toml(file) == config
        assert Config.model_validate(config.model_dump()) == config
        assert settings(["--config", file]) == config
        for schedule in ("one_cycle", "flat_cosine", "triangular", "sgdr", "fine_tune"):
            other = settings(["--config", file, "--fit.schedule", schedule])
            assert other.fit.schedule == schedule
            assert Config.model_validate(other.model_dump()) == other
        moved = settings(["--config", file, "--data.path", "elsewhere"])
        assert (moved.data.path.name, moved.data.tfds) == ("elsewhere", None)


def test_a_run_that_is_older_than_a_rule_can_be_read(tmp_path):
    """Opening a run drops recorded settings that have no effect; `--config` refuses them."""
    values = {"fit": {"schedule": "one_cycle", "freeze_epochs": 3}, "data": {"image_column": "x"}}
    recorded = tmp_path / "config.toml"
    recorded.write_text(to_toml(Config.model_validate(values, context={LENIENT: True})))
    assert open_run(tmp_path)[1] == Config.model_validate({"fit": {"schedule": "one_cycle"}})
    with pytest.raises(
        ConfigError, match=r"data\.image_column = x: only works with a table as data\.path"
    ):
        settings(["--config", recorded])


@pytest.mark.parametrize("key", ["fit.freeze_epochs", "fit.cycle_epochs", "augment.mix_alpha"])
def test_what_stands_on_the_command_line_was_meant_whatever_its_value(key):
    argv = words(key, flat(Config())[key])
    with pytest.raises(ConfigError, match=f"^{key} = "):
        settings(argv)
    section, name = key.split(".")
    values = deep_update({}, {section: {name: flat(Config())[key]}})
    assert Config.model_validate(values) == Config()


def test_weights_that_cannot_be_had_say_what_goes_with_them():
    said = []
    options = parse(Options, ["--data.path", "photos", "--fit.freeze-epochs", "3"], "test")
    config = options.settings_with_weights(said.append)
    assert (config.model.weights, config.fit.schedule, config.fit.freeze_epochs) == (
        "none",
        "one_cycle",
        1,
    )
    assert said[-1].startswith("fit.freeze_epochs = 3: only works with fit.schedule = fine_tune")


def test_what_a_file_has_for_weights_that_cannot_be_had_is_said_too(tmp_path):
    file, said = tmp_path / "x.toml", []
    file.write_text('[data]\npath = "photos"\n[fit]\nfreeze_epochs = 3\nlr_mult = 50.0\n')
    config = parse(Options, ["--config", str(file)], "test").settings_with_weights(said.append)
    assert (config.fit.freeze_epochs, config.fit.lr_mult) == (1, 100)
    assert [line.split(":")[0] for line in said[1:]] == [
        "fit.freeze_epochs = 3",
        "fit.lr_mult = 50.0",
    ]
