"""Heads and batch norms compute what PyTorch's do, and attention and GELU what JAX's do."""

import math
import zlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxch5.models.layers import BatchNorm, ConcatPoolHead, LinearHead, attention, gelu

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# Logits of fastai 2.8.12's create_head(512, 3), with the weights of `filled` and the maps of
# `feature_map`.
EVAL = [
    [-1.62123703956604, -0.524648904800415, 0.780381441116333],
    [-0.35750988125801086, -1.422869324684143, -0.8514145016670227],
    [-1.0533839464187622, -0.9298704862594604, -0.10205058753490448],
    [-0.17712682485580444, -1.5581722259521484, -0.26435786485671997],
]
# The same in training, with both dropout rates at 0; `MEAN` and `VAR` are the first four running
# means and variances of the second batch norm afterwards.
TRAIN = [
    [-1.87889564037323, 1.0469422340393066, 2.2794675827026367],
    [1.8134779930114746, 0.25608497858047485, -1.4718844890594482],
    [-0.35783201456069946, 0.8841375112533569, 0.34901243448257446],
    [0.22153836488723755, -1.4506325721740723, -0.5295674800872803],
]
MEAN = [0.08067584037780762, -0.09737610816955566, -0.1527629792690277, -0.11533035337924957]
VAR = [1.2773505449295044, 0.4688834249973297, 0.9491622447967529, 0.7997908592224121]


def feature_map():
    nchw = np.random.default_rng(7).standard_normal((4, 512, 2, 2)).astype(np.float32)
    return jnp.asarray(nchw.transpose(0, 2, 3, 1))


def fill(path, shape):
    """Returns weights that depend only on a layer's name and the shape that PyTorch gives them."""
    _, layer, leaf = path
    rng = np.random.default_rng(zlib.crc32(f"{layer}.{LEAVES[leaf]}".encode()) + 7)
    if leaf == "var":
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if leaf == "kernel":
        return (rng.standard_normal(shape[::-1]) / math.sqrt(shape[0])).astype(np.float32).T
    return (0.1 * rng.standard_normal(shape) + (leaf == "scale")).astype(np.float32)


def filled(head):
    init = partial(head.init, train=False)
    shapes = flatten_dict(jax.eval_shape(init, jax.random.key(0), feature_map()))
    return unflatten_dict({path: fill(path, leaf.shape) for path, leaf in shapes.items()})


def test_concat_pool_evaluates_as_fastais_head_does():
    head = ConcatPoolHead(3)
    logits = head.apply(filled(head), feature_map(), train=False)
    np.testing.assert_allclose(logits, EVAL, rtol=1e-4, atol=1e-5)


def test_concat_pool_trains_as_fastais_head_does():
    head = ConcatPoolHead(3, dropout=0.0)
    logits, updated = head.apply(filled(head), feature_map(), train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(logits, TRAIN, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(updated["batch_stats"]["bn2"]["mean"][:4], MEAN, rtol=1e-4)
    np.testing.assert_allclose(updated["batch_stats"]["bn2"]["var"][:4], VAR, rtol=1e-4)


def test_concat_pool_begins_as_fastais_head_does():
    """Linear layers begin with Kaiming normal weights, batch norms with scale 1 and bias 0.001."""
    params = ConcatPoolHead(3).init(jax.random.key(0), feature_map(), train=False)["params"]
    assert {name: sorted(leaves) for name, leaves in params.items()} == {
        "bn1": ["bias", "scale"],
        "fc1": ["kernel"],
        "bn2": ["bias", "scale"],
        "fc2": ["kernel"],
    }
    for layer, fan_in in (("fc1", 1024), ("fc2", 512)):
        deviation = math.sqrt(2 / fan_in)
        assert float(jnp.std(params[layer]["kernel"])) == pytest.approx(deviation, rel=0.05)
    for layer in ("bn1", "bn2"):
        np.testing.assert_allclose(params[layer]["bias"], 1e-3)
        np.testing.assert_array_equal(params[layer]["scale"], 1.0)


def test_dropout_is_drawn_from_the_key_and_only_in_training():
    head = ConcatPoolHead(3)
    variables, x = filled(head), feature_map()

    rngs = {"dropout": jax.random.key(0)}

    def train(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return head.apply(variables, x, train=True, mutable=["batch_stats"], rngs=rngs)[0]

    np.testing.assert_array_equal(train(0), train(0))
    assert not np.allclose(train(0), train(1))
    evaluated = head.apply(variables, x, train=False, rngs=rngs)
    np.testing.assert_allclose(evaluated, EVAL, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("number", "rate"), [(1, 0.25), (2, 0.5)])
def test_dropout_leaves_out_as_much_as_fastais_does(number, rate):
    """Each layer sets its share of the values to 0, and scales up the others to keep the mean."""
    head = ConcatPoolHead(3)
    layers = {f"bn{number}", f"dropout{number}"}
    _, kept = head.apply(
        filled(head),
        feature_map(),
        train=True,
        rngs={"dropout": jax.random.key(0)},
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda module, _: module.name in layers,
    )
    before, after = (kept["intermediates"][layer]["__call__"][0] for layer in sorted(layers))
    # Of 4 x 512 values or more, the share has a standard error of at most 0.011.
    assert float(jnp.mean(after == 0)) == pytest.approx(rate, abs=0.05)
    stayed = after != 0
    np.testing.assert_allclose(after[stayed], before[stayed] / (1 - rate), rtol=1e-6)


def test_linear_begins_as_pytorchs_linear_layer_does():
    params = LinearHead(1000).init(jax.random.key(0), feature_map(), train=False)["params"]
    bound = 1 / math.sqrt(512)
    for leaf in (params["kernel"], params["bias"]):
        assert float(jnp.max(jnp.abs(leaf))) <= bound
        assert float(jnp.std(leaf)) == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_batch_norm_normalizes_by_the_biased_and_keeps_the_unbiased_variance():
    x = jnp.array([[1.0], [2.0], [6.0]])
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=True)
    y, updated = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y[:, 0], (x[:, 0] - 3.0) / np.sqrt(14 / 3 + 1e-5), rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], [0.3], rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["var"], [0.9 + 0.1 * 7.0], rtol=1e-6)


