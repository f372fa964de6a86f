"""A user's own network can do all that a ResNet does, though the package does not know it."""

import io
import json
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict
from rich.console import Console
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import jaxch5 as jx
from jaxch5.cli import run
from jaxch5.config.settings import Config
from jaxch5.errors import ConfigError, Jaxch5Error, WeightsError
from jaxch5.evaluate import EvaluateOptions, evaluate
from jaxch5.export import ExportOptions, export
from jaxch5.models import registry
from jaxch5.models.layers import HEADS
from jaxch5.models.pretrained import from_file
from jaxch5.models.spec import with_frozen_stages
from jaxch5.optim.optimizer import with_hyperparams
from jaxch5.predict import PredictOptions, predict
from jaxch5.run.directory import create_run, open_run
from jaxch5.run.transfer import find_weights
from jaxch5.train import TrainOptions, train
from jaxch5.transfer_profile import ProfileOptions, transfer_profile

# The file that a user writes: a network with three stages, a layer norm, and its own names in the
# state dict.
NETS = """
import flax.linen as nn
import jaxch5 as jx

PARTS = {"patch": "embed.proj", "mixer_norm": "mix.ln", "mixer_up": "mix.fc", "head": "cls"}


class Mixer(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(8, (4, 4), 4, name="patch")(x)
        x = nn.LayerNorm(name="mixer_norm")(x)
        x = nn.gelu(nn.Dense(16, name="mixer_up")(x))
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


def name(path):
    collection, module, leaf = path
    return f"{PARTS[module]}.{'b' if leaf == 'bias' else 'w'}"


SPEC = jx.ModelSpec(
    "mixer",
    Mixer,
    stages=("patch", "mixer", "head"),
    names=jx.Names(name, whose="the mixer's"),
    normalization=jx.Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
)


class Head(nn.Module):
    num_classes: int
    hidden: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(self.hidden)(x)) if self.hidden else x
        return nn.Dense(self.num_classes)(x)


class Headed(nn.Module):
    num_classes: int
    head: str

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(8, (4, 4), 4, name="body")(x).mean((1, 2))
        return Head(self.num_classes, {"mlp": 6, "plain": 0}[self.head], name="head")(x)


HEADED = jx.ModelSpec("headed", Headed, heads=("mlp", "plain"))
"""
space = {}
exec(NETS, space)
SPEC, HEADED = space["SPEC"], space["HEADED"]
BODY = {"embed.proj.w", "embed.proj.b", "mix.ln.w", "mix.ln.b", "mix.fc.w", "mix.fc.b"}


class Normed(nn.Module):
    """A network with batch norm, two kinds of heads, and a parameter without weight decay."""

    num_classes: int
    head: str = "linear"
    dtype: object = jnp.float32
    frozen_stages: int = 0

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (4, 4), 4, dtype=self.dtype, name="stem")(x)
        norm = nn.BatchNorm(not train or self.frozen_stages > 0, momentum=0.9, name="stem_norm")
        x = norm(x) + self.param("stem_place", nn.initializers.ones, (1, 1, 4))
        x = nn.relu(nn.Conv(8, (1, 1), dtype=self.dtype, name="wide")(x))
        return HEADS[self.head](self.num_classes, name="head")(x.astype(jnp.float32), train)


NORMED = jx.ModelSpec(
    "normed",
    Normed,
    stages=("stem", "wide", "head"),
    fastai=(1, 1, 1),
    heads=("linear", "concat_pool"),
    frozen=with_frozen_stages,
    no_decay=("stem_place",),
)


def quiet(learn):
    learn.console = Console(file=io.StringIO())
    return learn


