"""Times jaxch5's Winograd 3x3 convolutions and XLA's own alternately on a CPU, in milliseconds.

For each size of the feature map and number of channels it times the forward pass, the gradient with
respect to the input, and the gradient with respect to the kernel. Before each run the processor's
caches are emptied, as the other layers of a network would do.

    python benchmarks/convolution.py
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from common import arguments_of, in_turn, ratio, seconds_of, spread, tell, use_device

from jaxch5.models.convolution import native
from jaxch5.models.winograd import winograd
from jaxch5.training.compiler import compiler_options

MAPS = ((32, 64), (16, 128), (8, 256), (4, 512), (14, 256), (7, 512))
FORMS = {"products": winograd, "xla": partial(native, stride=1)}
# An array that is larger than any cache; reading it empties the caches.
OTHER_LAYERS = np.ones(40_000_000, np.float32)


def parts_of(form: Callable[..., jax.Array]) -> dict[str, Callable[..., jax.Array]]:
    """Returns the functions that a training step computes for a convolution, keyed by part."""
    return {
        "forward": lambda x, kernel, cotangent: form(x, kernel),
        "input": lambda x, kernel, cotangent: jax.vjp(lambda x: form(x, kernel), x)[1](cotangent),
        "kernel": lambda x, kernel, cotangent: jax.vjp(lambda k: form(x, k), kernel)[1](cotangent),
    }


def measure(side: int, channels: int, batch: int, turns: int) -> dict[str, Any]:
    """Measures both forms of each part, and the ratio of their speeds."""
    rng = np.random.default_rng(0)
    normal = partial(rng.standard_normal, dtype=np.float32)
    x, cotangent = (normal((batch, side, side, channels)) for _ in range(2))
    arguments = jax.device_put((x, normal((3, 3, channels, channels)), cotangent))
    options = compiler_options()

    def timed(compute: Callable[..., jax.Array]) -> Callable[[], float]:
        compiled = jax.jit(compute, compiler_options=options).lower(*arguments).compile()

        def run() -> float:
            OTHER_LAYERS.sum()
            return 1e3 * seconds_of(lambda: jax.block_until_ready(compiled(*arguments)))

        return run

    sides = {name: parts_of(form) for name, form in FORMS.items()}
    document = {}
    for part in sides["xla"]:
        times = in_turn({name: timed(parts[part]) for name, parts in sides.items()}, turns, rest=0)
        document[part] = {name: spread(values) for name, values in times.items()}
        document[part]["ratio"] = ratio(times["xla"], times["products"])
    return document


def main() -> None:
    parser = arguments_of(__doc__, turns=15, device=False)
    parser.add_argument("--batch", type=int, default=32, help="pictures per batch")
    arguments = parser.parse_args()
    use_device("cpu")
    document: dict[str, Any] = {"unit": "milliseconds"}
    for side, channels in MAPS:
        found = measure(side, channels, arguments.batch, arguments.turns)
        document[f"{side} x {side}, {channels}"] = found
    tell(document, arguments.json)


if __name__ == "__main__":
    main()
