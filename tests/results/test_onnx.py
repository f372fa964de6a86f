"""A function written as ONNX gives the same results as in JAX, for any number of rows."""

import json
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from PIL import Image

from jaxch5.errors import ConfigError
from jaxch5.models.registry import create_model
from jaxch5.models.spec import Normalization
from jaxch5.results.about import About
from jaxch5.results.artifacts import as_onnx
from jaxch5.results.onnx import Unwritten, to_onnx
from jaxch5.results.predictor import Predictor
from jaxch5.training.initial import run_once

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
PLAIN = Normalization((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
NHWC = ("NHWC", "HWIO", "NHWC")


def attended(x):
    x = x.reshape(x.shape[0], -1, 3)
    query, key, value = jnp.split(jnp.tile(x, (1, 1, 3)), 3, axis=-1)
    weights = jax.nn.softmax(jnp.einsum("bqc,bkc->bqk", query, key))
    token = jnp.tile(jnp.ones((1, 1, 3)), (x.shape[0], 1, 1))
    return jnp.concatenate([token, weights @ value], axis=1)[:, 0:5]


FUNCTIONS = {
    "an index": lambda x: x[:, -1],
    "slices": lambda x: x[:, ::2, 1:, 0],
    "places": lambda x: x[:, np.array([0, 2, 1])[:, None], np.array([1, 2])],
    "a part of a side": lambda x: x[..., :2],
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "activations": lambda x: jax.nn.elu(x - 0.5) + jax.nn.softplus(x) + jax.nn.silu(x) + x**2.5,
    "attention": attended,
    "a grouped convolution": lambda x: lax.conv_general_dilated(
        x, jnp.ones((3, 3, 1, 6)), (2, 1), "SAME", dimension_numbers=NHWC, feature_group_count=3
    ),
    "a dilated convolution": lambda x: lax.conv_general_dilated(
        x, jnp.ones((2, 2, 3, 4)), (1, 1), "VALID", rhs_dilation=(2, 2), dimension_numbers=NHWC
    ),
    "pooling": lambda x: nn.max_pool(x, (3, 3), (2, 2), "SAME") + nn.avg_pool(x, (2, 2), (2, 2)),
    "resizing": lambda x: jax.image.resize(x, (x.shape[0], 5, 4, 3), "bilinear"),
    "padding": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)), constant_values=3),
    "choices": lambda x: jnp.clip(jnp.where((x > 0.5) | (x != x), x, 0.1), 0.2, 0.9),
    "a platform's own": lambda x: lax.platform_dependent(x, cpu=jnp.sort, default=lambda x: 2 * x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_gives_the_same(name):
    function = FUNCTIONS[name]
    model = to_onnx(function, (8, 8, 3), np.float32, ("x", "y"))
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for rows in (1, 3):
        x = np.random.default_rng(rows).random((rows, 8, 8, 3), np.float32)
        (found,) = session.run(None, {"x": x})
        expected = 2 * x if name == "a platform's own" else np.asarray(function(x))
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "line"),
    [
        (lambda x: jnp.sort(x), "sort"),
        (lambda x: x[:, np.arange(2), np.arange(2)], "indexing that changes the order"),
        (lambda x: x[:, 0, :, np.arange(2)], "indexing that changes the order"),
        (lambda x: jnp.concatenate([x, x])[x.shape[0] :], "a size that depends on the number of"),
        (lambda x: x[:, x.sum().astype(int)], "indices that depend on the pictures"),
    ],
)
def test_what_is_not_written_is_named(function, line):
    with pytest.raises(Unwritten, match=line):
        to_onnx(function, (8, 8, 3), np.float32, ("x", "y"))


@pytest.mark.parametrize(
    ("arch", "head", "precision"),
    [
        ("resnet18", "linear", "fp32"),
        ("resnet18", "linear", "bf16"),
        ("resnet18d", "concat_pool", "fp32"),
        ("convnext_nano", "linear", "fp32"),
        ("vit_small_patch16_224", "concat_pool", "fp32"),
    ],
)
def test_a_classifier_answers_the_same_for_any_number_of_pictures(arch, head, precision):
    """The ONNX program computes in float32, whatever precision the classifier was trained in."""
    dtype = {"fp32": jnp.float32, "bf16": jnp.bfloat16}[precision]
    init = partial(create_model(arch, 3, head).init, train=False)
    variables = run_once(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    about = About(arch, head, precision, presize=40, size=32)
    rest = variables, ("a", "b", "é"), PLAIN, about
    written = as_onnx(Predictor(create_model(arch, 3, head, dtype), *rest))
    assert written == as_onnx(Predictor(create_model(arch, 3, head, dtype), *rest))
    exact = Predictor(create_model(arch, 3, head), *rest)
    session = onnxruntime.InferenceSession(written)
    meta = session.get_modelmeta().custom_metadata_map
    assert json.loads(meta["classes"]) == ["a", "b", "é"]
    for count in (1, 2, 5):
        pictures = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), np.uint8)
        (found,) = session.run(None, {"pictures": pictures})
        expected = np.asarray(exact.probabilities(jnp.asarray(pictures, jnp.float32) / 255))
        rms = np.sqrt(np.mean(expected**2))
        assert np.abs(found - expected).max() <= 1e-4 * rms


def test_a_network_that_is_not_written_is_refused():
    class Sorted(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return jnp.sort(x.mean((1, 2)))

    about = About("Sorted", "", "fp32", presize=8, size=8)
    with pytest.raises(ConfigError, match="Sorted uses sort, which cannot be written as ONNX; "):
        as_onnx(Predictor(Sorted(), {}, ("a", "b", "c"), PLAIN, about))


def test_its_own_lines_run_it(tmp_path, monkeypatch):
    """The code in the ONNX file's description gives the classifier's probabilities.

    It runs in a folder that contains the model and the picture that the code names.
    """

    class Sums(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return x.mean((1, 2))

    predictor = Predictor(Sums(), {}, ("r", "g", "b"), PLAIN, About("Sums", "", "fp32", 24, 16))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(as_onnx(predictor))
    Image.new("RGB", (50, 40), (200, 100, 30)).save("1.jpg", quality=100)
    text = onnxruntime.InferenceSession("model.onnx").get_modelmeta().description
    names = {}
    exec(text[text.index("import io") :], names)
    expected = predictor.predict("1.jpg").probabilities
    np.testing.assert_allclose(names["probabilities"][0], expected, atol=1e-3)