@pytest.fixture(scope="module")
def data(pictures):
    block = jx.DataBlock(jx.from_folder(pictures), jx.random_split(), presize=36, size=32)
    return block.load(batch_size=8)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A file of weights as another library writes it, and its tensors.

    The tensors have PyTorch's layouts, their names begin with `module.`, and the head has three
    classes.
    """
    rng = np.random.default_rng(0)
    shapes = {"embed.proj.w": (8, 3, 4, 4), "embed.proj.b": (8,), "mix.ln.w": (8,)}
    shapes |= {"mix.ln.b": (8,), "mix.fc.w": (16, 8), "mix.fc.b": (16,)}
    shapes |= {"cls.w": (3, 16), "cls.b": (3,)}
    tensors = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    file = tmp_path_factory.mktemp("foreign") / "mixer.safetensors"
    save_file({f"module.{name}": value for name, value in tensors.items()}, file)
    return file, tensors


@pytest.fixture(scope="module")
def tuned(data, foreign, pictures, tmp_path_factory):
    """A learner fine-tuned from the foreign weights, in a run.

    First only the head was trained, then all groups, each with its own rate.
    """
    learn = quiet(jx.vision_learner(data, SPEC, foreign[0], say=lambda line: None))
    sizes = {"path": pictures, "presize": 36, "size": 32}
    config = Config.model_validate({"data": sizes})
    learn.run = create_run(config, tmp_path_factory.mktemp("tuned") / "run")
    learn.fine_tune(1, base_lr=1e-2)
    return learn


def test_weights_by_its_own_names_are_read_to_the_bit(foreign):
    file, tensors = foreign
    found = find_weights(file, SPEC)
    params = found.variables["params"]
    np.testing.assert_array_equal(
        params["patch"]["kernel"], tensors["embed.proj.w"].transpose(2, 3, 1, 0)
    )
    np.testing.assert_array_equal(params["mixer_up"]["kernel"], tensors["mix.fc.w"].T)
    np.testing.assert_array_equal(params["mixer_norm"]["scale"], tensors["mix.ln.w"])
    assert params["head"]["kernel"].shape == (16, 3)
    assert found.normalization == SPEC.normalization
    assert "those of mixer" in found.normalized_by
    again = jx.export_state_dict(found.variables, SPEC)
    assert again.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(again[name], value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda d: d.pop("module.mix.ln.w"), "weights of mixer: module.mix.ln.w is missing"),
        (lambda d: d.update({"module.mix.gate": d["module.mix.ln.w"]}), "mix.gate is not part"),
        (
            lambda d: d.update({"module.mix.fc.w": np.zeros((16, 9), np.float32)}),
            "module.mix.fc.w has shape (16, 9) instead of (16, 8)",
        ),
        (lambda d: d.clear() or d.update(x=np.zeros(1)), "holds no mixer with the mixer's names"),
    ],
)
def test_what_does_not_fit_is_named(change, line, foreign, tmp_path):
    tensors = load_file(foreign[0])
    change(tensors)
    save_file(tensors, tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError) as raised:
        from_file(tmp_path / "weights.safetensors", SPEC)
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_its_body_is_frozen_and_then_trains_by_groups(data, foreign, tuned):
    begun = quiet(jx.vision_learner(data, SPEC, foreign[0], say=lambda line: None))
    before = flatten_dict(jax.device_get(begun.state.params))
    begun.fit_one_cycle(1, 1e-2)
    after = flatten_dict(jax.device_get(begun.state.params))
    moved = {path[0] for path in before if not np.array_equal(before[path], after[path])}
    # Unlike a batch norm, a layer norm stays frozen together with the layers around it.
    assert moved == {"head"}
    assert begun.groups.names == ("patch and mixer", "head")
    assert [record["phase"] for record in tuned.records] == ["frozen", "unfrozen"]
    rates = np.array(tuned.recorder.lrs)
    assert rates.shape[1] == 2
    np.testing.assert_allclose(rates[-1, 1] / rates[-1, 0], 100, rtol=1e-5)

    by_stage = jx.vision_learner(data, SPEC, "none", groups="stages")
    assert by_stage.groups.names == ("patch", "mixer", "head")
    assert by_stage.normalization == SPEC.normalization
    by_stage.freeze_to(1)
    assert {path[0] for path in by_stage._frozen.paths} == {"patch"}


def test_without_batch_norms_train_bn_changes_nothing(data, foreign):
    """In a network without batch norms, `train_bn` makes no difference to training.

    That also holds for a module of one's own, which need not be able to freeze batch norms.
    """
    alone = jx.vision_learner(data, Noisy(), "none", train_bn=False, say=lambda line: None)
    alone.freeze()
    assert {path[0] for path in alone._frozen.paths} == {"stem"}
    states = []
    for train_bn in (True, False):
        made = partial(jx.vision_learner, data, SPEC, foreign[0], train_bn=train_bn)
        learn = quiet(made(say=lambda line: None))
        learn.fit_one_cycle(1, 1e-2)
        states.append(learn.state.params)
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_a_run_of_it_is_resumed_to_the_bit(data, foreign, tmp_path):
    def begun(folder, *metrics):
        made = partial(jx.vision_learner, data, SPEC, foreign[0], metrics=metrics)
        learn = quiet(made(say=lambda line: None))
        learn.run = create_run(Config(), tmp_path / folder)
        return learn

    def interrupt(probabilities, labels):
        signal.raise_signal(signal.SIGINT)
        return 0.0

    whole = begun("whole")
    whole.fit_one_cycle(2, 1e-2)
    with pytest.raises(KeyboardInterrupt):
        begun("stopped", interrupt).fit_one_cycle(2, 1e-2)
    again = begun("unused")
    run, _ = open_run(tmp_path / "stopped")
    assert again.restore(run)
    assert int(again.state.step) == len(data.train)
    again.run = run
    again.fit_one_cycle(2, 1e-2)
    jax.tree.map(np.testing.assert_array_equal, again.state.params, whole.state.params)
    other = jx.vision_learner(data, NORMED, "none")
    with pytest.raises(ConfigError, match="has arch mixer, not normed"):
        other.restore(run)


def test_its_weights_begin_another_training(data, tuned):
    lines = []
    learn = jx.vision_learner(data, SPEC, tuned.run.path, say=lines.append)
    assert "their head is kept: the same 2 classes" in lines[0]
    jax.tree.map(np.testing.assert_array_equal, learn.state.params, tuned.state.params)


@pytest.mark.parametrize("format", ["safetensors", "learner", "stablehlo"])
def test_it_is_exported_and_read_again(format, data, tuned, pictures, tmp_path):
    file = tmp_path / f"model.{'stablehlo' if format == 'stablehlo' else 'safetensors'}"
    tuned.export(file, format)
    expected, _ = tuned.get_preds()
    if format == "stablehlo":
        program = jax.export.deserialize(bytearray(file.read_bytes()))
        assert json.loads(program.fun_name)["arch"] == "mixer"
        picture = np.random.default_rng(0).integers(0, 256, (36, 36, 3), np.uint8)
        expected = tuned.predictor().predict(picture).probabilities
        np.testing.assert_allclose(program.call(picture[None])[0], expected, atol=1e-5)
        return
    assert load_file(file).keys() == BODY | {"cls.w", "cls.b"}
    if format == "safetensors":
        again = find_weights(file, SPEC)
        assert again.classes == ("blue", "red")
        assert again.normalization == SPEC.normalization
        jax.tree.map(np.testing.assert_array_equal, again.variables["params"], tuned.state.params)
        return
    names = [str(pictures / data.source.references[item]) for item in data.valid.items]
    for trained in (jx.load_learner(file, SPEC), jx.load_learner(tuned.run.path, SPEC)):
        given = np.stack([found.probabilities for found in trained.predict_many(names)])
        np.testing.assert_allclose(given, expected, atol=1e-5)
    with pytest.raises(
        WeightsError, match=r"architecture mixer, which is not one of resnet18.*--model\.arch"
    ):
        jx.load_learner(file)
    with pytest.raises(WeightsError, match="has the architecture mixer, not resnet18"):
        jx.load_learner(file, "resnet18")
    with pytest.raises(ConfigError, match="format = fastai: needs fastai's names, but mixer has"):
        tuned.export(file, "fastai")


@pytest.fixture
def registered():
    jx.register(SPEC)
    yield
    del registry._registered["mixer"]


def test_a_registered_name_is_as_good_as_ours(registered, data, tuned, tmp_path):
    jx.register(SPEC)
    assert Config.model_validate({"model": {"arch": "mixer"}}).model.arch == "mixer"
    assert jx.create_model("mixer", 3).num_classes == 3
    assert jx.vision_learner(data, "mixer", "none").spec is SPEC
    tuned.save(tmp_path / "learner.safetensors")
    assert jx.load_learner(tmp_path / "learner.safetensors").classes == ("blue", "red")


def test_a_name_has_one_architecture(registered):
    other = jx.ModelSpec("mixer", Normed)
    for refused in (lambda: jx.register(other), lambda: jx.create_model(other, 3)):
        with pytest.raises(ConfigError, match="mixer is another architecture's name"):
            refused()
    with pytest.raises(ConfigError, match="resnet18 is another architecture's name"):
        jx.register(jx.ModelSpec("resnet18", Normed))


def test_frozen_batch_norms_keep_their_statistics_as_asked(data):
    def after(train_bn):
        learn = quiet(jx.vision_learner(data, NORMED, "none", train_bn=train_bn))
        assert learn.groups.names == ("stem", "wide", "head")
        learn.freeze_to(1)
        learn.fit(1, 1e-2)
        return learn.state.batch_stats["stem_norm"]["mean"]

    assert not np.any(after(False))
    assert np.any(after(True))
    silent = jx.ModelSpec("silent", Normed)
    learn = jx.vision_learner(data, silent, "none", train_bn=False)
    with pytest.raises(
        ConfigError, match=r"train_bn = false: the ModelSpec of silent has no `frozen`"
    ):
        learn.freeze()


def test_weight_decay_leaves_alone_what_the_architecture_says(data):
    """The parameters that an architecture lists in `no_decay` have no weight decay.

    All gradients are zero here, so that only weight decay could change a parameter.
    """
    learn = jx.vision_learner(data, NORMED, "none", wd=0.5)
    params = learn.state.params
    optimizer = learn._frozen.optimizer
    state = jax.jit(optimizer.init)(params)
    state = with_hyperparams(state, lr=jnp.ones_like(state.hyperparams["lr"]))
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), state, params)
    of_matrices = {path: leaf for path, leaf in flatten_dict(updates).items() if leaf.ndim > 1}
    spared = {path for path in of_matrices if path[0] == "stem_place"}
    assert spared
    assert {path for path, leaf in of_matrices.items() if not np.any(leaf)} == spared


@pytest.mark.parametrize("head", ["linear", "concat_pool"])
def test_heads_and_precision_reach_what_is_built(head, data, tmp_path):
    learn = jx.vision_learner(data, NORMED, "none", "bf16", head)
    assert (learn.model.head, learn.model.dtype) == (head, jnp.bfloat16)
    learn.save(tmp_path / "learner.safetensors")
    again = jx.load_learner(tmp_path / "learner.safetensors", NORMED)
    assert (again.about.head, again.about.precision) == (head, "bf16")
    jax.tree.map(np.testing.assert_array_equal, again.variables["params"], learn.state.params)


@pytest.mark.parametrize("head", [None, "plain"])
def test_heads_of_ones_own_are_saved_and_loaded_by_their_names(head, data, tmp_path):
    learn = jx.vision_learner(data, HEADED, "none", head=head)
    assert learn.model.head == (head or "mlp")
    learn.save(tmp_path / "learner.safetensors")
    again = jx.load_learner(tmp_path / "learner.safetensors", HEADED)
    assert again.about.head == learn.model.head
    jax.tree.map(np.testing.assert_array_equal, again.variables["params"], learn.state.params)
    lines = []
    for other in ("mlp", "plain"):
        made = partial(jx.vision_learner, data, HEADED, tmp_path / "learner.safetensors")
        kept = made(head=other, say=lines.append).state.params["head"]
        is_same = other == learn.model.head
        said = "their head is kept" if is_same else f"a new head: theirs is {learn.model.head} ("
        assert said in lines[-1]
        assert is_same == (
            jax.tree.structure(kept) == jax.tree.structure(again.variables["params"]["head"])
        )
    tensors = load_file(tmp_path / "learner.safetensors")
    with safe_open(tmp_path / "learner.safetensors", "numpy") as file:
        said = file.metadata()
    save_file(tensors, tmp_path / "wrong.safetensors", said | {"head": "mlq"})
    line = r"wrong.safetensors: in its metadata, head = mlq: should be one of mlp, plain; did you m"
    with pytest.raises(WeightsError, match=line):
        jx.load_learner(tmp_path / "wrong.safetensors", HEADED)


@pytest.mark.parametrize(
    ("named", "line"),
    [
        ({"precision": "bf16"}, "model.precision = bf16: the build function of mixer has no"),
        ({"remat": True}, "model.remat = true: the build function of mixer has no"),
        ({"weights": "imagenet"}, "the ModelSpec of mixer lists no weights on the hub"),
        ({"groups": "halves"}, "model.groups = halves: should be one of fastai, stages"),
        ({"head": "linear"}, "model.head = linear: mixer has one kind of head; leave it out"),
    ],
)
def test_what_it_cannot_do_is_refused(named, line, data):
    with pytest.raises(Jaxch5Error, match=line):
        jx.vision_learner(data, SPEC, **{"weights": "none", **named})


def test_weights_auto_are_none_where_it_names_none(data):
    lines = []
    learn = jx.vision_learner(data, SPEC, say=lines.append)
    assert learn.pretrained is None
    assert "training from scratch: the ModelSpec of mixer lists no weights" in lines[0]


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"stages": ("patch", "mixer")}, "should be two or more distinct names, the last one head"),
        ({"stages": ("patch", "head", "head")}, "should be two or more distinct names"),
        ({"stages": ("a", "b", "head"), "fastai": (3, 1)}, r"fastai = \(3, 1\): should add up to"),
    ],
)
def test_a_specification_that_contradicts_itself_is_refused(wrong, line):
    with pytest.raises(ConfigError, match=line):
        jx.ModelSpec("wrong", Normed, **wrong)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (
            {"stages": ("patch", "blocks", "head")},
            r"none of its modules \(.*mixer_up.*\) belongs to stage blocks",
        ),
        ({"stage_of": lambda module: "trunk"}, "stage_of returns trunk, which is not one"),
    ],
)
def test_stages_that_a_network_does_not_have_are_named(wrong, line, data):
    spec = replace(SPEC, name="wrong", **wrong)
    with pytest.raises(ConfigError, match=line):
        jx.vision_learner(data, spec, "none")


def test_two_variables_of_one_name_are_named():
    spec = replace(SPEC, name="twice", names=jx.Names(lambda path: path[-1]))
    with pytest.raises(ConfigError, match=r"twice: .* are both named bias; give them different"):
        jx.import_state_dict({"bias": np.zeros(3)}, spec)


class OfNnx(nnx.Module):
    """A module of nnx with batch norm and dropout, whose own attributes switch training on."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 8, (4, 4), 4, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(nnx.relu(self.norm(self.stem(x))).mean((1, 2))))


