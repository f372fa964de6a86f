"""The pooled features of pictures are what a network's head computes its logits from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxch5.errors import ConfigError
from jaxch5.models.features import pooled_features
from jaxch5.models.registry import create_model


def variables_of(model, pictures):
    return model.init(jax.random.key(0), pictures, train=False)


def test_the_head_makes_its_logits_of_them():
    model = create_model("resnet18", num_classes=3)
    pictures = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    variables = variables_of(model, pictures)
    features = jax.jit(lambda *args: pooled_features(model, *args))(variables, pictures)
    head = variables["params"]["head"]
    logits = model.apply(variables, pictures, train=False)
    assert np.allclose(features @ head["kernel"] + head["bias"], logits, atol=1e-4)


@pytest.mark.parametrize(
    ("arch", "channels"),
    [("resnet50d", 2048), ("convnext_nano", 640), ("vit_small_patch16_224", 384)],
)
@pytest.mark.parametrize("head", ["linear", "concat_pool"])
def test_every_architecture_has_them(arch, channels, head):
    """Each network has a float32 feature per channel of its last map, even in half precision.

    A vision transformer has its class token instead, followed by the mean of the patches if the
    head is `concat_pool`.
    """
    model = create_model(arch, 3, head, jnp.bfloat16)
    pictures = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: variables_of(model, x), pictures)
    found = jax.eval_shape(lambda *args: pooled_features(model, *args), shapes, pictures)
    doubled = 2 if arch.startswith("vit") and head == "concat_pool" else 1
    assert found.shape == (2, channels * doubled)
    assert found.dtype == jnp.float32


def test_a_network_whose_head_cannot_be_seen_is_refused():
    class Bright(nnx.Module):
        def __init__(self, rngs):
            self.head = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x):
            return self.head(x.mean((1, 2)))

    model = create_model(Bright(nnx.Rngs(0)), num_classes=2)
    pictures = jnp.ones((1, 8, 8, 3))
    with pytest.raises(ConfigError, match="has no linen module head"):
        pooled_features(model, variables_of(model, pictures), pictures)
