"""ResNets have the logits, gradients and batch statistics of torchvision's and timm's ResNets."""

import hashlib
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

from jaxch5.errors import ConfigError, WeightsError
from jaxch5.losses import cross_entropy
from jaxch5.models import resnet
from jaxch5.models.registry import create_model
from jaxch5.models.resnet import ARCHITECTURES, Bottleneck
from jaxch5.models.weights import export_state_dict, import_state_dict
from tests.models.shared import assert_gradients_of_half, fill, pictures, run_alone

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())


def shapes_of(arch, num_classes=1000, **kwargs):
    init = partial(create_model(arch, num_classes, **kwargs).init, train=False)
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def zeros(arch):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes_of(arch))


def filled(arch):
    names = export_state_dict(zeros(arch), arch)
    return import_state_dict({name: fill(name, value.shape) for name, value in names.items()}, arch)


@pytest.mark.parametrize("arch", GOLDEN["archs"])
def test_parameter_counts_are_torchvisions(arch):
    counted = sum(leaf.size for leaf in jax.tree.leaves(shapes_of(arch)["params"]))
    assert counted == GOLDEN["archs"][arch]["params"]


@pytest.mark.parametrize("arch", [a for a in GOLDEN["archs"] if a.endswith("d")])
def test_names_and_shapes_are_timms(arch):
    """No name is missing from the state dict, and none is added to it."""
    state_dict = export_state_dict(zeros(arch), arch)
    lines = sorted(f"{name} {list(value.shape)}" for name, value in state_dict.items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == GOLDEN["archs"][arch]["state_dict_sha256"]


@pytest.mark.parametrize("other", ["resnet50", "resnet18d"])
def test_a_resnet_d_is_told_from_its_kin(other):
    weights = export_state_dict(zeros("resnet50d"), "resnet50d")
    with pytest.raises(WeightsError, match=f"of {other}: these are weights of resnet50d"):
        import_state_dict(weights, other)


def compile_blocks():
    """Compiles bottleneck blocks one by one, so that blocks of the same shape share a program."""
    program = nn.jit(Bottleneck, static_argnums=2)
    by_blocks = {arch: (program, depths) for arch, (_, depths) in ARCHITECTURES.items()}
    resnet.ARCHITECTURES = by_blocks


@pytest.mark.slow
@pytest.mark.parametrize("arch", GOLDEN["archs"])
def test_logits_loss_gradients_and_statistics_are_torchvisions(arch, usual_compiler):
    """A network computes what torchvision's or timm's does, up to rounding.

    The compiler has its usual settings, because with fewer optimizations the deepest networks round
    too differently. A network of basic blocks is compiled as one program, as in training; deeper
    networks are compiled block by block.
    """
    run_alone(__file__, arch, usual_compiler)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnet18d"])
def test_so_they_are_in_the_forms_of_a_gpu(arch, usual_compiler):
    """Norms, pooling and block ends in the form for a GPU give torchvision's results, too.

    As these forms are computed on a CPU here, numbers are added in a CPU's order.
    """
    run_alone(__file__, f"{arch} elsewhere", usual_compiler)


def compute_as_elsewhere():
    jax.lax.platform_dependent = lambda *operands, default, **platforms: default(*operands)


def compare_with_torchvision(arch):
    golden = GOLDEN["archs"][arch]
    model, variables, x = create_model(arch, 1000), filled(arch), pictures()
    labels = jnp.array([1, 20, 300, 999])

    def loss_of(params):
        logits, updated = model.apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
        )
        return cross_entropy(logits, labels), updated["batch_stats"]

    def evaluate_and_differentiate(params):
        seen = []

        def see(call, arguments, named, context):
            if context.module.name == "head":
                seen.append(arguments[0])
            return call(*arguments, **named)

        with nn.intercept_methods(see):
            logits = model.apply({**variables, "params": params}, x, train=False)
        return (logits, seen[0]), jax.value_and_grad(loss_of, has_aux=True)(params)

    if ARCHITECTURES[arch.removesuffix("d")][0] is Bottleneck:
        compile_blocks()
    else:
        evaluate_and_differentiate = jax.jit(evaluate_and_differentiate)
    with jax.default_matmul_precision("highest"):
        (logits, features), ((loss, stats), grads) = evaluate_and_differentiate(variables["params"])

    expected = np.array(golden["eval_logits_first8"])
    rms = golden["eval_logits_l2"] / math.sqrt(logits.size)
    np.testing.assert_allclose(logits[:, :8], expected, rtol=0, atol=1e-4 * rms)
    assert float(jnp.linalg.norm(logits)) == pytest.approx(golden["eval_logits_l2"], rel=1e-4)
    assert float(loss) == pytest.approx(golden["train_loss"], rel=1e-4)
    if "features_l2" in golden:
        assert float(jnp.linalg.norm(features)) == pytest.approx(golden["features_l2"], rel=1e-4)
    for name, values in (("mean", "bn1_running_mean_first8"), ("var", "bn1_running_var_first8")):
        if values in golden:
            np.testing.assert_allclose(stats["bn1"][name][:8], golden[values], rtol=1e-4, atol=1e-6)

    most = 5e-3 if arch not in ("resnet101", "resnet152") else 2e-2
    for part, expected_norm in golden["grad_l2"].items():
        # The batch norms that follow make the gradient of the first one a small difference of large
        # sums: in a ResNet-50, PyTorch's float32 gradient is 1.5 % away from its float64 gradient.
        tolerance = 4 * most if part == "bn1" else most
        module = "head" if part == "fc" else part
        leaves = [jax.tree.leaves(grads[key]) for key in grads if key.split("_")[0] == module]
        norm = math.sqrt(sum(float(jnp.sum(leaf**2)) for some in leaves for leaf in some))
        assert norm == pytest.approx(expected_norm, rel=tolerance), part