class OfLinen(nn.Module):
    """A module of linen with a body and a head."""

    dtype: object = jnp.float32

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(2, name="head")(nn.Dense(3, dtype=self.dtype, name="body")(x.mean((1, 2))))


def test_a_module_of_linen_needs_no_nnx():
    """With networks of linen, jaxch5 does not import nnx.

    Some releases of flax cannot import nnx together with a newer jax.
    """
    code = (
        "import sys, flax.linen as nn; before = 'flax.nnx' in sys.modules; import jaxch5; "
        "jaxch5.create_model(nn.Dense(2), 2); jaxch5.create_model('resnet18', 2); "
        "print(before, 'flax.nnx' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = ended.stdout.split()
    assert before == after


def test_a_module_of_nnx_is_taken_through_flaxs_bridge(data, tmp_path):
    """A learner of an nnx module starts with the module's weights, and leaves the module unchanged.

    Training updates the learner's running statistics. The learner can be saved and loaded, and its
    weights, put into the module, give the same probabilities.
    """
    module = OfNnx(nnx.Rngs(0))
    learn = quiet(jx.vision_learner(data, module, "none"))
    assert learn.groups.names == ("body", "head")
    np.testing.assert_array_equal(learn.state.params["stem"]["kernel"], module.stem.kernel[...])
    learn.fit_one_cycle(2, 3e-2)
    assert np.any(learn.state.batch_stats["norm"]["mean"])
    assert not np.any(module.norm.mean[...])
    learn.save(tmp_path / "learner.safetensors")
    again = jx.load_learner(tmp_path / "learner.safetensors", module)
    x = jnp.asarray(np.random.default_rng(0).random((2, 32, 32, 3), np.float32))
    np.testing.assert_array_equal(again.probabilities(x), learn.predictor().probabilities(x))
    nnx.update(module, jax.tree.map(jnp.asarray, learn.state.params))
    nnx.update(module, jax.tree.map(jnp.asarray, learn.state.batch_stats))
    module.eval()
    normalized = (x - jnp.array(learn.normalization.mean)) / jnp.array(learn.normalization.std)
    np.testing.assert_allclose(
        jax.nn.softmax(module(normalized)), again.probabilities(x), rtol=1e-5
    )


def test_dropout_of_nnx_draws_with_each_steps_key(data):
    model = jx.create_model(OfNnx(nnx.Rngs(0)), 2)
    x = jnp.ones((4, 32, 32, 3))
    variables = model.init(jax.random.key(0), x, train=False)

    def logits(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(variables, x, train=True, rngs=rngs, mutable=["batch_stats"])[0]

    np.testing.assert_array_equal(logits(1), logits(1))
    assert np.any(logits(1) != logits(2))


class Noisy(nn.Module):
    """A network that draws noise from a random stream of its own, named `stochastic`."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(8, name="stem")(x.mean((1, 2)))
        if train:
            x += jax.random.normal(self.make_rng("stochastic"), x.shape)
        return nn.Dense(2, name="head")(x)


class NoisyOfNnx(nnx.Module):
    """A network of nnx like `Noisy`, with a batch norm and a list of layers, named by numbers."""

    def __init__(self, num_classes=2):
        self.stem = nnx.List([nnx.Linear(3, 8, rngs=nnx.Rngs(0)) for _ in range(2)])
        self.norm = nnx.BatchNorm(8, rngs=nnx.Rngs(0))
        self.head = nnx.Linear(8, num_classes, rngs=nnx.Rngs(0))
        self.rngs = nnx.Rngs(stochastic=0)

    def __call__(self, x):
        x = x.mean((1, 2))
        x = self.norm(sum(layer(x) for layer in self.stem))
        if not self.norm.use_running_average:
            x += jax.random.normal(self.rngs.stochastic(), x.shape)
        return self.head(x)


@pytest.mark.parametrize("module", [Noisy(), NoisyOfNnx()], ids=["linen", "nnx"])
def test_every_stream_draws_with_each_steps_key(module, data):
    """What a network's random streams draw depends on the step and the key, and on nothing else.

    The loss of the same batch, with the same weights, differs between two steps, and is the same
    if a step is repeated.
    """
    step = jax.jit(jx.make_train_step(jx.create_model(module, 2), jx.Recipe(), None, 32))
    state = jx.init_state(jx.create_model(module, 2), jx.Recipe(), 32, jax.random.key(0))
    batch = next(iter(data.train))
    losses = [
        float(step(state.replace(step=at), batch, jax.random.key(0))[1]["loss"]) for at in (0, 1, 0)
    ]
    assert losses[0] == losses[2] != losses[1]


def test_a_spec_of_nnx_has_names_stages_and_a_file(data, tmp_path):
    spec = jx.ModelSpec("noisy", NoisyOfNnx, stages=("stem", "norm", "head"))
    learn = quiet(jx.vision_learner(data, spec, "none", groups="stages"))
    assert learn.groups.names == ("stem", "norm", "head")
    learn.run = create_run(Config(), tmp_path / "run")
    learn.fit(1, 1e-2)
    learn.save(tmp_path / "learner.safetensors")
    assert "stem.1.weight" in load_file(tmp_path / "learner.safetensors")
    for trained in (tmp_path / "learner.safetensors", tmp_path / "run"):
        again = jx.load_learner(trained, spec)
        jax.tree.map(np.testing.assert_array_equal, again.variables["params"], learn.state.params)
    learn.export(tmp_path / "model.stablehlo", "stablehlo")


@pytest.mark.parametrize("module", [Noisy(), SPEC], ids=["module", "spec"])
def test_training_begins_from_variables(module, data):
    """Variables can be passed as weights: their body is kept and frozen, and the head is new."""
    model = jx.create_model(module, 5)
    given = model.init(jax.random.key(7), jnp.zeros((1, 32, 32, 3)), train=False)
    lines = []
    learn = quiet(jx.vision_learner(data, module, given, say=lines.append))
    assert "weights: the variables that were given; mean 0." in lines[0]
    body = {name: part for name, part in learn.state.params.items() if name != "head"}
    assert body
    for name, part in body.items():
        jax.tree.map(np.testing.assert_array_equal, part, given["params"][name])
    assert learn._frozen.paths


@pytest.mark.parametrize("module", [OfLinen(), OfNnx(nnx.Rngs(0))], ids=["linen", "nnx"])
@pytest.mark.parametrize(
    ("named", "line"),
    [
        ({"remat": True}, r"model\.remat = true: your own module does not take it; leave it out"),
        ({"head": "linear"}, r"model\.head = linear: your own module does not take it"),
        ({"head": "concat_pool"}, r"model\.head = concat_pool: your own module does not take it"),
        ({"recipe": jx.Recipe(head="concat_pool")}, r"model\.head = concat_pool: your own module"),
        ({"drop_path": 0.1}, r"model\.drop_path = 0\.1: your own module does not take it"),
    ],
)
def test_what_a_module_of_ones_own_does_not_take_is_refused(module, named, line, data):
    with pytest.raises(ConfigError, match=line):
        jx.vision_learner(data, module, "none", **named)


def test_a_line_says_that_precision_does_not_reach_a_module_of_ones_own(data):
    """The line appears only if a user's own module was made to compute in another type.

    It does not appear for a network that is made from a specification.
    """
    lines = []
    said = partial(jx.vision_learner, data, weights="none", precision="bf16", say=lines.append)
    said(NORMED)
    said(OfLinen(dtype=jnp.bfloat16))
    assert lines == []
    said(OfLinen())
    line = "precision = bf16 does not reach OfLinen, which computes in the types that it was made "
    assert lines == [f"{line}with"]


class TypedNnx(OfNnx):
    """A module of nnx that states the type in which it computes."""

    def __init__(self, rngs):
        super().__init__(rngs)
        self.dtype = jnp.bfloat16


@pytest.mark.parametrize(
    ("module", "computed"),
    [
        (OfLinen(), "fp32"),
        (OfLinen(dtype=jnp.bfloat16), "bf16"),
        (OfNnx(nnx.Rngs(0)), "fp32"),
        (TypedNnx(nnx.Rngs(0)), "bf16"),
    ],
    ids=["linen", "linen in bf16", "nnx", "nnx in bf16"],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_file_names_the_precision_in_which_a_module_computes(
    module, computed, precision, data, tmp_path
):
    learn = jx.vision_learner(data, module, "none", precision, say=lambda line: None)
    learn.save(tmp_path / "learner")
    again = jx.load_learner(tmp_path / "learner", module)
    assert learn.predictor().about.precision == again.about.precision == computed


def test_a_module_of_ours_may_be_given_with_its_own_head(data):
    model = jx.create_model("resnet18", 2, "linear", remat=True)
    assert jx.create_model(model, 2, "linear", remat=True) is model
    with pytest.raises(ConfigError, match=r"model\.head = concat_pool: your own module"):
        jx.create_model(model, 2, "concat_pool")


class Count(nnx.Variable):
    """A user's own kind of variable, which holds a count."""


class Counting(OfNnx):
    """A module of nnx that counts its calls."""

    def __init__(self, rngs):
        super().__init__(rngs)
        self.calls = Count(jnp.zeros(()))


class Averaging(nn.Module):
    """A module of linen with a variable in a collection of its own, and a perturbation."""

    kind: str

    @nn.compact
    def __call__(self, x, train):
        x = self.perturb("seen", x.mean((1, 2)))
        mean = self.variable(self.kind, "mean", jnp.zeros, x.shape[-1:])
        return nn.Dense(2, name="head")(x - mean.value)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        (
            Averaging("ema"),
            "Averaging keeps variables in ema: training keeps only params and batch",
        ),
        (Counting(nnx.Rngs(0)), "Counting keeps variables in Count: training keeps only params"),
    ],
    ids=["linen", "nnx"],
)
def test_variables_that_training_would_lose_are_refused(module, line, data):
    with pytest.raises(ConfigError, match=line):
        jx.vision_learner(data, module, "none")


