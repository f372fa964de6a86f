"""Vision transformers compute what timm's do, and work with the commands that ResNets work with."""

import json
import math
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

import jaxch5 as jx
from jaxch5.cli import run
from jaxch5.config.settings import Config
from jaxch5.errors import ConfigError, WeightsError
from jaxch5.evaluate import EvaluateOptions, evaluate
from jaxch5.export import ExportOptions, export
from jaxch5.losses import cross_entropy
from jaxch5.models.convert import architecture_of
from jaxch5.models.features import pooled_features
from jaxch5.models.positions import resample_positions
from jaxch5.models.pretrained import Pretrained, for_size
from jaxch5.models.registry import create_model, spec_of
from jaxch5.models.spec import IMAGENET
from jaxch5.models.vit import Block, vit_spec
from jaxch5.models.weights import export_state_dict, import_state_dict
from jaxch5.optim.groups import group_rates
from jaxch5.optim.optimizer import is_matrix
from jaxch5.predict import PredictOptions, predict
from jaxch5.run.directory import create_run
from jaxch5.train import TrainOptions, train
from jaxch5.training.freezing import layer_groups
from jaxch5.transfer_profile import ProfileOptions, transfer_profile
from tests.models.shared import (
    assert_gradients,
    assert_gradients_of_half,
    fill,
    pictures,
    run_alone,
)

# Computed with timm 1.0.31 and PyTorch 2.13 in float32 on a CPU.
TIMM = json.loads((Path(__file__).parent / "vit.json").read_text())
TINY = {"patch": 8, "width": 32, "heads": 2, "depth": 2}
SPEC = vit_spec("tiny_vit", **TINY)
REGISTERED = vit_spec("tiny_vit_reg", registers=2, layer_scale=1e-5, **TINY)


def shapes_of(arch, size, num_classes=1000, head="linear"):
    init = partial(create_model(arch, num_classes, head).init, train=False)
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, size, size, 3)))


def state_dict_of(arch, size):
    empty = jax.tree.map(
        lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes_of(arch, size)
    )
    names = export_state_dict(empty, arch)
    return {name: fill(name, value.shape) for name, value in names.items()}


def drawn(spec, size, head="linear"):
    init = partial(create_model(spec, 3, head).init, train=False)
    return jax.jit(init)(jax.random.key(0), jnp.zeros((1, size, size, 3)))


def mixed(spec, sides, head="linear"):
    """Returns variables with which every token affects all others, unlike those of a new network.

    The variables of the body are the same under either head.
    """
    init = partial(create_model(spec, 3, head).init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, *sides, 3)))
    names = {"scale": "weight", "mean": "running_mean", "var": "running_var"}
    return unflatten_dict(
        {
            path: jnp.asarray(
                fill(".".join((*path[:-1], names.get(path[-1], path[-1]))), one.shape)
            )
            for path, one in flatten_dict(shapes).items()
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize("arch", TIMM["archs"])
def test_what_timm_computes_is_computed(arch, usual_compiler):
    """Vision transformers have the features and outputs of timm's networks.

    Except for DINOv2, their loss and gradients are timm's, too. One network is compiled with the
    compiler's usual settings, as a user's is. The others run the same code, and with the tests'
    settings they take half the time.
    """
    run_alone(__file__, arch, usual_compiler if arch == "vit_small_patch16_224" else None)


def compare_with_timm(arch):
    golden, is_dinov2 = TIMM["archs"][arch], "dinov2" in arch
    # timm's DINOv2 has position embeddings for pictures of 518 pixels.
    size, stored = (98, 518) if is_dinov2 else (96, 96)
    weights = import_state_dict(state_dict_of(arch, stored), arch)
    weights = Pretrained(weights, IMAGENET, None, arch)
    variables = for_size(weights, spec_of(arch), (size, size)).variables
    model, x = create_model(arch, 1000), pictures(size)

    # With a linear head, the last block returns the class token alone; with the other, all tokens.
    every_token = create_model(arch, 1000, "concat_pool")
    head = jax.eval_shape(partial(every_token.init, train=False), jax.random.key(0), x)
    head = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), head)

    @jax.jit
    def evaluate(variables):
        is_norm = {"capture_intermediates": lambda module, _: module.name == "norm"}
        body = {**head, "params": {**variables["params"], "head": head["params"]["head"]}}
        _, kept = every_token.apply(body, x, train=False, mutable="intermediates", **is_norm)
        logits = model.apply(variables, x, train=False)
        return logits, kept["intermediates"]["norm"]["__call__"][0]

    @jax.jit
    @jax.value_and_grad
    def loss_of(params):
        logits = model.apply({"params": params}, x, train=True)
        return cross_entropy(logits, jnp.array([1, 20, 300, 999]))

    with jax.default_matmul_precision("highest"):
        logits, features = evaluate(variables)
        loss, grads = loss_of(variables["params"])
    assert float(jnp.linalg.norm(features)) == pytest.approx(golden["features_l2"], rel=1e-4)
    kind, found = ("pooled", features[:, 0]) if is_dinov2 else ("eval_logits", logits)
    norm = golden[f"{kind}_l2"]
    atol = 1e-4 * norm / math.sqrt(found.size)
    np.testing.assert_allclose(found[:, :8], golden[f"{kind}_first8"], rtol=0, atol=atol)
    assert float(jnp.linalg.norm(found)) == pytest.approx(norm, rel=1e-4)
    if is_dinov2:
        return
    assert float(loss) == pytest.approx(golden["train_loss"], rel=1e-4)
    if (of_mean := golden.get("mean_pool")) is not None:
        evaluate = partial(create_model(arch, 1000, "mean_pool").apply, train=False)
        with jax.default_matmul_precision("highest"):
            logits = jax.jit(evaluate)(variables, x)
        loss_of_mean = cross_entropy(logits, jnp.array([1, 20, 300, 999]))
        np.testing.assert_allclose(logits[:, :8], of_mean["logits_first8"], rtol=0, atol=atol)
        assert float(jnp.linalg.norm(logits)) == pytest.approx(of_mean["logits_l2"], rel=1e-4)
        assert float(loss_of_mean) == pytest.approx(of_mean["train_loss"], rel=1e-4)
    named = ("blocks", "head")
    assert_gradients(arch, grads, lambda name: 1 + (name[0] in named), golden["grad_l2"], 2e-2)