def test_half_precision_keeps_weights_statistics_and_logits_in_float32(random_variables):
    model = create_model("resnet18", 5, dtype=jnp.bfloat16)
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(1), x)
    apply = partial(model.apply, train=True, mutable=["batch_stats"])
    logits, updated = jax.eval_shape(apply, variables, x)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updated))} == {jnp.dtype("float32")}
    variables = random_variables("resnet18", 5)
    half, full = (
        jax.jit(partial(create_model("resnet18", 5, dtype=dtype).apply, train=False))(variables, x)
        for dtype in (jnp.bfloat16, jnp.float32)
    )
    np.testing.assert_allclose(half, full, rtol=0.02, atol=0.02 * float(jnp.std(full)))


@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.float16)]
)
def test_half_precision_has_the_gradients_of_float32(dtype, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "resnet18", (resnet.BasicBlock, (1, 1, 0, 0)))
    x = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    model_of = partial(create_model, "resnet18", 3)
    variables = model_of().init(jax.random.key(1), x, train=False)
    params, statistics = variables["params"], variables["batch_stats"]
    assert_gradients_of_half(dtype, lambda dtype: model_of(dtype=dtype), params, x, statistics)


@pytest.mark.slow
def test_what_is_computed_again_is_not_kept(monkeypatch):
    """With `remat`, the gradient is the same, and fewer numbers are kept for it.

    How much memory this saves depends on the compiler; on a CPU, it saves none.
    """
    monkeypatch.setitem(ARCHITECTURES, "resnet18", (resnet.BasicBlock, (2, 1, 0, 0)))
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    variables = create_model("resnet18", 3).init(jax.random.key(1), x, train=False)

    def gradient(remat):
        model = create_model("resnet18", 3, remat=remat)

        def total(params):
            whole = {"params": params, "batch_stats": variables["batch_stats"]}
            return jnp.sum(model.apply(whole, x, train=True, mutable=["batch_stats"])[0] ** 2)

        kept = jax.eval_shape(lambda params: jax.vjp(total, params)[1], variables["params"])
        return jax.jit(jax.grad(total))(variables["params"]), sum(
            leaf.size for leaf in jax.tree.leaves(kept)
        )

    (plain, kept), (again, kept_less) = gradient(False), gradient(True)
    assert kept_less < 0.8 * kept
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


def test_a_module_of_ones_own_is_used_as_it_is():
    module = nn.Dense(3)
    assert create_model(module, 3) is module


@pytest.mark.parametrize(
    ("kwargs", "line"),
    [
        (
            {"arch": "resnet20"},
            r"model\.arch = resnet20: should be resnet18, .*did you mean",
        ),
        (
            {"arch": "resnet18", "head": "conv"},
            r"model\.head = conv: should be one of linear, concat",
        ),
    ],
)
def test_an_unknown_name_is_an_error_that_lists_the_known(kwargs, line):
    with pytest.raises(ConfigError, match=line):
        create_model(num_classes=3, **kwargs)


if __name__ == "__main__":
    arch, *elsewhere = sys.argv[1].split()
    if elsewhere:
        compute_as_elsewhere()
    compare_with_torchvision(arch)
