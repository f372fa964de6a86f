"""ConvNeXts compute what timm's compute, and work with every command, as ResNets do."""

import hashlib
import itertools
import json
import math
import sys
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

import jaxch5 as jx
from jaxch5.cli import run
from jaxch5.errors import ConfigError, WeightsError
from jaxch5.evaluate import EvaluateOptions, evaluate
from jaxch5.export import ExportOptions, export
from jaxch5.losses import cross_entropy
from jaxch5.models.convert import architecture_of, entries_of, find_network
from jaxch5.models.convnext import ARCHITECTURES
from jaxch5.models.registry import create_model, spec_of
from jaxch5.models.weights import export_state_dict, import_network, import_state_dict
from jaxch5.optim.optimizer import is_matrix
from jaxch5.predict import PredictOptions, predict
from jaxch5.train import TrainOptions, train
from jaxch5.transfer_profile import ProfileOptions, transfer_profile
from tests.models.shared import (
    assert_gradients,
    assert_gradients_of_half,
    fill,
    pictures,
    run_alone,
)

# Computed with timm 1.0.31 and PyTorch 2.13 in float32 on a CPU.
TIMM = json.loads((Path(__file__).parent / "convnext.json").read_text())["archs"]
NANO = "convnext_nano"


def zeros(arch, num_classes=1000, head="linear"):
    init = partial(create_model(arch, num_classes, head).init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    return jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)


def filled(arch, num_classes=1000, head="linear"):
    names = export_state_dict(zeros(arch, num_classes, head), arch)
    return {name: fill(name, value.shape) for name, value in names.items()}


@pytest.fixture(scope="module")
def nano():
    return filled(NANO, 3)