@pytest.mark.parametrize("arch", TIMM["names"])
def test_timms_state_dict_goes_in_and_out_to_the_bit(arch):
    named = {
        name.replace("blocks.0.", f"blocks.{block}."): shape
        for name, shape in TIMM["names"][arch].items()
        for block in range(12)
    }
    head = {"head.weight": [5, 384], "head.bias": [5]}
    given = {name: fill(name, shape) for name, shape in {**named, **head}.items()}
    assert architecture_of(given) == arch
    again = export_state_dict(import_state_dict(given, arch), arch)
    assert again.keys() == given.keys()
    for name, value in given.items():
        np.testing.assert_array_equal(again[name], value)
    without = {name: value for name, value in given.items() if name not in head}
    body = import_state_dict(without, arch)
    assert "head" not in body["params"]
    out = export_state_dict(body, arch)
    assert out.keys() == without.keys()
    for name, value in without.items():
        np.testing.assert_array_equal(out[name], value)


@pytest.mark.parametrize("arch", TIMM["archs"])
def test_parameter_counts_are_timms(arch):
    golden, is_dinov2 = TIMM["archs"][arch], "dinov2" in arch
    leaves = flatten_dict(shapes_of(arch, 518 if is_dinov2 else 96)["params"])
    if is_dinov2:
        leaves = {path: leaf for path, leaf in leaves.items() if path[0] != "head"}
    # The parameters of timm's small DINOv2 were counted at 98 pixels, as in `compare_with_timm`.
    if arch == "vit_small_patch14_dinov2":
        leaves[("pos_embed",)] = np.zeros((1, 50, 384))
    assert sum(leaf.size for leaf in leaves.values()) == golden["params"]


@pytest.mark.parametrize("grid", TIMM["resample"])
def test_positions_are_resampled_as_timm_does(grid):
    """Position embeddings are resampled as timm does, to fewer patches or to more.

    The class token's embedding stays the same, and patches that do not form a square are refused.
    """
    high, wide = map(int, grid.split("x"))
    # Exact in float32, so that every processor resamples the same numbers; they are below 6.
    square = (np.arange(32) * 37 % 41 / 8).astype(np.float32).reshape(1, 16, 2)
    positions = np.concatenate([np.full((1, 1, 2), 9.0, np.float32), square], axis=1)
    found = resample_positions(1, 8, positions, (8 * high, 8 * wide))
    np.testing.assert_allclose(found[0, 1:, 1], TIMM["resample"][grid], atol=2e-6)
    assert found[0, 0].tolist() == [9, 9]
    same = resample_positions(1, 8, positions, (32, 32))
    assert same is positions
    with pytest.raises(WeightsError, match="has 15 patches, which form no square"):
        resample_positions(2, 8, positions, (8, 8))


