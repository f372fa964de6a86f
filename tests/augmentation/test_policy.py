import os
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxch5.augmentation.center import center
from jaxch5.augmentation.policy import Policy, aug_transforms, augment
from jaxch5.batch import Batch
from jaxch5.errors import ConfigError

FULL = replace(
    aug_transforms(flip_vert=True, min_scale=0.5), max_saturation=0.3, max_hue=0.1, p_gray=0.2
)
NOTHING = aug_transforms(do_flip=False, max_rotate=0, max_zoom=1, max_lighting=0, max_warp=0)
compiled = jax.jit(augment, static_argnums=(0, 3, 4))


def rows(batch, chosen):
    return jax.tree.map(lambda leaf: leaf[jnp.asarray(chosen)], batch)


@pytest.mark.parametrize(
    ("policy", "size"), [(aug_transforms(min_scale=0.75), 32), (FULL, 64)], ids=["usual", "full"]
)
def test_an_items_pixels_do_not_depend_on_its_batch(photographs, on_canvas, policy, size):
    """An item's pixels are the same, bit for bit, in any batch and at any place in it.

    This holds with several sub-samples per output pixel and with one.
    """
    batch, key = on_canvas(photographs, 64, 96), jax.random.key(5)
    together = np.asarray(compiled(policy, batch, key, size))
    for chosen in ([3], [4, 2, 1, 5, 3, 0], [0, 1, 2, 3, 4, 5, 0, 1]):
        apart = np.asarray(compiled(policy, rows(batch, chosen), key, size))
        np.testing.assert_array_equal(apart, together[chosen])


def test_the_same_pixels_on_several_devices():
    """Four devices return the same pixels as one.

    The number of devices is fixed when a process starts, so the test starts another process.
    """
    program = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxch5.augmentation.policy import aug_transforms, augment
