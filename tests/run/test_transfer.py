"""Training from existing weights takes the parts that fit, and refuses weights with faults."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from huggingface_hub import constants

from jaxch5.config.settings import Config
from jaxch5.errors import ConfigError, WeightsError
from jaxch5.models.pretrained import Pretrained
from jaxch5.models.registry import create_model
from jaxch5.models.spec import IMAGENET
from jaxch5.run.checkpoint import Checkpoints
from jaxch5.run.directory import create_run
from jaxch5.run.transfer import (
    available,
    describe,
    find_weights,
    from_run,
    load_weights,
    pretrained_of,
    transfer,
)
from jaxch5.training.recipe import Recipe
from jaxch5.training.state import init_state
from jaxch5.view import WHOLE, View

PETS = ("cat", "dog", "fish")
FORBIDDING = ["cc-by-nc-4.0", "cc-by-nc4.0", "cc_by_nc_4.0", "CC BY-NC-SA", "apple-amlr"]
FORBIDDING += [
    "non commercial",
    "fair-noncommercial",
    "research-only",
    "for research purposes only",
]
ALLOWING = ["apache-2.0", "ncsa", "cc-by-4.0", "sync", "dinov3-license", "openrail"]
ABOUT = {
    "arch": "resnet18",
    "classes": list(PETS),
    "frozen_to": 0,
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.6],
}


def variables_of(value, arch="resnet18", head="concat_pool", classes=PETS):
    def init(key):
        model = create_model(arch, len(classes), head)
        return model.init(key, jnp.zeros((1, 32, 32, 3)), train=False)

    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(lambda leaf: np.full(leaf.shape, value, leaf.dtype), shapes)


def pretrained(classes=PETS, **named):
    """Returns pretrained weights that are all 1."""
    return Pretrained(variables_of(1, classes=classes or PETS, **named), IMAGENET, classes, "there")


def origins(variables):
    """Returns the set of values in each part of each kind of variables."""
    return {
        (kind, name): set(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(part)]).tolist())
        for kind, parts in variables.items()
        for name, part in parts.items()
    }


@pytest.mark.parametrize(
    ("new", "old", "head_from"),
    [
        ({}, {}, 1),
        ({"classes": ("cat", "dog", "bird")}, {}, 0),
        ({"classes": ("Bär", "Kuh")}, {"classes": ("Ba\u0308r", "Kuh")}, 1),
        ({"classes": ("dog", "cat", "fish")}, {}, 0),
        ({"classes": ("cat", "dog")}, {}, 0),
        ({}, {"classes": None}, 0),
        ({}, {"head": "linear"}, 0),
        ({"head": "linear"}, {}, 0),
        ({"head": "linear"}, {"head": "linear"}, 1),
    ],
)
def test_the_body_is_taken_and_the_head_only_with_its_classes(new, old, head_from):
    """The head is taken if its kind, classes and their order are the same; otherwise it is new."""
    variables = variables_of(0, **new)
    taken, fate = transfer(variables, pretrained(**old), new.get("classes", PETS))
    assert ("their head is kept" in fate) == head_from
    assert jax.tree.structure(taken) == jax.tree.structure(variables)
    for (_, name), values in origins(taken).items():
        assert values == {head_from if name == "head" else 1}


@pytest.mark.parametrize("stated", ["", "linear", "mean_pool"])
@pytest.mark.parametrize("head", ["linear", "mean_pool"])
def test_a_head_on_the_class_token_does_not_become_one_on_the_mean(stated, head):
    """The two have the same shapes, and only what is stated tells them apart."""
    source = pretrained(head="linear")._replace(head=stated)
    taken, fate = transfer(variables_of(0, head="linear"), source, PETS, head)
    is_same = head == (stated or "linear")
    assert origins(taken)["params", "head"] == {1 if is_same else 0}
    assert ("their head is kept" in fate) == is_same


@pytest.mark.parametrize("stated", ["", "mlp"])
def test_a_head_of_ones_own_is_kept(stated):
    """If its kind is not stated, its shapes decide."""
    source = pretrained(head="linear")._replace(head=stated)
    taken, fate = transfer(variables_of(0, head="linear"), source, PETS, "mlp")
    assert origins(taken)["params", "head"] == {1}
    assert fate == "their head is kept: the same 3 classes"
    _, fate = transfer(variables_of(0), source, PETS, "mlp")
    assert fate == "a new head: theirs has other shapes"


def test_without_a_part_called_head_all_layers_are_kept():
    """The last layer is then one of the layers whose shapes have to fit."""
    parts = {"Dense_0": {"kernel": np.ones((3, 2))}, "Dense_1": {"kernel": np.ones((2, 2))}}
    source = Pretrained({"params": parts}, IMAGENET, None, "there")
    zeros = jax.tree.map(np.zeros_like, {"params": parts, "batch_stats": {}})
    taken, fate = transfer(zeros, source, PETS[:2])
    assert taken["params"] == parts
    assert fate == "all layers are kept, since no part of the network is called head"


def test_the_head_of_a_run_is_the_one_that_it_trained(tmp_path):
    path = run_with(tmp_path, [(4, 0.5)], conditions={"head": "mean_pool"})
    assert find_weights(path, "resnet18").head == "mean_pool"


@pytest.mark.parametrize(
    ("kind", "name"), [("params", "conv1"), ("params", "layer4_1"), ("batch_stats", "bn1")]
)
def test_a_missing_part_is_named(kind, name):
    source = pretrained()
    del source.variables[kind][name]
    with pytest.raises(WeightsError, match=f"^there: has no {name}$"):
        transfer(variables_of(0), source, PETS)


def test_a_part_of_another_shape_is_named():
    """Weights of another shape are refused at once and do not fail later in a compiled program."""
    with pytest.raises(
        WeightsError, match=r"^there: does not have the shapes needed for layer1_0$"
    ):
        transfer(variables_of(0), pretrained(arch="resnet50"), PETS)
    source = pretrained()
    source.variables["params"]["conv1"]["kernel"] = np.ones((3, 3, 3, 64), np.float32)
    with pytest.raises(WeightsError, match=r"^there: does not have the shapes needed for conv1$"):
        transfer(variables_of(0), source, PETS)


class Tiny(nn.Module):
    """A tiny network, since these tests only need checkpoints, whatever network they are of."""

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(3, name="head")(x.mean(axis=(1, 2)))


def full_of(value, tree):
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, value), tree)


def run_with(tmp_path, saves=(), keep_best=False, average=False, **about):
    """Creates a run with a checkpoint for each (step, accuracy), and returns its path.

    An accuracy of None stands for a save within an epoch. Every weight of a checkpoint equals its
    step, and every averaged weight equals its step plus 1.
    """
    path = tmp_path / "run"
    create_run(Config.model_validate({"fit": {"keep_best": keep_best}}), path)
    state = init_state(Tiny(), Recipe(average=0.9 * average), 8, jax.random.key(0))
    records = []
    with Checkpoints(path / "checkpoints") as checkpoints:
        for step, accuracy in saves:
            if accuracy is not None:
                records.append({"epoch": len(records), "accuracy": accuracy})
            state = state.replace(
                step=jnp.int32(step),
                params=full_of(step, state.params),
                average=full_of(step + 1, state.average),
            )
            checkpoints.save(state, records, accuracy is not None, ABOUT | about)
    return path


def step_of(found):
    (step,) = {value for values in origins(found.variables).values() for value in values}
    return step


def test_normalization_and_classes_travel_with_a_run(tmp_path):
    path = run_with(tmp_path, [(4, 0.5)])
    found = find_weights(str(path), "resnet18")
    assert found.normalization == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert found.classes == PETS
    assert found.origin == str(path)
    assert origins(load_weights(path, "resnet18")) == origins(found.variables)
    # A run of an earlier version does not record its view, and saw whole pictures.
    assert found.view == WHOLE


def test_what_evaluation_saw_travels_with_a_run(tmp_path):
    said = {"crop_pct": 0.9, "interpolation": "bicubic", "licence": "cc-by-nc-4.0"}
    said["conditions"] = {"size": "(64, 96)"}
    path = run_with(tmp_path, [(4, 0.5)], **said)
    assert find_weights(path, "resnet18").view == View(0.9, "bicubic")
    lines = []
    found = pretrained_of(path, "resnet18", None, lines.append, {"crop_pct": 0.8})
    lines.append(describe(found, "their head is kept"))
    assert found.view == View(0.8, "bicubic")
    assert "evaluation sees 0.8 of the short side, with a bicubic filter" in lines[0]
    assert "tested at 64x96 pixels; licence cc-by-nc-4.0, which forbids commercial" in lines[0]


@pytest.mark.parametrize("licence", FORBIDDING + ALLOWING)
def test_of_licences_those_whose_names_forbid_commercial_use_are_told(licence):
    line = describe(pretrained()._replace(licence=licence), "their head is kept")
    assert (f"licence {licence}, which forbids commercial" in line) == (licence in FORBIDDING)


@pytest.mark.parametrize(
    ("saves", "named", "step"),
    [
        ([(4, 0.9), (8, 0.5)], {}, 8),
        ([(4, 0.9), (8, 0.5)], {"keep_best": True}, 4),
        ([(4, 0.9), (6, None)], {"keep_best": True}, 4),
        ([(2, None)], {"keep_best": True}, 2),
        ([(4, 0.5)], {"average": True}, 5),
    ],
    ids=["last", "best", "earlier best", "no best yet", "average"],
)
def test_a_run_gives_what_it_ended_with(saves, named, step, tmp_path):
    path = run_with(tmp_path, saves, **named)
    found = from_run(path, "resnet18")
    assert step_of(found) == step
    accuracy = dict(saves)[step - named.get("average", 0)]
    assert found.record.get("accuracy") == accuracy


def test_a_damaged_last_checkpoint_has_neither_weights_nor_a_record(tmp_path, capsys):
    """The earlier checkpoint's weights and record are used, and a line on standard error says so.

    Nothing is printed on standard output, which may be a command's result.
    """
    path = run_with(tmp_path, [(4, 0.5), (8, 0.9)])
    for file in (path / "checkpoints" / "8" / "variables").iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    found = from_run(path, "resnet18")
    assert (step_of(found), found.record["accuracy"]) == (4, 0.5)
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith(f"{path}/checkpoints/8: is damaged: ")
    assert line.endswith("; using the earlier checkpoint of step 4")
    assert said.out == ""


def test_the_best_is_not_chosen_without_the_record_of_each_epoch(tmp_path):
    """The record that counts is the one in a checkpoint's description, which has a checksum."""
    path = run_with(tmp_path, [(4, 0.9), (8, 0.5)], keep_best=True)
    metrics = path / "checkpoints" / "4" / "metrics" / "metrics"
    metrics.write_bytes(metrics.read_bytes()[:10])
    assert step_of(from_run(path, "resnet18")) == 4
    (path / "checkpoints" / "4" / "about" / "metadata").write_bytes(b"{}")
    with pytest.raises(WeightsError, match=r"4: is damaged.*; it may be the best one: remove this"):
        from_run(path, "resnet18")
    shutil.rmtree(path / "checkpoints" / "4")
    assert step_of(from_run(path, "resnet18")) == 8