ROWS = np.repeat(np.arange(4, dtype=np.float32), 4).reshape(1, 16, 1)


@pytest.mark.parametrize(("before", "after"), [((4, 4), (2, 8)), ((8, 2), (4, 4))])
def test_positions_are_resampled_between_grids_that_have_as_many_patches(before, after):
    """An embedding that is the number of a patch's row stays the same along the row."""
    rows = np.repeat(np.arange(before[0], dtype=np.float32), before[1]).reshape(1, 16, 1)
    sides = [tuple(8 * side for side in grid) for grid in (after, before)]
    found = np.asarray(resample_positions(0, 8, rows, *sides)).reshape(after)
    np.testing.assert_allclose(found, np.broadcast_to(found[:, :1], after), atol=1e-5)
    assert np.all(np.diff(found[:, 0]) > 0.5)


def test_positions_of_the_same_size_are_not_touched():
    assert resample_positions(0, 8, ROWS, (16, 64), (16, 64)) is ROWS
    # Weights are often tested at another size than they were trained at.
    assert resample_positions(0, 8, ROWS, (32, 32), (40, 40)) is ROWS
    no_square = np.ones((1, 15, 1), np.float32)
    assert resample_positions(0, 8, no_square, (24, 40)) is no_square


def test_positions_whose_grid_nothing_tells_are_refused():
    line = r"whether the 16 patches of pos_embed are 4x4 or 2x8; name a run or an exported file"
    with pytest.raises(WeightsError, match=line):
        resample_positions(0, 8, ROWS, (16, 64))


def test_weights_state_the_grid_of_their_positions(tmp_path):
    """Weights for 2x8 patches begin training with 4x4, and with 2x8 they are taken as they are."""
    block = jx.DataBlock(jx.digits(), jx.random_split(0.98), presize=64, size=(16, 64))
    wide = block.load(batch_size=16)
    square = replace(block, size=32).load(batch_size=16)
    made = partial(jx.vision_learner, arch=SPEC, head="linear", say=lambda line: None)
    learn = made(wide, weights="none")
    learn.export(tmp_path / "weights.safetensors")
    before = np.asarray(learn.state.params["pos_embed"])
    again = made(wide, weights=tmp_path / "weights.safetensors")
    np.testing.assert_array_equal(again.state.params["pos_embed"], before)
    other = made(square, weights=tmp_path / "weights.safetensors")
    expected = resample_positions(1, 8, before, (32, 32), (16, 64))
    np.testing.assert_array_equal(other.state.params["pos_embed"], expected)
    assert not np.array_equal(before, expected)
    with pytest.raises(WeightsError, match="the variables that were given: nothing states whether"):
        made(wide, weights=learn.state.variables)
    with pytest.raises(ConfigError, match="the weights of this network fit only size 16x64"):
        learn.data = square


def test_a_function_that_resamples_is_given_both_sizes():
    given = []

    def cut(value, sides, before):
        given.append((sides, before))
        return value[:, : math.prod(sides)]

    spec = replace(SPEC, resample={"pos_embed": cut})
    weights = Pretrained({"params": {"pos_embed": ROWS}}, IMAGENET, None, "there", size=(16, 64))
    found = for_size(weights, spec, (2, 3)).variables["params"]["pos_embed"]
    np.testing.assert_array_equal(found, ROWS[:, :6])
    assert given == [((2, 3), (16, 64))]


def test_weights_of_pictures_of_another_size_begin_training(pictures, tmp_path):
    """Weights trained at 16 pixels can start training at 32: their positions are resampled.

    A learner's file keeps the position embeddings that it was saved with.
    """
    weights = tmp_path / "weights.safetensors"
    block = jx.DataBlock(jx.from_folder(pictures), jx.random_split(), presize=36, size=16)
    learn = jx.vision_learner(block.load(batch_size=8), REGISTERED, "none", head="linear")
    learn.export(weights)
    learn.save(tmp_path / "learner.safetensors")
    data = jx.DataBlock(block.source, block.split, presize=36, size=32).load(batch_size=8)
    made = partial(jx.vision_learner, data, REGISTERED, head="linear", say=lambda line: None)
    larger = made(weights)
    before, after = (made.state.params["pos_embed"] for made in (learn, larger))
    assert (before.shape, after.shape) == ((1, 4, 32), (1, 16, 32))
    np.testing.assert_array_equal(after, resample_positions(0, 8, np.asarray(before), (32, 32)))
    kept = jx.load_learner(tmp_path / "learner.safetensors", REGISTERED)
    assert kept.variables["params"]["pos_embed"].shape == (1, 4, 32)
    assert len(kept.predict(np.zeros((20, 20, 3), np.uint8)).probabilities) == 2


