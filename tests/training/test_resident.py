"""Calls of many steps train as single steps do, and training can be resumed at any step."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxch5.augmentation.policy import aug_transforms
from jaxch5.data.block import DataBlock
from jaxch5.data.source import from_arrays
from jaxch5.data.split import random_split
from jaxch5.learner import vision_learner
from jaxch5.losses import cross_entropy
from jaxch5.optim.schedule import one_cycle, one_cycle_momentum
from jaxch5.training.loop import Epoch, Plan, fit
from jaxch5.training.steps import compile_steps

EPOCHS, STEPS = 2, 19


class Tiny(nn.Module):
    """A network whose convolution has no bias.

    The batch norm would cancel a bias, whose gradient would be nothing but rounding. Adam would
    scale it up until it is as large as any other.
    """

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3), use_bias=False)(x)
        x = nn.BatchNorm(use_running_average=not train)(x).mean((1, 2))
        return nn.Dense(2)(x)


@pytest.fixture(scope="module")
def learn():
    """A learner with 19 steps per epoch, each with four pictures that are cached on the device."""
    images = np.random.default_rng(0).integers(0, 256, (86, 12, 12, 3), dtype=np.uint8)
    source = from_arrays(images, np.arange(86) % 2, ["a", "b"])
    block = DataBlock(source, random_split(0.1), presize=12, size=8, augment=aug_transforms())
    learn = vision_learner(block.load(4, cache="device"), Tiny(), clip=1.0)
    assert len(learn.data.train) == STEPS
    return learn


@pytest.fixture(scope="module")
def compiled(learn):
    both = learn._frozen.steps(learn.data, learn.normalization)
    return {
        resident: compile_steps(*both, learn.state, learn.data, learn._key, resident=resident)
        for resident in (False, True)
    }


def train(learn, steps, state=None, until=None, rate_late=0, momentum_late=0, key=None):
    """Trains, and returns all losses, epoch records, step numbers after each call, and the state.

    If `until` is given, training stops after that step, and only the state is returned.
    """
    state = jax.tree.map(jax.numpy.copy, learn.state if state is None else state)
    count = EPOCHS * STEPS
    rate, momentum = one_cycle(1e-2, count), one_cycle_momentum(count)
    plan = Plan(
        "plan",
        EPOCHS,
        lambda step: [rate(max(0, step - rate_late))],
        lambda step: momentum(max(0, step - momentum_late)),
    )
    losses, records, numbers = [], [], []
    for event in fit(
        state, learn.data, plan, steps, cross_entropy, learn._key if key is None else key
    ):
        losses += event.losses
        if isinstance(event, Epoch):
            records.append(event.record)
        else:
            numbers.append(event.number)
            if event.number == until:
                return jax.tree.map(jax.numpy.copy, event.state)
    return losses, records, numbers, jax.device_get(event.state)


# How much the losses of two training runs may differ, relative to their size, if only the order of
# addition differs: each step may add one rounding error, in its loss or through its weights.
ROUNDING = EPOCHS * STEPS * np.finfo(np.float32).eps


def apart(some, others):
    """Returns the largest difference between two lists of losses, relative to their size."""
    return np.max(np.abs(np.subtract(some, others)) / np.abs(others))


def test_the_losses_are_those_of_single_steps(learn, compiled):
    """In a call of many steps, each step has its own rate, momentum and random draws.

    Only the order of addition may differ from that of single steps.
    """
    assert compiled[False].many is None
    assert compiled[True].a_call == 2
    plain = train(learn, compiled[False])
    many = train(learn, compiled[True])
    assert len(many[0]) == EPOCHS * STEPS
    assert apart(many[0], plain[0]) <= ROUNDING
    for name in ("train_loss", "valid_loss"):
        assert apart(*([record[name] for record in of[1]] for of in (many, plain))) <= ROUNDING


@pytest.mark.parametrize(
    "change", [{"rate_late": 1}, {"momentum_late": 1}, {"key": jax.random.key(1)}], ids=str
)
def test_what_is_another_steps_is_no_rounding(learn, compiled, change):
    """A wrong rate, momentum or key changes the losses by far more than rounding does.

    So the bound of the test above would reveal a step that uses those of another step.
    """
    plain = train(learn, compiled[False])
    other = train(learn, compiled[False], **change)
    assert apart(other[0], plain[0]) > 10 * ROUNDING


def test_an_epoch_is_a_few_calls_and_single_steps_for_what_is_left(learn, compiled):
    _, _, numbers, _ = train(learn, compiled[True])
    of_epoch = [*range(2, STEPS, 2), STEPS]
    assert numbers == of_epoch + [STEPS + number for number in of_epoch]


@pytest.mark.parametrize("until", [8, STEPS, STEPS + 4])
def test_training_taken_up_between_calls_ends_with_the_same_bits(learn, compiled, until):
    _, _, _, expected = train(learn, compiled[True])
    state = train(learn, compiled[True], until=until)
    _, _, _, after = train(learn, compiled[True], state)
    for got, wanted in zip(jax.tree.leaves(after), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_training_taken_up_within_a_call_goes_step_by_step_to_the_next(learn, compiled):
    state = train(learn, compiled[False], until=5)
    _, _, numbers, _ = train(learn, compiled[True], state)
    assert numbers[:4] == [6, 8, 10, 12]
    assert numbers[-1] == EPOCHS * STEPS


def test_a_cpu_goes_step_by_step(learn):
    """A CPU runs single steps, even with cached pictures, because a scan over steps is slower."""
    assert learn._steps.many is None


def test_the_set_on_the_device_is_not_counted_as_of_the_batch(learn):
    """The pictures cached on the device count as memory that does not depend on the batch size.

    Otherwise, the number of pictures that fit in a batch would be underestimated.
    """
    images, frames = learn.data.train.on_device
    assert learn._steps.need.fixed >= images.nbytes + frames.nbytes