@pytest.mark.parametrize("arch", TIMM)
def test_names_and_shapes_are_timms(arch):
    """A ConvNeXt's state dict has exactly the names and shapes that timm's has."""
    empty = zeros(arch)
    state_dict = export_state_dict(empty, arch)
    lines = sorted(f"{name} {list(value.shape)}" for name, value in state_dict.items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == TIMM[arch]["state_dict_sha256"]
    assert sum(leaf.size for leaf in jax.tree.leaves(empty)) == TIMM[arch]["params"]
    assert architecture_of(state_dict) == arch


@pytest.mark.parametrize("head", ["linear", "concat_pool"])
def test_the_way_in_and_out_changes_no_bit(head):
    state_dict = filled(NANO, 3, head)
    again = export_state_dict(import_state_dict(state_dict, NANO), NANO)
    assert again.keys() == state_dict.keys()
    for name in state_dict.keys() - {"head.2.num_batches_tracked", "head.6.num_batches_tracked"}:
        np.testing.assert_array_equal(again[name], state_dict[name])


@pytest.mark.slow
@pytest.mark.parametrize("arch", TIMM)
def test_what_timm_computes_is_computed(arch, usual_compiler):
    """Logits, loss and gradients equal timm's.

    One network is compiled with the compiler's usual settings, as a user's is. The others are
    compiled with the tests' settings, which halves the time.
    """
    run_alone(__file__, arch, usual_compiler if arch == NANO else None)


def compare_with_timm(arch):
    golden, variables = TIMM[arch], import_state_dict(filled(arch), arch)
    model, x = create_model(arch, 1000), pictures()

    def loss_of(params):
        logits = model.apply({"params": params}, x, train=True)
        return cross_entropy(logits, jnp.array([1, 20, 300, 999]))

    # Computed one operation at a time, since neighbouring blocks have the same shapes and therefore
    # share the compiled operations.
    with jax.default_matmul_precision("highest"):
        is_last = {"capture_intermediates": lambda module, _: module.name == "stages_3"}
        logits, kept = model.apply(variables, x, train=False, mutable="intermediates", **is_last)
        loss, grads = jax.value_and_grad(loss_of)(variables["params"])
    features = kept["intermediates"]["stages_3"]["__call__"][0]
    for found, norm in ((features, "features_l2"), (logits, "eval_logits_l2")):
        assert float(jnp.linalg.norm(found)) == pytest.approx(golden[norm], rel=1e-4)
    atol = 1e-4 * golden["eval_logits_l2"] / math.sqrt(logits.size)
    np.testing.assert_allclose(logits[:, :8], golden["eval_logits_first8"], rtol=0, atol=atol)
    assert float(loss) == pytest.approx(golden["train_loss"], rel=1e-4)
    assert_gradients(arch, grads, lambda name: 1 + (name[0] != "stem"), golden["grad_l2"], 5e-3)


def test_a_body_is_taken_whatever_its_file_has_for_a_head(nano):
    """A body is read even if its file has no head, one for other classes, or only a norm.

    timm writes only the norm of a head without classes.
    """
    other = {**nano, "head.fc.weight": np.zeros((21841, 640)), "head.fc.bias": np.zeros(21841)}
    variables, _ = import_network(find_network(other, NANO), NANO)
    assert variables["params"]["head"]["fc"]["bias"].shape == (21841,)
    without_classes = {name: value for name, value in nano.items() if ".fc." not in name}
    without_classes |= {name: value for name, value in nano.items() if "mlp" in name}
    for file, left in (
        (without_classes, ["head.norm.bias", "head.norm.weight"]),
        ({name: value for name, value in nano.items() if "head" not in name}, []),
        ({f"0.model.{name}": value for name, value in without_classes.items()}, None),
    ):
        body, left_out = import_network(find_network(file, NANO), NANO)
        assert "head" not in body["params"]
        assert left is None or left_out == left


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda d: d.pop("head.fc.weight"), r"convnext_nano: head\.fc\.weight is missing$"),
        (lambda d: d.pop("stages.2.blocks.7.gamma"), r"stages\.2\.blocks\.7\.gamma is missing$"),
        (
            lambda d: d.update({"stages.0.blocks.0.mlp.grn.weight": np.zeros(320)}),
            r"stages\.0\.blocks\.0\.mlp\.grn\.weight is not part of it$",
        ),
        (lambda d: d.pop("stem.0.weight"), r"stem\.0\.weight is missing"),
    ],
)
def test_a_wrong_entry_is_named(nano, change, line):
    damaged = dict(nano)
    change(damaged)
    with pytest.raises(WeightsError, match=line):
        import_state_dict(damaged, NANO)


def test_weights_of_a_kin_are_refused(nano):
    with pytest.raises(WeightsError, match="convnext_tiny: these are weights of convnext_nano"):
        import_state_dict(nano, "convnext_tiny")


def test_small_and_base_differ_in_width():
    for arch, (depths, width) in ARCHITECTURES.items():
        names = [
            f"stages.{stage}.blocks.{block}.gamma"
            for stage, depth in enumerate(depths)
            for block in range(depth)
        ]
        entries = dict.fromkeys(names, np.zeros(1)) | {"stem.0.weight": np.zeros((width, 3, 4, 4))}
        assert architecture_of(entries) == arch


def test_decay_leaves_out_what_timms_leaves_out(nano):
    """Weight decay leaves out vectors: biases, norms and the scale of each block."""
    params = import_state_dict(nano, NANO)["params"]
    decays = {
        spec_of(NANO).names.of(("params", *path))
        for path, yes in flatten_dict(is_matrix(params, but=spec_of(NANO).no_decay)).items()
        if yes
    }
    assert decays == {name for name, value in nano.items() if value.ndim > 1}


@pytest.fixture(scope="module")
def apply(nano):
    """Provides a function from a seed and settings to the logits of two pictures."""
    variables = import_state_dict(nano, NANO)
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))

    def logits(seed=0, train=True, **settings):
        model = create_model(NANO, 3, **settings)
        key = {"dropout": jax.random.key(seed)}
        return jax.jit(partial(model.apply, train=train, rngs=key))(variables, x)

    return logits