def test_a_run_of_another_architecture_is_named(tmp_path):
    path = run_with(tmp_path, [(4, 0.5)])
    with pytest.raises(WeightsError) as raised:
        from_run(path, "resnet34")
    line = f"{path}: is a run of resnet18, not resnet34 (--model.arch resnet18)"
    assert str(raised.value) == line


def test_a_run_without_a_checkpoint_is_named(tmp_path):
    """The error is the same whether a run never had checkpoints or their folder was deleted."""
    path = run_with(tmp_path)
    for _ in range(2):
        with pytest.raises(WeightsError, match=f"^{path}: this run has no checkpoint yet$"):
            from_run(path, "resnet18")
        shutil.rmtree(path / "checkpoints", ignore_errors=True)
    assert [file.name for file in path.iterdir()] == ["config.toml"]


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = run_with(tmp_path, [(4, 0.5)])
    shutil.rmtree(path / "checkpoints" / "4" / "variables")
    with pytest.raises(WeightsError, match=f"^{path}/checkpoints/4: is damaged: "):
        from_run(path, "resnet18")


def test_a_run_that_holds_an_export_is_still_a_run(tmp_path):
    """Its checkpoints may be newer than the export, and its pictures stay known."""
    path = run_with(tmp_path, [(4, 0.5)])
    (path / "model.safetensors").write_bytes(b"an export")
    found = find_weights(path, "resnet18")
    assert (step_of(found), found.origin) == (4, str(path))
    # Without its checkpoints, the export is all that it has.
    shutil.rmtree(path / "checkpoints")
    with pytest.raises(WeightsError, match=r"model\.safetensors: is cut short"):
        find_weights(path, "resnet18")


