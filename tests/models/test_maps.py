"""A network's last map is found, and its Grad-CAM is correct and placed where it belongs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxch5.errors import ConfigError
from jaxch5.models.maps import class_maps, enlarged, find_map, in_full
from jaxch5.models.registry import create_model, spec_of
from jaxch5.models.spec import LastMap, ModelSpec
from jaxch5.models.vit import vit_spec
from jaxch5.models.weights import export_state_dict, import_state_dict
from tests.models.shared import fill, pictures

# Maps of torchvision 0.28's resnet18 with the weights of `fill`, computed with hooks in PyTorch
# 2.13: the channels of layer4's output are summed, each multiplied by the mean gradient of the
# class's logit; values below 0 become 0; and the rest is divided by the largest value.
CLASSES = (0, 281)
TORCHVISION = [
    *(0.19915, 0.54194, 0.0528, 0.0, 0.53701, 0.47973, 0.53711, 0.53673),
    *(0.78387, 1.0, 0.4769, 0.60156, 0.46237, 0.68972, 0.70044, 0.78738),
    *(0.31673, 0.75243, 0.51083, 1.0, 0.0, 0.46636, 0.28257, 0.23864),
    *(0.0, 0.0, 0.0, 0.64472, 0.0, 0.0, 0.0, 0.0),
]
VIT = vit_spec("tiny_vit", patch=8, width=16, heads=2, depth=2, registers=4)


class Flat(nn.Module):
    """A network without a map, or, if `named`, with a map in its module `mixed`."""

    named: bool = False

    @nn.compact
    def __call__(self, x, train):
        if self.named:
            x = nn.Conv(2, (1, 1), name="mixed")(x)
        return nn.Dense(2, name="head")(x.mean((1, 2)))


def shapes(model, sides):
    picture = jnp.zeros((1, *sides, 3))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), picture, train=False))


@pytest.mark.parametrize(
    ("arch", "sides", "shape"),
    [
        ("resnet18", (224, 160), (7, 5, 512)),
        ("resnet50d", (224, 224), (7, 7, 2048)),
        # An earlier map is found, because a map with sides of one or two pixels locates nothing.
        ("resnet18", (64, 64), (4, 4, 256)),
        ("resnet18", (32, 32), (4, 4, 128)),
        ("resnet18", (8, 8), (4, 4, 64)),
        # The map is a stage's output, not one in the next stage before that halves the sides.
        ("resnet50", (64, 64), (4, 4, 1024)),
        ("convnext_nano", (128, 192), (4, 6, 640)),
        (VIT, (32, 48), (1 + 4 + 4 * 6, 16)),
    ],
)
def test_the_last_map_that_shows_a_place_is_found(arch, sides, shape):
    model = create_model(arch, 3)
    assert find_map(model, spec_of(arch), shapes(model, sides), sides).shape[1:] == shape


def test_a_network_without_a_map_is_refused_in_one_line():
    model = Flat()
    with pytest.raises(ConfigError) as raised:
        find_map(model, spec_of(model), shapes(model, (8, 8)), (8, 8))
    line = str(raised.value)
    assert line.startswith("Flat has no map")
    assert "last_map" in line
    assert len(line.splitlines()) == 1


def test_a_specification_may_name_the_module():
    model = Flat(named=True)
    spec = ModelSpec("flat", lambda num_classes: model, last_map=LastMap("mixed"))
    assert find_map(model, spec, shapes(model, (8, 8)), (8, 8)).shape == (1, 8, 8, 2)
    wrong = ModelSpec("flat", lambda num_classes: model, last_map=LastMap("mixd"))
    with pytest.raises(ConfigError, match="mixd"):
        find_map(model, wrong, shapes(model, (8, 8)), (8, 8))


def test_it_is_grad_cam_as_its_formula_says():
    """If a mean and a linear layer follow a map, Grad-CAM weights channels as that layer does."""
    model, spec = Flat(named=True), spec_of(Flat(named=True))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 6, 8, 3)).astype(np.float32)
    variables = model.init(jax.random.key(0), x, train=False)
    place = find_map(model, spec, variables, (6, 8))
    maps, logits, chosen = class_maps(model, spec, place, variables, x, jnp.array([0, 1, -1, -1]))
    params = variables["params"]
    mixed = x @ params["mixed"]["kernel"][0, 0] + params["mixed"]["bias"]
    expected_logits = mixed.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-5, atol=1e-6)
    assert chosen.tolist() == [0, 1, *np.argmax(expected_logits, axis=1)[2:].tolist()]
    cam = np.maximum(np.einsum("bhwc,cb->bhw", mixed, params["head"]["kernel"][:, chosen]), 0)
    expected = cam / np.maximum(cam.max((1, 2), keepdims=True), 1e-30)
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-5)


def test_a_resnets_maps_are_those_that_pytorch_computes():
    model, spec = create_model("resnet18", 1000), spec_of("resnet18")
    empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes(model, (128, 128)))
    names = export_state_dict(empty, "resnet18")
    filled = {name: fill(name, value.shape) for name, value in names.items()}
    variables = import_state_dict(filled, "resnet18")
    place = find_map(model, spec, variables, (128, 128))
    found = class_maps(model, spec, place, variables, pictures(128)[:2], jnp.array(CLASSES))[0]
    # Every 32nd pixel of the enlarged map is a pixel of the map itself, without interpolation.
    exact = np.asarray(found)[:, ::32, ::32].ravel()
    np.testing.assert_allclose(exact, TORCHVISION, atol=2e-4)


@pytest.mark.parametrize("arch", ["resnet18", "convnext_nano"])
def test_a_pixel_of_the_map_is_shown_in_the_middle_of_what_it_sees(arch):
    """A pixel of a map is shown at the centre of the part of the input that it depends on.

    Without a correction, a ResNet's map would be half a stride too far to the right and too low.
    """
    model, spec, side = create_model(arch, 2), spec_of(arch), 128
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, side, side, 3)), jnp.float32)
    variables = model.init(jax.random.key(0), x, train=False)
    place = find_map(model, spec, variables, (side, side))
    row = column = place.shape[1] // 2

    def pixel(x):
        seen = []

        def keep(call, args, kwargs, context):
            output = call(*args, **kwargs)
            if output.shape == place.shape:
                seen.append(output)
            return output

        with nn.intercept_methods(keep):
            model.apply(variables, x, train=False)
        return jnp.sum(seen[-1][0, row, column] ** 2)

    weights = np.abs(np.asarray(jax.jit(jax.grad(pixel))(x)))[0].sum(-1)
    shown = np.asarray(
        enlarged(
            jnp.zeros((1, *place.shape[1:3])).at[0, row, column].set(1.0),
            (side, side),
            spec.last_map.corner,
        )
    )[0]
    rows, columns = np.mgrid[:side, :side]
    stride = side / place.shape[1]
    for axis in (rows, columns):
        off = (weights * axis).sum() / weights.sum() - (shown * axis).sum() / shown.sum()
        assert abs(off) < stride / 4


def test_maps_are_scaled_from_nothing_to_one_and_none_is_divided_by_nothing():
    maps = jnp.stack([jnp.full((3, 2), -1.0), jnp.arange(6.0).reshape(3, 2)])
    found = np.asarray(enlarged(maps, (7, 5), corner=False))
    assert (found[0] == 0).all()
    assert (found[1].min(), found[1].max()) == (0, 1)


def test_what_a_network_computes_in_half_precision_is_computed_in_full():
    model = create_model("resnet18", 2, dtype=jnp.bfloat16, remat=True)
    assert (in_full(model).dtype, in_full(model).remat) == (jnp.float32, False)
    own = Flat()
    assert in_full(own) == own

    class Half(Flat):
        dtype = jnp.float16  # not annotated, so not a field

    assert in_full(Half()).dtype == jnp.float16