from jaxch5.batch import Batch, without_labels
from jaxch5.data.image import presize
image = np.random.default_rng(0).integers(0, 256, (8, 32, 48, 3), dtype=np.uint8)
frame = np.tile(np.diag([48, 32, 1]).astype(np.float32), (8, 1, 1))
index = np.arange(8, dtype=np.int32)
batch = Batch(image, frame, index, index, index >= 0)
run = jax.jit(lambda batch: augment(aug_transforms(), batch, jax.random.key(0), 16))
spread = NamedSharding(Mesh(jax.devices(), "data"), PartitionSpec("data"))
assert len(jax.devices()) == 4
np.testing.assert_array_equal(run(jax.device_put(batch, spread)), run(batch))
"""
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


def test_draws_differ_by_item_and_by_key(photographs, on_canvas):
    batch = on_canvas(photographs[:1] * 6, 64, 96)
    policy = aug_transforms()
    first = np.asarray(compiled(policy, batch, jax.random.key(0), 32))
    second = np.asarray(compiled(policy, batch, jax.random.key(1), 32))
    pictures = np.concatenate([first, second])
    assert len({picture.tobytes() for picture in pictures}) == 12


def test_leaving_one_operation_out_changes_no_other_draw(photographs, on_canvas):
    """Without rotations, the pictures that would not have been rotated anyway stay the same."""
    batch = on_canvas(photographs[:1] * 12, 64, 96)

    def drawn(policy):
        return np.asarray(compiled(policy, batch, jax.random.key(0), 32))

    rotated = (drawn(replace(NOTHING, max_rotate=10)) != drawn(NOTHING)).any(axis=(1, 2, 3))
    assert 0 < rotated.sum() < 12
    differs = (drawn(aug_transforms()) != drawn(aug_transforms(max_rotate=0))).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(differs, rotated)


def test_symmetries_without_flips_are_refused():
    """`flip_vert` without `do_flip` would silently have no effect, so it is refused."""
    with pytest.raises(ConfigError, match=r"augment\.flip_vert = true has no effect without"):
        aug_transforms(do_flip=False, flip_vert=True)


@settings(max_examples=5, deadline=None)
@given(
    st.builds(
        Policy,
        do_flip=st.just(True),
        flip_vert=st.booleans(),
        max_rotate=st.sampled_from([0.0, 180.0]),
        min_zoom=st.sampled_from([0.3, 1.0]),
        max_zoom=st.sampled_from([1.0, 3.0]),
        max_lighting=st.sampled_from([0.0, 0.9]),
        max_warp=st.sampled_from([0.0, 0.5]),
        p_affine=st.just(1.0),
        p_lighting=st.just(1.0),
        min_scale=st.sampled_from([0.1, 1.0]),
        max_saturation=st.sampled_from([0.0, 0.9]),
        max_hue=st.sampled_from([0.0, 0.5]),
    ),
    st.integers(0, 2**31),
)
def test_nothing_leaves_0_to_1_however_wild_the_policy(policy, seed):
    image = np.random.default_rng(seed).choice([0, 1, 254, 255], (5, 16, 24, 3)).astype(np.uint8)
    frame = jnp.tile(jnp.diag(jnp.array([24.0, 16.0, 1.0])), (5, 1, 1))
    index = jnp.arange(5, dtype=jnp.int32)
    batch = Batch(jnp.asarray(image), frame, index, index, index >= 0)
    pictures = np.asarray(augment(policy, batch, jax.random.key(seed), 12))
    assert np.isfinite(pictures).all()
    assert pictures.min() >= 0
    assert pictures.max() <= 1


def test_each_shape_compiles_once_and_never_again(photographs, on_canvas):
    traced = []

    @jax.jit
    def run(batch, key):
        traced.append(batch.image.shape)
        return augment(aug_transforms(min_scale=0.75), batch, key, 24)

    batch = on_canvas(photographs, 64, 96)
    shapes = [rows(batch, range(count)) for count in (6, 3, 1)]
    for seed in range(4):
        for one in shapes:
            run(one, jax.random.key(seed)).block_until_ready()
    assert traced == [(6, 64, 96, 3), (3, 64, 96, 3), (1, 64, 96, 3)]
    assert run._cache_size() == 3


def test_without_a_policy_or_with_an_empty_one(photographs, on_canvas):
    batch = on_canvas(photographs, 64, 96)
    key = jax.random.key(0)
    np.testing.assert_array_equal(augment(None, batch, key, 32), center(batch, 32))
    squares = on_canvas([picture[:64, :64] for picture in photographs], 64, 64)
    # A square picture leaves no position to draw either, so this policy gives the centre crop.
    np.testing.assert_array_equal(augment(NOTHING, squares, key, 32), center(squares, 32))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_output_has_the_asked_for_type(photographs, on_canvas, dtype):
    batch = on_canvas(photographs, 64, 96)
    assert compiled(aug_transforms(), batch, jax.random.key(0), 32, dtype).dtype == dtype
    assert center(batch, 32, dtype).dtype == dtype


def test_a_batch_of_numpy_arrays_will_do(photographs, on_canvas):
    batch = on_canvas(photographs, 64, 96)
    arrays = jax.tree.map(np.asarray, batch)
    key = jax.random.key(0)
    np.testing.assert_array_equal(center(arrays, 32), center(batch, 32))
    np.testing.assert_array_equal(
        augment(aug_transforms(), arrays, key, 32), augment(aug_transforms(), batch, key, 32)
    )


def test_a_policy_is_a_value():
    assert aug_transforms() == aug_transforms()
    assert hash(aug_transforms()) == hash(aug_transforms())
    assert aug_transforms(max_warp=0.1) != aug_transforms()


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_rotate", 181), ("min_zoom", 1.2), ("max_lighting", 1), ("max_warp", -0.1),
     ("p_affine", 1.5), ("min_scale", 0)],
)  # fmt: skip
def test_a_value_out_of_range_is_named(name, value):
    with pytest.raises(ConfigError, match=rf"augment\.{name} = {value}"):
        aug_transforms(**{name: value})