def test_a_size_that_is_no_number_of_patches_is_refused():
    line = r"data\.size = 100: vit_small_patch16_224 takes multiples of 16, .*--data\.size 112"
    with pytest.raises(ConfigError, match=line):
        shapes_of("vit_small_patch16_224", 100)


def test_weight_decay_leaves_alone_what_timm_leaves_alone():
    spec = spec_of("vit_small_patch14_reg4_dinov2")
    params = shapes_of(spec, 224)["params"]
    decays = flatten_dict(is_matrix(params, spec.no_decay))
    found = {spec.names.of(("params", *path)) for path, decay in decays.items() if decay}
    found = {name for name in found if not name.startswith("blocks.") or ".0." in name}
    tokens = {"cls_token", "pos_embed"}
    expected = {name.replace("N", "0") for name in TIMM["decay"] if name not in tokens}
    assert found == expected


def test_groups_are_blocks_and_the_last_norm_is_the_last_blocks():
    spec = spec_of("vit_small_patch16_224")
    assert len(spec.stages) == 14
    assert [spec.stage(name) for name in ("pos_embed", "patch_embed_proj", "blocks_1")] == [
        *("embed", "embed", "blocks_1")
    ]
    assert [spec.stage(name) for name in ("blocks_10", "norm", "head")] == [
        *("blocks_10", "blocks_11", "head")
    ]


def test_layer_decay_gives_each_block_the_share_that_timm_gives_it():
    spec = spec_of("vit_small_patch16_224")
    params = shapes_of(spec, 224)["params"]
    groups = layer_groups("stages", spec, params)
    shares = group_rates(1.0, len(groups.names), layer_decay=0.75)
    found = {}
    for path in flatten_dict(params):
        name = spec.names.of(("params", *path)).split(".")
        part = ".".join(name[: 2 if name[0] == "blocks" else 1])
        found.setdefault(part, set()).add(shares[groups.of(path[0])])
    assert found == {part: {share} for part, share in TIMM["layer_decay"].items()}


@pytest.mark.parametrize("head", ["linear", "concat_pool"])
def test_registers_and_patches_reach_the_head(head):
    """The head "linear" takes the class token; "concat_pool" takes the patches' mean as well.

    Registers affect both, but are not patches, and have no positions: exchanging two of them only
    exchanges their outputs. So does exchanging two patches together with their positions.
    """
    x = jax.random.normal(jax.random.key(1), (2, 32, 24, 3))
    model, variables = create_model(REGISTERED, 3, head), mixed(REGISTERED, (32, 24), head)
    of_every = mixed(REGISTERED, (32, 24), "concat_pool")
    every = create_model(REGISTERED, 3, "concat_pool")

    @jax.jit
    def tokens(x, **changed):
        keep = {"capture_intermediates": lambda module, _: module.name == "norm"}
        given = {**of_every, "params": {**of_every["params"], **changed}}
        _, kept = every.apply(given, x, train=False, mutable="intermediates", **keep)
        return kept["intermediates"]["norm"]["__call__"][0]

    near = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    found = tokens(x)
    assert found.shape == (2, 1 + 2 + 4 * 3, 32)
    parts = [found[:, 0], found[:, 3:].mean(axis=1)][: 1 + (head == "concat_pool")]
    near(pooled_features(model, variables, x), jnp.concatenate(parts, axis=-1))

    registers, places = (of_every["params"][name] for name in ("reg_token", "pos_embed"))
    near(tokens(x, reg_token=registers[:, ::-1]), found[:, jnp.array([0, 2, 1, *range(3, 15)])])
    for number in (0, 1):
        changed = tokens(x, reg_token=registers.at[:, number].set(0))
        assert float(jnp.abs(changed - found)[:, 0].max()) > 0.01
    patches, order = x.reshape(2, 4, 8, 3, 8, 3), jnp.arange(12).at[jnp.array([0, 7])].set([7, 0])
    patches = patches.swapaxes(2, 3).reshape(2, 12, 8, 8, 3)[:, order]
    exchanged = patches.reshape(2, 4, 3, 8, 8, 3).swapaxes(2, 3).reshape(x.shape)
    expected = jnp.concatenate([found[:, :3], found[:, 3:][:, order]], axis=1)
    near(tokens(exchanged, pos_embed=places[:, order]), expected)
    assert float(jnp.abs(tokens(exchanged) - expected).max()) > 0.01