def test_running_statistics_are_not_lost(data):
    learn = jx.vision_learner(data, Averaging("batch_stats"), "none")
    assert set(learn.state.variables) == {"params", "batch_stats"}


def test_a_network_of_one_group_says_that_nothing_can_be_frozen(data):
    class Headless(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.Dense(2)(nn.Dense(3)(x.mean((1, 2))))

    def printed(module):
        learn = quiet(jx.vision_learner(data, module, "none"))
        learn.freeze()
        return learn.console.file.getvalue()

    assert "the layers of Headless form one group, so none of them is frozen" in printed(Headless())
    assert printed(OfLinen()) == ""


def test_what_is_no_network_is_named(data):
    with pytest.raises(ConfigError, match="should be a name, a ModelSpec or a module, but is of"):
        jx.vision_learner(data, 7, "none")


SIZES = ("--data.presize", 36, "--data.size", 32, "--data.batch-size", 8)
ARCH = ("--model.arch", "own_nets:SPEC")
OWN_HEADS = ("--model.arch", "own_nets:HEADED", "--model.weights", "none", "--model.head")


@pytest.fixture
def started(tmp_path, monkeypatch, capsys):
    """A function that runs a command in this process, where the user's module can be imported.

    It returns the status, the output and the error output.
    """
    (tmp_path / "own_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)

    def start(command, options, *argv):
        status = run(command, options, f"python -m {command.__name__}", [*map(str, argv)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    yield start
    sys.modules.pop("own_nets", None)


def test_every_command_takes_its_import_path(started, foreign, pictures, tmp_path):
    folder, file = tmp_path / "run", tmp_path / "learner.safetensors"
    argv = ("--data.path", pictures, *SIZES, *ARCH, "--model.weights", foreign[0])
    argv += ("--fit.epochs", 1, "--workdir", folder)
    status, out, err = started(train, TrainOptions, *argv)
    assert status == 0, err
    assert "a new head: the classes of the weights' head are unknown" in out
    assert open_run(folder)[1].model.arch == "own_nets:SPEC"
    status, out, _ = started(train, TrainOptions, "--resume", folder)
    assert status == 0
    assert "this run is finished" in out

    picture = pictures / "red" / "0.jpg"
    status, of_run, err = started(predict, PredictOptions, folder, picture, *ARCH)
    assert status == 0, err
    assert (
        started(export, ExportOptions, folder, *ARCH, "--format", "learner", "--out", file)[0] == 0
    )
    assert started(predict, PredictOptions, file, picture, *ARCH)[1] == of_run
    for trained in (file, folder):
        status, _, err = started(predict, PredictOptions, trained, picture)
        assert status == 1
        assert "if you trust it, pass --model.arch own_nets:SPEC" in err
        assert err.count("\n") == 1
    status, out, err = started(evaluate, EvaluateOptions, folder, *ARCH, "--json")
    assert status == 0, err
    assert json.loads(out)["classes"] == ["blue", "red"]

    weights = tmp_path / "weights.safetensors"
    assert started(export, ExportOptions, folder, *ARCH, "--out", weights)[0] == 0
    assert load_file(weights).keys() == BODY | {"cls.w", "cls.b"}
    figure = tmp_path / "profile.png"
    argv = ("--data.path", pictures, *SIZES, *ARCH, "--model.weights", weights)
    argv += ("--fit.epochs", 1, "--workdir", tmp_path / "profile", "--out", figure, "--json")
    status, out, err = started(transfer_profile, ProfileOptions, *argv)
    assert status == 0, err
    assert [len(accuracies) for accuracies in json.loads(out)["frozen"]] == [1, 1, 1]
    assert "frozen: patch " in err
    assert figure.stat().st_size > 1000


@pytest.mark.parametrize("head", [None, "plain"])
def test_the_commands_take_heads_of_ones_own(head, started, pictures, tmp_path):
    """The run records the head that it trains, which is the first one if none is named."""
    folder, arch = tmp_path / "run", ("--model.arch", "own_nets:HEADED")
    argv = ("--data.path", pictures, *SIZES, *arch, "--model.weights", "none", "--fit.epochs", 1)
    named = ("--model.head", head) if head else ()
    status, _, err = started(train, TrainOptions, *argv, *named, "--workdir", folder)
    assert status == 0, err
    assert open_run(folder)[1].model.head == (head or "mlp")
    assert "this run is finished" in started(train, TrainOptions, "--resume", folder)[1]
    picture = pictures / "red" / "0.jpg"
    status, _, err = started(predict, PredictOptions, folder, picture, *arch)
    assert status == 0, err


def test_a_run_from_elsewhere_has_nothing_imported(started, tuned, tmp_path):
    """A module that a run names is imported only if the command line names it too.

    A run may come from elsewhere, so its settings are not trusted to run code.
    """
    sign = tmp_path / "ran"
    (tmp_path / "own_nets.py").write_text(f"open({str(sign)!r}, 'w')\n" + NETS)
    config = tuned.run.config_file
    before = config.read_text()
    config.write_text(before.replace('arch = "resnet18"', 'arch = "own_nets:SPEC"'))
    picture = tmp_path / "own_nets.py"
    try:
        for command, options, more in (
            (predict, PredictOptions, (picture,)),
            (export, ExportOptions, ("--out", tmp_path / "out.safetensors")),
            (evaluate, EvaluateOptions, ()),
        ):
            status, _, err = started(command, options, tuned.run.path, *more)
            assert status == 1
            assert "has the architecture own_nets:SPEC" in err
            assert "--model.arch" in err
            assert err.count("\n") == 1
        assert not sign.exists()
        argv = (tuned.run.path, *ARCH, "--out", tmp_path / "out.safetensors")
        assert started(export, ExportOptions, *argv)[0] == 0
        assert sign.exists()
    finally:
        config.write_text(before)


@pytest.mark.parametrize(
    ("argv", "status", "line"),
    [
        (("--model.arch", "own_nets:SPECS"), 2, "own_nets has no SPECS; did you mean SPEC?"),
        (("--model.arch", "own_net:SPEC"), 2, "there is no module own_net;"),
        (("--model.arch", "own_nets:Mixer"), 2, "should be a ModelSpec, but is of type type"),
        (("--model.arch", "resnet19"), 2, "package.module:name; did you mean resnet1"),
        ((*ARCH, "--no-model.train-bn"), 2, "only works with batch norms, which mixer does not"),
        ((*ARCH, "--model.head", "linear"), 2, "with an architecture that offers several heads"),
        ((*OWN_HEADS, "plan"), 2, "head = plan: should be one of mlp, plain; did you mean plain?"),
        ((*OWN_HEADS, "concat_pool"), 2, "head = concat_pool: should be one of mlp, plain"),
    ],
)
def test_a_command_line_that_cannot_be_meant_is_one_line(
    argv, status, line, started, foreign, pictures
):
    more = ("--data.path", pictures, *SIZES, "--model.weights", foreign[0])
    found, _, err = started(train, TrainOptions, *more, *argv)
    assert found == status
    assert line in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_a_command_started_beside_the_module_finds_it(foreign, pictures, tmp_path):
    (tmp_path / "own_nets.py").write_text(NETS)
    argv = [*SIZES, *ARCH, "--data.path", pictures, "--model.weights", foreign[0]]
    command = [sys.executable, "-m", "jaxch5.train", *map(str, argv), "--fit.epochs", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