@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.float16)]
)
def test_half_precision_has_norms_and_logits_in_float32(narrow, dtype):
    """Each gradient differs by only a few roundings from the gradient in float32."""
    params = import_state_dict(filled(NANO, 3), NANO)["params"]
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    keep = {"capture_intermediates": lambda module, _: isinstance(module, nn.LayerNorm)}
    apply = partial(create_model(NANO, 3, dtype=dtype).apply, train=True, mutable="intermediates")
    logits, norms = jax.eval_shape(partial(apply, **keep), {"params": params}, x)
    norms = jax.tree.leaves(norms)
    # A norm is in the stem, in each block, before each stage but the first, and in the head.
    assert len(norms) == 1 + 5 + 3 + 1
    assert {leaf.dtype for leaf in (logits, *norms)} == {jnp.dtype("float32")}
    assert_gradients_of_half(dtype, lambda dtype: create_model(NANO, 3, dtype=dtype), params, x)


def test_what_is_computed_again_gives_the_same_gradient(narrow):
    x = jax.random.normal(jax.random.key(1), (2, 64, 64, 3))
    params = import_state_dict(filled(NANO, 3), NANO)["params"]

    def gradient(remat):
        model = create_model(NANO, 3, remat=remat)

        def total(params):
            return jnp.sum(model.apply({"params": params}, x, train=True) ** 2)

        kept = jax.eval_shape(lambda params: jax.vjp(total, params)[1], params)
        return jax.jit(jax.grad(total))(params), sum(leaf.size for leaf in jax.tree.leaves(kept))

    (plain, kept), (again, kept_less) = gradient(False), gradient(True)
    assert kept_less < 0.8 * kept
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(other).max())


def test_each_block_is_left_out_as_often_as_its_place_asks(narrow):
    """The rate rises from 0 in the first block; each item has its own draws; what stays is scaled.

    Each item's logits are therefore those of a network that lacks some of the blocks.
    """
    params = flatten_dict(import_state_dict(filled(NANO, 3), NANO)["params"])
    blocks = [path for path in sorted(params) if path[-1] == "gamma"][1:]
    rates = 0.6 * np.array([0.25, 0.5, 0.75, 1])
    x = jax.random.normal(jax.random.key(0), (64, 32, 32, 3))

    @partial(jax.jit, static_argnums=0)
    def logits(rate, factors):
        scaled = {path: params[path] * factors[number] for number, path in enumerate(blocks)}
        model, rngs = create_model(NANO, 3, drop_path=rate), {"dropout": jax.random.key(0)}
        given = {"params": unflatten_dict({**params, **scaled})}
        return model.apply(given, x, train=True, rngs=rngs)

    stays = np.array(list(itertools.product((0, 1), repeat=4)))
    outcomes = np.stack([logits(0.0, jnp.asarray(one / (1 - rates))) for one in stays])
    apart = np.abs(outcomes - logits(0.6, jnp.ones(4))).max(axis=-1)
    assert apart.min(axis=0).max() < 1e-4 < np.sort(apart, axis=0)[1].min()
    # Over 64 items, a share has a standard error of at most 0.063.
    np.testing.assert_allclose(1 - stays[apart.argmin(axis=0)].mean(axis=0), rates, atol=0.19)


def test_blocks_are_left_out_by_the_steps_key_and_only_in_training(apply):
    plain = apply()
    np.testing.assert_array_equal(apply(drop_path=0.9, train=False), apply(train=False))
    np.testing.assert_array_equal(apply(1, drop_path=0.9), apply(1, drop_path=0.9))
    assert np.any(apply(1, drop_path=0.9) != apply(2, drop_path=0.9))
    assert np.any(apply(1, drop_path=0.9) != plain)