@pytest.mark.parametrize("spec", [SPEC, REGISTERED])
def test_with_a_linear_head_the_last_block_computes_the_class_token_alone(spec):
    """The class token and all gradients are the same as if every token were computed."""
    model, x = create_model(spec, 3), jax.random.normal(jax.random.key(1), (2, 32, 24, 3))
    params = jax.jit(partial(model.init, train=False))(jax.random.key(0), x)["params"]
    leaves, tree = jax.tree.flatten(params)
    # With the initial weights, a DINOv2's blocks add next to nothing.
    drawn = [fill(str(index), leaf.shape) for index, leaf in enumerate(leaves)]
    params = jax.tree.unflatten(tree, drawn)

    def loss(params):
        keep = {"capture_intermediates": lambda module, _: module.name == "blocks_1"}
        found, kept = model.apply({"params": params}, x, True, mutable="intermediates", **keep)
        return jnp.sum(jnp.sin(found)), kept["intermediates"]["blocks_1"]["__call__"][0]

    def every_token(next_function, args, kwargs, context):
        if isinstance(context.module, Block):
            object.__setattr__(context.module, "returned", None)
        return next_function(*args, **kwargs)

    (ours, last), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    with nn.intercept_methods(every_token):
        (full, of_all), expected = jax.value_and_grad(loss, has_aux=True)(params)
    assert (last.shape[1], of_all.shape[1]) == (1, 12 + 1 + model.registers)
    np.testing.assert_allclose(last, of_all[:, :1], rtol=1e-5, atol=1e-5)
    assert float(ours) == pytest.approx(float(full), rel=1e-5)
    size = optax.tree.norm(expected)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6 * size), gradient, expected
    )


@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.float16)]
)
def test_half_precision_keeps_weights_and_logits_in_float32(dtype):
    """Gradients are float32, too, and differ from those of full precision by a few roundings."""
    x, params = (
        jax.random.normal(jax.random.key(1), (2, 16, 16, 3)),
        mixed(SPEC, (16, 16))["params"],
    )
    half = create_model(SPEC, 3, dtype=dtype)
    assert jax.eval_shape(partial(half.apply, train=True), {"params": params}, x).dtype == "float32"
    drawn = jax.eval_shape(partial(half.init, train=False), jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(drawn)} == {jnp.dtype("float32")}
    assert_gradients_of_half(dtype, lambda dtype: create_model(SPEC, 3, dtype=dtype), params, x)


def test_what_is_computed_again_gives_the_same_gradient():
    x, variables = jax.random.normal(jax.random.key(1), (2, 16, 16, 3)), drawn(SPEC, 16)

    def gradient(remat):
        model = create_model(SPEC, 3, remat=remat)

        def total(params):
            return jnp.sum(model.apply({"params": params}, x, train=True) ** 2)

        kept = jax.eval_shape(lambda params: jax.vjp(total, params)[1], variables["params"])
        return jax.jit(jax.grad(total))(variables["params"]), sum(
            leaf.size for leaf in jax.tree.leaves(kept)
        )

    (plain, kept), (again, kept_less) = gradient(False), gradient(True)
    assert kept_less < 0.8 * kept
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), again, plain)