def test_a_checkpoint_with_impossible_colours_is_named(tmp_path):
    path = run_with(tmp_path, [(4, 0.5)], std=[0.0, 0.2, 0.2])
    with pytest.raises(WeightsError, match=rf"^{path}: std = .* above 0, for red, green and blue"):
        find_weights(path, "resnet18")


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        (variables_of(1)["params"], "have no collection params, .*; pass them as module.init ret"),
        ({}, "have no collection params"),
        ({"params": {"a": np.array([1, np.nan])}}, r"params\.a holds NaN or infinite numbers"),
    ],
)
def test_variables_that_cannot_be_weights_are_refused(variables, line):
    with pytest.raises(WeightsError, match=f"^the variables that were given: {line}"):
        pretrained_of(variables, "resnet18", None, print)


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(ConfigError, match=f"^{tmp_path}: is not a run directory"):
        find_weights(tmp_path, "resnet18")


def test_a_run_may_be_read_while_it_saves(tmp_path):
    """Reading a run does not delete what another process has begun to save."""
    path = run_with(tmp_path, [(4, 0.5)])
    unfinished = path / "checkpoints" / "8.orbax-checkpoint-tmp"
    unfinished.mkdir()
    (unfinished / "part").write_bytes(b"half of it")
    assert step_of(from_run(path, "resnet18")) == 4
    assert (unfinished / "part").exists()
    shutil.rmtree(path / "checkpoints" / "4" / "variables")
    with pytest.raises(WeightsError):
        from_run(path, "resnet18")
    assert (unfinished / "part").exists()


def test_auto_is_none_and_says_why_where_imagenets_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    name, line = available("resnet18")
    assert name == "none"
    assert line.startswith("no ImageNet weights, training from scratch: timm/resnet18")
    assert len(line.splitlines()) == 1
    with pytest.raises(WeightsError):
        load_weights("imagenet", "resnet18")