@pytest.mark.parametrize("sides", [(1, 1), (7, 7), (5, 9)])
def test_evaluation_takes_the_mean_that_training_takes(sides):
    """Evaluation takes means by matrix products on a CPU; only the rounding may be different."""
    x = jax.random.normal(jax.random.key(1), (3, *sides, 512))
    head = LinearHead(10)
    variables = head.init(jax.random.key(0), x, train=False)
    evaluated, trained = (jax.jit(partial(head.apply, train=train)) for train in (False, True))
    np.testing.assert_allclose(evaluated(variables, x), trained(variables, x), atol=2e-6)


def batch_norm(x, cotangent, near):
    """Returns a batch norm's result in training, its running variance, and the input's gradient."""
    channels = x.shape[-1]
    params = {"scale": jnp.linspace(0.5, 2, channels), "bias": jnp.linspace(-1, 1, channels)}
    stats = {"mean": near, "var": jnp.ones(channels)}

    def run(x):
        variables = {"params": params, "batch_stats": stats}
        return BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])

    y, pull, updated = jax.vjp(run, x, has_aux=True)
    return y, updated["batch_stats"]["var"], pull(cotangent)[0]


@pytest.mark.parametrize("offset", [0.0, 3.0, -30.0])
def test_a_variance_in_one_pass_is_that_of_two(monkeypatch, offset):
    """The variance that a GPU computes in one pass equals that of two passes.

    It is accurate even if the running means are off by two standard deviations: nothing cancels.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(offset, [0.1, 1, 10, 100], (64, 14, 14, 4)).astype(np.float32)
    cotangent = rng.standard_normal(x.shape, np.float32)
    near = x.mean((0, 1, 2)) + 2 * x.std((0, 1, 2))
    two_passes = jax.jit(batch_norm)(x, cotangent, near)

    def elsewhere(*operands, cpu, default):
        return default(*operands)

    monkeypatch.setattr(jax.lax, "platform_dependent", elsewhere)
    one_pass = jax.jit(lambda *arguments: batch_norm(*arguments))(x, cotangent, near)
    exact = np.float64(x).var((0, 1, 2)) * (64 * 196 / (64 * 196 - 1)) * 0.1 + 0.9
    for var in (two_passes[1], one_pass[1]):
        np.testing.assert_allclose(var, exact, rtol=1e-5)
    for got, expected in zip(one_pass, two_passes, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("queries", "tokens"), [(1, 1), (5, 5), (8, 8), (17, 17), (1, 17)])
@pytest.mark.parametrize("logit", [0.0, -1e3])
def test_attention_and_its_gradients_are_those_of_jax(queries, tokens, logit):
    """Results and gradients agree for any number of tokens, even if padding has higher logits."""
    rng = np.random.default_rng(tokens)
    shapes = [(2, count, 3, 64) for count in (queries, tokens, tokens, queries)]
    parts = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    if logit:
        # Queries and keys point in opposite directions along one axis, so that all logits are
        # close to `logit`.
        parts[0][..., 0], parts[1][..., 0] = 8 * np.sqrt(-logit), -np.sqrt(-logit)
    query, key, value, cotangent = parts

    def seen_and_gradients(way, *inputs):
        seen, gradients_of = jax.vjp(way, *inputs)
        return seen, *gradients_of(cotangent)

    own, ours = (
        jax.jit(partial(seen_and_gradients, way))(query, key, value)
        for way in (jax.nn.dot_product_attention, attention)
    )
    # A logit near 1,000 is rounded to a multiple of 6e-5, and its weight is off by as much.
    tolerance = 1e-3 if logit else 1e-5
    for mine, theirs in zip(ours, own, strict=True):
        assert np.isfinite(theirs).all()
        scale = max(np.abs(theirs).max(), 1.0)
        np.testing.assert_allclose(mine / scale, theirs / scale, rtol=0, atol=tolerance)


def test_gelu_keeps_its_input_alone_for_the_gradient():
    """Between two matrix products, memory holds three arrays with the size of GELU's input.

    These are the input, the output (for the second product's gradient) and a gradient.
    """

    def loss(first, second, x):
        return jnp.sum(jnp.square(gelu(x @ first) @ second))

    first, second, x = jnp.ones((256, 512)), jnp.ones((512, 64)), jnp.ones((4096, 256))
    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(first, second, x).compile()
    kept = compiled.memory_analysis().temp_size_in_bytes
    assert kept < 3.5 * 4 * len(x) * first.shape[1]


def test_gelu_and_its_gradient_are_those_of_jax():
    x = jnp.linspace(-6, 6, 1001)
    ours, theirs = (
        jax.vmap(jax.value_and_grad(f)) for f in (gelu, partial(jax.nn.gelu, approximate=False))
    )
    for found, expected in zip(ours(x), theirs(x), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
