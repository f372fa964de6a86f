"""Times alternative forms of parts of a ResNet's training step on an accelerator.

jaxch5's choice among these forms was made by counting the bytes that each of them moves (see
gpu_program.py). Here each form is timed as part of the entire training step that step.py times,
while all other parts stay as they are. The forms take turns, and the figures are pictures per
second.

    python benchmarks/forms.py --device gpu
    python benchmarks/forms.py --compile-only

The second command compiles the forms for an H100, which need not be present, and counts the bytes
that they move.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from bare import BareStep, bare_step
from common import arguments_of, in_turn, spread, tell, use_device

from jaxch5.models import convolution, layers, pooling, resnet
from jaxch5.models.registry import create_model
from jaxch5.training.precision import dtype_of

NUM_CLASSES = 1000


def in_two_passes(x: jax.Array, mean: jax.Array, near: jax.Array) -> jax.Array:
    """Computes the variance in two passes over `x`, as jaxch5 does on a CPU."""
    apart = x - jax.lax.stop_gradient(mean)
    return jnp.mean(jnp.square(apart), tuple(range(x.ndim - 1)))


def compared_again(x: jax.Array) -> jax.Array:
    """Returns the largest of each window's nine pixels; its gradient compares the pixels again."""
    places = [divmod(place, 3) for place in range(9)]
    largest, *others = [convolution.pixels_at(x, 3, 2, *at, -jnp.inf) for at in places]
    for other in others:
        largest = jnp.where(other > largest, other, largest)
    return largest


def with_channels(count: int, x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Returns a convolution of pictures to which channels of zeros are added, up to `count`."""
    more = (0, count - x.shape[-1])
    x = jnp.pad(x, (*3 * [(0, 0)], more))
    return convolution.native(x, jnp.pad(kernel, (*2 * [(0, 0)], more, (0, 0))), stride)


def space_to_depth(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Computes the 7x7 convolution with stride 2 as a 4x4 one over groups of four pixels."""
    blocks = _of_four(jnp.pad(x, ((0, 0), (4, 2), (4, 2), (0, 0))))
    taps = _of_four(jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0))).transpose(3, 0, 1, 2))
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        blocks, taps.transpose(1, 2, 3, 0), (1, 1), "VALID", dimension_numbers=dimensions
    )


def _of_four(x: jax.Array) -> jax.Array:
    batch, height, width, channels = x.shape
    pairs = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return pairs.reshape(batch, height // 2, width // 2, 4 * channels)


# For each form: the module and the name of what it replaces, and the replacement. With None,
# nothing is replaced.
FORMS: dict[str, tuple[ModuleType, str, Any] | None] = {
    "as it is": None,
    "pooling, native": (pooling, "max_of_windows", pooling.native_max_pool),
    "pooling, compared again": (pooling, "max_of_windows", compared_again),
    "norms in two passes": (layers, "_variance", in_two_passes),
    "stem of 3 channels": (convolution, "with_fourth_channel", convolution.native),
    "stem of 8 channels": (convolution, "with_fourth_channel", partial(with_channels, 8)),
    "stem, space to depth": (convolution, "with_fourth_channel", space_to_depth),
    "relu again": (resnet, "end_of_block", jax.nn.relu),
}


@contextlib.contextmanager
def using(form: tuple[ModuleType, str, Any] | None) -> Iterator[None]:
    """Makes code that is traced within this context use a form."""
    if form is None:
        yield
        return
    module, name, function = form
    before = getattr(module, name)
    setattr(module, name, function)
    try:
        yield
    finally:
        setattr(module, name, before)


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--arch", choices=resnet.ARCHITECTURES, default="resnet50")
    parser.add_argument("--size", type=int, default=224, help="side of the pictures, pixels")
    parser.add_argument("--batch", type=int, default=256, help="pictures per step")
    parser.add_argument("--steps", type=int, default=20, help="steps per turn (default: 20)")
    parser.add_argument(
        "--compile-only",
        action="store_true",
        help="only compile the forms for an H100, which need not be present",
    )
    arguments = parser.parse_args()
    model = create_model(arguments.arch, NUM_CLASSES, dtype=dtype_of("bf16"))
    adam = optax.adam(1e-4)
    shape = (arguments.batch, arguments.size, arguments.size, 3)
    if arguments.compile_only:
        from gpu_program import counted, gpus_of, stored

        (gpu,) = gpus_of("h100")
        on = jax.sharding.SingleDeviceSharding(gpu)
        variables = jax.eval_shape(
            partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, *shape[1:]))
        )
        state = (variables, jax.eval_shape(adam.init, variables["params"]))
        batch = (jax.ShapeDtypeStruct(shape, jnp.float32), jnp.zeros(arguments.batch, jnp.int32))
        found = {}
        for name, form in FORMS.items():
            with using(form):
                step = jax.jit(bare_step(model, adam), donate_argnums=0)
                compiled = step.lower(*stored((state, batch), on)).compile()
            found[name] = {"GB": counted(compiled.as_text(), arguments.batch)["GB"]}
        tell(found, arguments.json)
        return
    use_device(arguments.device)
    rng = np.random.default_rng(0)
    pictures = rng.standard_normal(shape, np.float32)
    labels = rng.integers(NUM_CLASSES, size=arguments.batch).astype(np.int32)
    steps = {}
    for name, form in FORMS.items():
        with using(form):
            steps[name] = BareStep(model, adam, pictures, labels)
        gc.collect()
    sides = {name: partial(step.pictures_a_second, arguments.steps) for name, step in steps.items()}
    rates = in_turn(sides, arguments.turns)
    tell({name: spread(values) for name, values in rates.items()}, arguments.json)


if __name__ == "__main__":
    main()