def test_what_cannot_be_built_is_one_line():
    for settings, line in (
        ({"arch": "resnet18", "drop_path": 0.1}, r"drop_path = 0\.1: .* resnet18 has no parameter"),
        ({"arch": NANO, "head": "conv"}, r"model\.head = conv: should be one of linear, concat"),
    ):
        with pytest.raises(ConfigError, match=line):
            create_model(num_classes=3, **settings)
    init = partial(create_model(NANO, 3).init, jax.random.key(0), train=False)
    with pytest.raises(ConfigError, match=r"data\.size = 28: convnext_nano needs at least 32"):
        init(jnp.zeros((1, 28, 32, 3)))


SIZES = ("--data.presize", 36, "--data.size", 32, "--data.batch-size", 8)


@pytest.fixture
def started(capsys):
    """Provides a function that runs a command and returns its status, output and messages."""

    def start(command, options, *argv):
        status = run(command, options, f"python -m {command.__name__}", [*map(str, argv)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return start


@pytest.fixture
def narrow(monkeypatch):
    """Gives `convnext_nano` fewer and narrower blocks, under the same name in the registry."""
    monkeypatch.setitem(ARCHITECTURES, NANO, ((1, 1, 2, 1), 16))
    entries_of.cache_clear()
    yield
    entries_of.cache_clear()


@pytest.mark.slow
def test_every_command_takes_one(started, pictures, tmp_path, narrow):
    weights, file = (tmp_path / f"{name}.safetensors" for name in ("nano", "learner"))
    folder = tmp_path / "run"
    save_file(filled(NANO, 3), weights)
    common = ("--data.path", pictures, *SIZES, "--model.arch", NANO, "--model.weights", weights)
    more = ("--model.drop-path", 0.1, "--model.head", "linear", "--model.remat", "--fit.epochs", 1)
    status, out, err = started(train, TrainOptions, *common, *more, "--workdir", folder)
    assert status == 0, err
    assert "a new head" in out
    picture = pictures / "red" / "0.jpg"
    status, of_run, err = started(predict, PredictOptions, folder, picture)
    assert status == 0, err
    to_file = (folder, "--format", "learner", "--out", file)
    assert started(export, ExportOptions, *to_file)[0] == 0
    assert started(predict, PredictOptions, file, picture)[1] == of_run
    status, out, err = started(evaluate, EvaluateOptions, folder, "--json")
    assert status == 0, err
    assert json.loads(out)["classes"] == ["blue", "red"]
    argv = (*common, "--fit.epochs", 1, "--workdir", tmp_path / "profile", "--json")
    argv += ("--out", tmp_path / "profile.png")
    status, out, err = started(transfer_profile, ProfileOptions, *argv)
    assert status == 0, err
    assert len(json.loads(out)["frozen"]) == len(spec_of(NANO).stages)
    assert "frozen: stem to stages_2" in err


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (("--no-model.train-bn",), "only works with batch norms, which convnext_nano does not"),
        (("--no-model.train-bn", "--model.head", "concat_pool"), "does not have before its head"),
    ],
)
def test_settings_of_batch_norms_are_refused(argv, line, started, nano, pictures, tmp_path):
    weights = tmp_path / "nano.safetensors"
    save_file(nano, weights)
    common = ("--data.path", pictures, *SIZES, "--model.arch", NANO, "--model.weights", weights)
    head = () if "--model.head" in argv else ("--model.head", "linear")
    status, _, err = started(train, TrainOptions, *common, *argv, *head)
    assert status == 2
    assert line in err
    assert err.count("\n") == 1


def test_a_notebook_is_told_that_there_are_no_batch_norms(pictures):
    block = jx.DataBlock(jx.from_folder(pictures), jx.random_split(0.2), presize=36, size=32)
    lines = []
    learn = jx.vision_learner(
        block.load(batch_size=8), NANO, "none", train_bn=False, say=lines.append
    )
    assert lines == ["train_bn = False changes nothing: convnext_nano has no batch norms"]
    learn.freeze()
    assert learn.groups.names == ("stem to stages_3", "head")


if __name__ == "__main__":
    compare_with_timm(sys.argv[1])