def test_blocks_are_left_out_in_training_alone():
    """In training, the last block's attention and its MLP are each left out for some items.

    For the other items, they are scaled. The rate rises from 0 in the first block, and each item
    has draws of its own.
    """
    x, variables = jax.random.normal(jax.random.key(1), (16, 16, 16, 3)), mixed(SPEC, (16, 16))

    @partial(jax.jit, static_argnums=(0, 1))
    def logits(rate, train=True, seed=0, attention=1.0, mlp=1.0):
        params = flatten_dict(variables["params"])
        for leaf in ("kernel", "bias"):
            params["blocks_1", "attn_proj", leaf] *= attention
            params["blocks_1", "mlp", "fc2", leaf] *= mlp
        model, rngs = create_model(SPEC, 3, drop_path=rate), {"dropout": jax.random.key(seed)}
        return model.apply({"params": unflatten_dict(params)}, x, train=train, rngs=rngs)

    np.testing.assert_array_equal(logits(0.5, False), logits(0.5, False, 1))
    np.testing.assert_allclose(logits(0.5, False), logits(0.0), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(logits(0.5), logits(0.5))
    assert np.any(logits(0.5) != logits(0.5, True, 1))
    # At a rate of a half, what is not left out is doubled.
    choices = [(attention, mlp) for attention in (0.0, 2.0) for mlp in (0.0, 2.0)]
    outcomes = jnp.stack([logits(0.0, True, 0, *choice) for choice in choices])
    apart = np.abs(outcomes - logits(0.5)).max(axis=-1)
    assert apart.min(axis=0).max() < 1e-4 < 0.01 < np.sort(apart, axis=0)[1].min()
    assert set(apart.argmin(axis=0).tolist()) == {0, 1, 2, 3}


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """Provides the import path of the tiny network's spec, as the command line takes it."""
    folder = tmp_path_factory.mktemp("nets")
    code = f"from jaxch5.models.vit import Block, vit_spec\nSPEC = vit_spec('tiny_vit', **{TINY})\n"
    (folder / "vit_nets.py").write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield "vit_nets:SPEC"


def test_it_goes_the_whole_way_from_the_command_line(named, pictures, tmp_path, capsys):
    """The commands can train, evaluate, export, predict with and profile a vision transformer.

    Training first freezes the body, and then gives each block its own learning rate.
    """

    def command(function, options, *words):
        status = run(function, options, "jaxch5", [*map(str, words)])
        said = capsys.readouterr()
        assert status == 0, said.err
        return said.out

    weights, folder, file = (tmp_path / name for name in ("w.safetensors", "run", "l.safetensors"))
    save_file(export_state_dict(drawn(SPEC, 16), SPEC), weights)
    ours = ("--model.arch", named)
    settings = ("--data.path", pictures, "--data.size", 32, "--data.presize", 36, *ours)
    settings += ("--data.batch-size", 8, "--fit.epochs", 1, "--model.weights", weights)
    words = (*settings, "--fit.layer-decay", 0.75, "--model.head", "linear", "--workdir", folder)
    said = command(train, TrainOptions, *words)
    assert "a new head" in said
    assert "rates: head 1, blocks_1 0.75, blocks_0 0.5625, embed 0.4219 of the learning" in said
    assert "finished" in command(train, TrainOptions, "--resume", folder)
    assert command(evaluate, EvaluateOptions, folder, *ours)
    command(export, ExportOptions, folder, *ours, "--format", "learner", "--out", file)
    program = tmp_path / "program.stablehlo"
    command(export, ExportOptions, folder, *ours, "--format", "stablehlo", "--out", program)
    picture = pictures / "red" / "0.jpg"
    of_run, of_file = (
        command(predict, PredictOptions, trained, picture, *ours) for trained in (folder, file)
    )
    assert of_run == of_file
    own = "--out", tmp_path / "p.png", "--workdir", tmp_path / "profile"
    profile = command(transfer_profile, ProfileOptions, *settings, *own)
    assert all(stage in profile for stage in ("embed", "blocks_0", "blocks_1", "head"))


if __name__ == "__main__":
    compare_with_timm(sys.argv[1])


def test_a_run_is_loaded_with_the_head_that_it_trained_whatever_its_configuration_says(tmp_path):
    """The heads on the class token and on the mean have the same weights, but not the same answers.

    So do the run's weights when training begins from them.
    """
    block = jx.DataBlock(jx.digits(), jx.random_split(0.98), presize=16, size=16, augment=None)
    data = block.load(batch_size=16)
    learn = jx.vision_learner(data, SPEC, "none", head="mean_pool")
    config = Config.model_validate({"data": {"presize": 16, "size": 16}})
    assert config.model.head == "linear"
    learn.run = create_run(config, tmp_path / "run")
    learn.fit(1, 1e-2)
    loaded = jx.load_learner(learn.run.path, SPEC)
    assert loaded.about.head == "mean_pool"
    picture = jx.digits().read(0)
    expected = learn.predict(picture).probabilities
    np.testing.assert_allclose(loaded.predict(picture).probabilities, expected, atol=1e-6)
    lines = []
    again = jx.vision_learner(data, SPEC, learn.run.path, head="mean_pool", say=lines.append)
    assert "their head is kept" in lines[0]
    np.testing.assert_array_equal(again.get_preds()[0], learn.get_preds()[0])
    jx.vision_learner(data, SPEC, learn.run.path, head="linear", say=lines.append)
    assert "a new head: theirs is mean_pool (--model.head mean_pool)" in lines[1]
