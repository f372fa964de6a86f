"""What a trainer cannot obey is refused in one line, and changes nothing."""

import io
from dataclasses import replace

import flax.linen as nn
import numpy as np
import pytest
from rich.console import Console

import jaxch5 as jx
from jaxch5.errors import ConfigError, TrainingError
from jaxch5.training.events import Step


class Tiny(nn.Module):
    outputs: int = 3
    several: bool = False

    @nn.compact
    def __call__(self, x, train):
        logits = nn.Dense(self.outputs, name="head")(nn.Conv(4, (3, 3))(x).mean((1, 2)))
        return (logits, x) if self.several else logits


class Flat(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(3, name="head")(x.reshape(len(x), -1))


def data_of(*classes):
    images = np.random.default_rng(0).integers(0, 256, (24, 12, 12, 3), dtype=np.uint8)
    source = jx.from_arrays(images, np.arange(24) % len(classes), list(classes))
    return jx.DataBlock(source, jx.random_split(0.25), presize=12, size=8, augment=None).load(6)


@pytest.fixture
def learn():
    learn = jx.vision_learner(data_of("a", "b", "c"), Tiny(), "none")
    learn.console = Console(file=io.StringIO(), width=300)
    return learn


@pytest.mark.parametrize(
    ("model", "line"),
    [
        (Tiny(5), "^Tiny: has 5 outputs, but there are 3 classes: a, b, c; "),
        (Tiny(2), "^Tiny: has 2 outputs, but there are 3 classes"),
        (Tiny(several=True), r"^Tiny: returns a value of type tuple .* of shape \(1, 3\)$"),
    ],
)
def test_outputs_that_are_not_one_for_each_class_are_refused(model, line):
    with pytest.raises(ConfigError, match=line):
        jx.vision_learner(data_of("a", "b", "c"), model, "none")


@pytest.mark.parametrize("classes", [("c", "b", "a"), ("a", "b"), ("a", "b", "c", "d")])
def test_data_of_other_classes_are_refused(learn, classes):
    before = learn.data
    with pytest.raises(ConfigError, match=f"^data: has the classes {', '.join(classes)}, but "):
        learn.data = data_of(*classes)
    assert learn.data is before


def test_data_of_a_size_that_cannot_be_are_refused(learn):
    with pytest.raises(ConfigError, match=r"^presize = 12, size = 16: "):
        learn.data = replace(learn.data, size=16)
    learn.data = replace(learn.data, size=12)
    assert learn.data.size == 12
    flat = jx.vision_learner(data_of("a", "b", "c"), Flat(), "none")
    with pytest.raises(ConfigError, match="the weights of this network fit only size 8"):
        flat.data = replace(flat.data, size=12)


def test_what_a_learner_was_made_with_is_kept(learn):
    with pytest.raises(ConfigError, match=r"^recipe: .* make another in Python$"):
        learn.recipe = learn.recipe.replaced(wd=0.5)
    with pytest.raises(ConfigError, match=r"^model: "):
        learn.model = Tiny(3)


def test_fastais_names_cannot_be_set(learn):
    with pytest.raises(AttributeError, match=r"^Learner.dls: .* here it is learn.data$"):
        learn.dls = learn.data
    with pytest.raises(AttributeError, match=r"learn.recipe.metrics, which vision_learner sets"):
        learn.metrics = ("f1",)
    learn.note = "one's own name"


def test_a_hook_cannot_train_freeze_or_change_the_data(learn):
    """Each attempt is refused, and afterwards the learner is as it would be without the hook."""
    refused = []

    def hook(event):
        if isinstance(event, Step) and not refused:
            for call in (
                learn.freeze,
                lambda: learn.fit(1),
                lambda: setattr(learn, "data", learn.data),
            ):
                with pytest.raises(TrainingError, match="is not possible during fit") as error:
                    call()
                refused.append(error)

    learn.hooks = (hook,)
    learn.fit(1, 0.01)
    assert len(refused) == 3
    learn.freeze()
    learn.fit(1, 0.01)
    assert len(learn.records) == 2


@pytest.mark.parametrize(
    ("hooks", "line"),
    [
        (print, r"hooks = print: should be several functions; .*, as in hooks=\(print,\)"),
        (None, "hooks = None: should be several functions"),
        ("mine:tell", "hooks = mine:tell: should be several functions"),
        ((print, "mine:tell"), "hooks: 'mine:tell' should be a function that takes an event"),
    ],
)
def test_hooks_that_are_not_several_functions_are_refused(learn, hooks, line):
    """They are refused both when a learner is made and when its hooks are set later."""
    with pytest.raises(ConfigError, match=line):
        jx.vision_learner(learn.data, Tiny(), "none", hooks=hooks)
    with pytest.raises(ConfigError, match=line):
        learn.hooks = hooks
    assert learn.hooks == ()
    learn.hooks = iter([print])
    assert learn.hooks == (print,)
