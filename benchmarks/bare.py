"""Provides jaxch5's training step alone, on pictures that are already in the device's memory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from jaxch5.losses import cross_entropy
from jaxch5.training.compiler import compiler_options


def bare_step(model: nn.Module, optimizer: optax.GradientTransformation) -> Any:
    """Returns the step `(state, batch) -> (state, loss)`, which is not compiled yet."""

    def step(state: Any, batch: Any) -> Any:
        variables, opt_state = state
        pictures, labels = batch

        def loss_of(params: Any) -> Any:
            logits, updated = model.apply(
                {**variables, "params": params},
                pictures,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(0)},
            )
            return cross_entropy(logits, labels), updated

        params = variables["params"]
        (loss, updated), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return ({"params": params, **updated}, opt_state), loss

    return step


class BareStep:
    """Runs training steps, each with a forward pass, cross-entropy, a backward pass and an update.

    The step's state is donated, so its memory is reused for the new state.

    Args:
        model: Module, which is called as `model.apply(variables, x, train=True)`.
        optimizer: Optax transformation.
        pictures: Normalized pictures, [B, H, W, 3].
        labels: Labels, [B].
        options: Compiler options in addition to those that jaxch5 chooses.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: optax.GradientTransformation,
        pictures: np.ndarray,
        labels: np.ndarray,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.batch = jax.device_put((pictures, labels))
        self.size = len(labels)
        init = jax.jit(partial(model.init, train=False))
        self.variables = dict(init(jax.random.key(0), self.batch[0][:1]))
        self.state = (self.variables, jax.jit(optimizer.init)(self.variables["params"]))

        begin = time.perf_counter()
        all_options = compiler_options() | dict(options or {})
        jitted = jax.jit(
            bare_step(model, optimizer), donate_argnums=0, compiler_options=all_options
        )
        self.compiled = jitted.lower(self.state, self.batch).compile()
        self.compile_seconds = time.perf_counter() - begin

    def __call__(self) -> jax.Array:
        """Runs one step and returns its loss."""
        self.state, loss = self.compiled(self.state, self.batch)
        return loss

    def pictures_a_second(self, steps: int) -> float:
        """Runs this many steps and returns how many pictures they process per second."""
        begin = time.perf_counter()
        for _ in range(steps):
            loss = self()
        loss.block_until_ready()
        return steps * self.size / (time.perf_counter() - begin)
