"""The learner trains any module, gives the same result twice, and counts each picture once."""

import io
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jaxch5.augmentation.mixing import cutmix, mixup
from jaxch5.augmentation.policy import aug_transforms
from jaxch5.batch import without_labels
from jaxch5.data.block import DataBlock
from jaxch5.data.image import presize
from jaxch5.data.source import from_arrays
from jaxch5.data.split import random_split
from jaxch5.errors import ConfigError, DataError, TrainingError, WeightsError
from jaxch5.learner import vision_learner
from jaxch5.losses import cross_entropy
from jaxch5.models.registry import create_model
from jaxch5.results.predictor import load_learner
from jaxch5.training.loop import STEPS_BETWEEN_READS, Epoch, Plan, Step, fit
from jaxch5.training.recipe import Recipe

AUGMENT = aug_transforms(max_lighting=0.05)


class Tiny(nn.Module):
    """A network that compiles quickly, with batch norm and dropout like the real networks."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.Conv(4, (3, 3), strides=2)(x))
        x = nn.BatchNorm(use_running_average=not train)(x).mean((1, 2))
        return nn.Dense(2)(nn.Dropout(0.1, deterministic=not train)(x))


@pytest.fixture(scope="module")
def source():
    """100 pictures, the second class brighter than the first."""
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 2
    images = rng.integers(0, 156, (100, 12, 16, 3)) + 99 * labels[:, None, None, None]
    return from_arrays(images.astype(np.uint8), labels, ["dark", "bright"])


@pytest.fixture(scope="module")
def compiled(source):
    """A learner whose `again(0)` returns an untrained learner that shares its compiled programs."""
    return learner(source)


@pytest.fixture(scope="module")
def plain(source):
    """A learner like `compiled`, but without augmentation."""
    return learner(source, augment=None)


def learner(source, seed=0, cache="memory", augment=AUGMENT, batch_size=16, **kwargs):
    data = DataBlock(source, random_split(0.3), presize=12, size=8, augment=augment)
    data = data.load(batch_size, cache=cache)
    return vision_learner(data, Tiny(), seed=seed, **kwargs)


def train(learn, epochs=3, lr=3e-2):
    output = io.StringIO()
    learn.console = Console(file=output)
    learn.fit_one_cycle(epochs, lr)
    return output.getvalue()


def bits(state):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def test_it_learns_and_draws_a_table(compiled):
    learn = compiled.again(0)
    before = learn.validate()
    lines = train(learn, epochs=8).splitlines()
    assert len(lines) == 9
    assert learn.records[-1]["accuracy"] >= 0.9
    assert learn.records[-1]["valid_loss"] < before["valid_loss"]
    assert len(learn.records) == 8


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(source):
    states = []
    for seed in (0, 0, 1):
        learn = learner(source, seed)
        train(learn, epochs=2)
        states.append(bits(learn.state))
    assert states[0] == states[1]
    assert states[0] != states[2]


def test_validation_counts_each_picture_once(source, compiled):
    """The scores of 30 pictures in batches of 16 do not depend on the two rows of padding."""
    learn = compiled.again(0)
    train(learn, epochs=1)
    probabilities, labels = learn.get_preds()
    assert len(probabilities) == len(labels) == 30
    np.testing.assert_array_equal(labels, source.labels[learn.data.valid.items])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    scores = learn.validate()
    assert scores["accuracy"] == np.mean(probabilities.argmax(axis=1) == labels)
    likelihood = probabilities[np.arange(30), labels]
    assert scores["valid_loss"] == pytest.approx(-np.mean(np.log(likelihood)), rel=1e-4)
    assert scores == {key: learn.records[-1][key] for key in scores}


def test_a_loss_of_ones_own_is_trained_and_validated_with(source, plain):
    def tenfold(logits, labels):
        return 10 * cross_entropy(logits, labels)

    learn = learner(source, augment=None, loss=tenfold)
    assert learn.validate()["valid_loss"] == pytest.approx(10 * plain.validate()["valid_loss"])


def test_a_loss_that_is_no_number_ends_training_in_one_line(source):
    def no_number(logits, labels):
        return cross_entropy(logits, labels) * jnp.nan

    learn = learner(source, augment=None, loss=no_number)
    with pytest.raises(TrainingError, match="loss of steps 1 to 3 is nan and was never finite"):
        train(learn)


def events(learn, start_state, epochs=2):
    plan = Plan("fit", epochs, rates=lambda step: [0.01], momentum=lambda step: 0.9)
    copy = jax.tree.map(jnp.copy, start_state)
    return fit(copy, learn.data, plan, learn._steps, cross_entropy, learn._key)


def test_losses_are_read_back_only_every_few_steps(source):
    learn = learner(source, batch_size=3)
    happened = list(events(learn, learn.state))
    steps = [event for event in happened if isinstance(event, Step)]
    read = [event.number for event in steps if event.losses]
    assert read
    assert not any(number % STEPS_BETWEEN_READS for number in read)
    assert sum(len(event.losses) for event in happened) == len(steps)
    assert [event.number for event in steps] == list(range(1, len(steps) + 1))


def test_training_can_go_on_from_any_step(compiled):
    """Training resumed within an epoch ends with the same bits as training without a break.

    The recorded loss of that epoch is still the mean over all its steps.
    """
    learn = compiled.again(0)
    whole = list(events(learn, learn.state))
    halves = []
    for event in events(learn, learn.state):
        halves = [event.state]
        if isinstance(event, Step) and event.number == 6:
            break
    rest = list(events(learn, halves[0]))
    assert bits(rest[-1].state) == bits(whole[-1].state)
    losses = [
        [event.record["train_loss"] for event in part if isinstance(event, Epoch)]
        for part in (whole, rest)
    ]
    assert losses[0][1:] == losses[1]


def test_tta_is_the_mean_of_the_centre_and_of_the_draws(compiled):
    learn = compiled.again(0)
    train(learn, epochs=2)
    centre, labels = learn.get_preds()
    np.testing.assert_array_equal(learn.tta(0)[0], centre)
    one, _ = learn.tta(1)
    many, same_labels = learn.tta(3)
    np.testing.assert_array_equal(labels, same_labels)
    np.testing.assert_allclose(many.sum(axis=1), 1, atol=1e-5)
    assert np.abs(many - centre).max() > 1e-4
    drawn = 2 * one - centre
    assert (drawn > -1e-6).all()
    assert (drawn < 1 + 1e-6).all()
    np.testing.assert_array_equal(learn.tta(3)[0], many)
    with pytest.raises(ConfigError, match="-1"):
        learn.tta(-1)


@pytest.mark.parametrize("view", [{}, {"crop_pct": 0.5, "interpolation": "bicubic"}])
def test_tta_without_augmentation_is_what_evaluation_sees(plain, view):
    learn = vision_learner(plain.data, Tiny(), **view)
    np.testing.assert_array_equal(learn.tta(2)[0], learn.get_preds()[0])


@pytest.fixture
def compilations():
    """A list that gains an entry for each program that is compiled from now on."""
    made = []

    def listen(event, seconds, **others):
        if event == "/jax/core/compile/backend_compile_duration":
            made.append(others.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield made
    jax.monitoring.unregister_event_duration_listener(listen)


def test_predictions_in_a_loop_compile_once_whatever_is_trained_between_them(
    compiled, compilations
):
    """Predictions use the current weights; after further training, nothing is compiled again."""
    learn = compiled.again(0)
    picture = np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    batch = without_labels(*(part[None] for part in presize(picture, 12)))

    def expected():
        logits = learn._steps.evaluate(learn.state, enlarged(batch, 16))
        return jax.nn.softmax(logits)[0]

    def as_it_is():
        given = learn.predict(picture).probabilities
        np.testing.assert_allclose(given, expected(), atol=1e-5)
        np.testing.assert_allclose(learn.predictor().predict(picture).probabilities, given)
        return given

    def enlarged(batch, count):
        return jax.tree.map(lambda leaf: np.repeat(leaf, count, axis=0), batch)

    before = as_it_is()
    learn.freeze()
    train(learn, epochs=1)
    learn.unfreeze()
    train(learn, epochs=1)
    after = as_it_is()
    assert np.abs(after - before).max() > 1e-3
    compilations.clear()
    for number in range(5):
        learn.predict(picture[number:])
        learn.predict(Image.fromarray(picture))
        learn.predictor().predict(picture)
    train(learn, epochs=1)
    learn.predict(picture)
    assert not compilations


def test_looks_at_the_validation_set_compile_once(compiled, compilations):
    learn = compiled.again(0)
    for _ in range(2):
        compilations.clear()
        learn.tta(1), learn.get_preds(), learn.interpret(), learn.validate()
    assert not compilations


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_mixing_changes_training_and_still_learns(mix, source, plain):
    plain, mixed = plain.again(0), learner(source, augment=None, mix=mix)
    train(plain, epochs=8)
    train(mixed, epochs=8)
    assert bits(plain.state.params) != bits(mixed.state.params)
    assert mixed.records[-1]["train_loss"] > plain.records[-1]["train_loss"]
    assert mixed.records[-1]["accuracy"] > 0.8


def test_each_cache_trains_the_same(source):
    """Training gives the same bits with every cache, wherever the pictures are stored."""
    states = []
    for cache in ("off", "memory", "device"):
        learn = learner(source, cache=cache)
        train(learn)
        states.append(bits(learn.state))
    assert states[0] == states[1] == states[2]


def test_lr_find_suggests_and_leaves_the_learner_as_it_was(compiled):
    learn = compiled.again(0)
    train(learn, epochs=1)
    before, records = bits(learn.state), list(learn.records)
    rates = learn.lr_find(num_it=60, suggest_funcs=("valley", "minimum"))
    assert rates._fields == ("valley", "minimum")
    assert 1e-7 < rates.valley < 10
    assert bits(learn.state) == before
    assert learn.records == records
    assert len(learn.sweep.lrs) == len(learn.sweep.losses) == len(learn.sweep.smooth) <= 60
    assert learn.lr_find(num_it=60, suggest_funcs=("valley", "minimum")) == rates
    with pytest.raises(ConfigError, match="vally"):
        learn.lr_find(suggest_funcs=("vally",))


def test_training_after_lr_find_is_as_without_it(compiled):
    plain, swept = compiled.again(0), compiled.again(0)
    swept.lr_find(num_it=40)
    train(plain)
    train(swept)
    assert bits(plain.state) == bits(swept.state)


def test_a_module_of_ones_own_is_saved_and_loaded_as_ours_are(compiled, tmp_path):
    """A learner of a user's own module is saved, loaded and exported like a built-in network.

    Loading takes the module as an argument, because a file contains no code.
    """
    learn = compiled.again(0)
    train(learn, epochs=1)
    file = tmp_path / "tiny.safetensors"
    learn.save(file)
    loaded = load_learner(file, model=Tiny())
    picture = np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    expected = learn.predict(picture)
    given = loaded.predict(picture)
    assert (given.label, loaded.classes) == (expected.label, ("dark", "bright"))
    np.testing.assert_allclose(given.probabilities, expected.probabilities, atol=1e-6)
    learn.export(tmp_path / "tiny.stablehlo", "stablehlo")
    program = jax.export.deserialize(bytearray((tmp_path / "tiny.stablehlo").read_bytes()))
    square = picture[:12, :12]
    np.testing.assert_allclose(
        program.call(square[None])[0], loaded.predict(square).probabilities, atol=1e-5
    )


def test_a_module_of_ones_own_says_what_it_cannot_before_anything_is_written(compiled, tmp_path):
    class Other(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.Dense(2)(x.mean((1, 2)))

    class Wider(Tiny):
        @nn.compact
        def __call__(self, x, train):
            return nn.Dense(2)(x.reshape(len(x), -1))

    Wider.__name__ = "Tiny"
    learn = compiled.again(0)
    file = tmp_path / "tiny.safetensors"
    with pytest.raises(
        ConfigError, match="Tiny is a module of your own; choose stablehlo, or learner"
    ):
        learn.export(file)
    assert not file.exists()
    learn.save(file)
    for model, reason in (
        (None, r"Tiny, which is not one of resnet18.*load_learner\(path, model=\.\.\.\)"),
        (Other(), "has the architecture Tiny, not Other"),
        (Wider(), "has shape"),
        (create_model("resnet18", 2), "has the architecture Tiny, not resnet18"),
    ):
        with pytest.raises(WeightsError, match=reason) as error:
            load_learner(file, model=model)
        assert "\n" not in str(error.value)


def test_one_class_is_nothing_to_learn():
    """A set of a single class is refused, because every prediction on it would be right."""
    alike = from_arrays(np.zeros((40, 8, 8), np.uint8), np.zeros(40, int), ["dark"])
    with pytest.raises(DataError, match="holds one class only, dark; a classifier needs two"):
        learner(alike)


def test_a_recipe_and_arguments_by_name_or_by_place_say_the_same(plain):
    """`vision_learner` accepts the settings in a recipe, as keywords or by position."""
    said = Recipe(precision="bf16", train_bn=False, wd=0.1, metrics=("top_5",), clip=1.0)
    data = plain.data
    ways = [
        vision_learner(data, Tiny(), "none", recipe=said),
        vision_learner(data, Tiny(), "none", recipe=replace(said, wd=0.3), wd=0.1),
        vision_learner(
            data,
            Tiny(),
            "none",
            precision="bf16",
            train_bn=False,
            wd=0.1,
            metrics=("top_5",),
            clip=1.0,
        ),
        vision_learner(
            data,
            Tiny(),
            "none",
            "bf16",
            None,
            "auto",
            False,
            0.1,
            None,
            ("top_5",),
            clip=1.0,
        ),
    ]
    assert [learn.recipe for learn in ways] == [said] * 4


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("zzz", "see Recipe"),
        ("wdd", "did you mean wd"),
        ("normalisation", "normalization"),
    ],
)
def test_an_argument_that_there_is_not_names_the_nearest(name, nearest, plain):
    with pytest.raises(ConfigError, match=f"^{name}: there is no such argument; .*{nearest}"):
        vision_learner(plain.data, Tiny(), "none", **{name: 0.1})
