"""Prints, as JSON, what training on eight simulated devices computes, for `test_mesh.py`.

`python eight_devices.py FOLDER` is a process of its own, because the number of simulated devices is
fixed when JAX starts.
"""

import io
import json
import re
import shutil
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from jaxch5.augmentation.mixing import cutmix, mixup
from jaxch5.augmentation.policy import aug_transforms
from jaxch5.config.settings import Config
from jaxch5.data.block import DataBlock
from jaxch5.data.source import digits, from_arrays
from jaxch5.data.split import random_split
from jaxch5.errors import ConfigError
from jaxch5.learner import vision_learner
from jaxch5.losses import cross_entropy
from jaxch5.models.layers import BatchNorm, LinearHead
from jaxch5.models.resnet import Conv
from jaxch5.run.directory import RunDir, create_run
from jaxch5.training.loop import Epoch, Plan, fit
from jaxch5.training.mesh import make_mesh, placement_of
from jaxch5.training.precision import has_float16
from jaxch5.training.process import prepare_process
from jaxch5.training.steps import compile_steps


class Tiny(nn.Module):
    """A network with a batch norm, and with a kernel large enough for its moments to be sharded.

    The convolution has no bias, because the gradient of a bias before a batch norm is nothing but
    rounding.
    """

    frozen_stages: int = 0

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(8, (3, 3), 2, use_bias=False, name="conv1")(x)
        x = nn.relu(BatchNorm(name="bn1")(x, train and not self.frozen_stages))
        return nn.Dense(10, name="head")(nn.relu(nn.Dense(128, name="fc")(x.mean((1, 2)))))


class Summed(nn.Module):
    """A network whose gradients are summed at the end, as a ResNet's are in half precision."""

    leaves_sums = True

    @nn.compact
    def __call__(self, x, train):
        for number, (size, stride) in enumerate(((3, 2), (1, 1), (3, 1)), 1):
            x = Conv(16, size, stride, name=f"conv{number}")(x)
            x = nn.relu(BatchNorm(name=f"bn{number}")(x, train))
        return LinearHead(10, name="head")(x, train)


class WithoutNorm(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(10, name="head")(x.mean((1, 2)))


def data_of(batch_size=64, cache="memory", augment=None, count=300, **framing):
    every = digits()
    images = np.stack([every.read(item) for item in range(count)])
    source = from_arrays(images, every.labels[:count], every.classes)
    block = DataBlock(source, random_split(0.2), presize=20, size=16, augment=augment, **framing)
    return block.load(batch_size, cache=cache)


def learner(batch_size=64, cache="memory", augment=None, model=None, framing=None, **settings):
    # The lines of a learner would mix with the results on the standard output.
    settings = {"say": lambda line: None} | settings
    data = data_of(batch_size, cache, augment, **framing or {})
    learn = vision_learner(data, model or Tiny(), **settings)
    learn.console = Console(file=io.StringIO())
    return learn


def losses(learn, epochs=5, lr=0.01):
    learn.fit(epochs, lr)
    return learn.recorder.losses


def messages(learn):
    """Returns how often each kind of message between devices occurs in the training step."""
    kinds = r" (all-[a-z]+|reduce-scatter|collective-permute)(?:-start)?\("
    return Counter(re.findall(kinds, next(iter(learn._compiled.values())).train.as_text()))


def error_of(function):
    try:
        function()
    except ConfigError as error:
        return str(error)
    return None


def in_both(**settings):
    """Returns the losses on one device and on eight."""
    return [losses(learner(devices=devices, **settings)) for devices in (1, 8)]


def norms():
    augment = aug_transforms()
    both = learner(augment=augment), learner(augment=augment, bn="local")
    of_global, of_local = (losses(learn, 7) for learn in both)
    return {
        "one": losses(learner(augment=augment, devices=1), 7),
        "global": of_global,
        "local": of_local,
        "local messages": messages(both[1]),
        "global messages": messages(both[0]),
        "programs": len(both[1]._compiled),
    }


def running_statistics():
    """Returns the running statistics after a step with local batch norms, and the expected ones.

    The expected ones are the means of what a single device computes from each eighth of the batch.
    """

    def after(learn, batch):
        state = jax.tree.map(jnp.copy, learn.state)
        put = placement_of(state)
        state, _ = learn._steps.train(state, put.put_batch(batch), put.put(learn._key))
        return jax.device_get(state.batch_stats["bn1"])

    local, alone = learner(bn="local"), learner(8, devices=1)
    batch = next(iter(local.data.train))
    leaves, structure = jax.tree.flatten(batch)
    eighths = zip(*(np.split(leaf, 8) for leaf in leaves), strict=True)
    of_eighths = [after(alone, jax.tree.unflatten(structure, rows)) for rows in eighths]
    return {
        "local": {name: values.tolist() for name, values in after(local, batch).items()},
        "mean": {
            name: np.mean([each[name] for each in of_eighths], axis=0).tolist()
            for name in ("mean", "var")
        },
    }


def shared_optimizer():
    learn = learner(augment=aug_transforms(), shard_optimizer=True)
    of_shared = losses(learn, 7)
    kernels = [leaf for leaf in jax.tree.leaves(learn.state.opt_state) if leaf.shape == (8, 128)]
    return {
        "losses": of_shared,
        "shards": [leaf.addressable_shards[0].data.shape for leaf in kernels],
    }


def caches():
    # At a usual learning rate, rounding errors would grow over so many steps, even on one device.
    batches = {"batch_size": 8, "augment": aug_transforms()}
    batches["framing"] = {"method": "pad", "pad_mode": "zeros"}
    of = partial(losses, epochs=1, lr=1e-4)
    on_device = learner(cache="device", **batches)
    return {
        "memory": of(learner(devices=1, **batches)),
        "device": of(on_device),
        "local": of(learner(cache="device", bn="local", **batches)),
        "many": losses_of_many(learner(cache="device", bn="local", **batches), lr=1e-4),
        "everywhere": len(on_device.data.train.on_device[0].addressable_shards),
    }


def losses_of_many(learn, lr, epochs=1):
    """Returns the losses of training by the scan over steps, which is meant for accelerators."""
    both = learn._frozen.steps(learn.data, learn.normalization, learn.mesh)
    steps = compile_steps(*both, learn.state, learn.data, learn._key, resident=True)
    assert steps.a_call > 1
    plan = Plan("plan", epochs, lambda step: [lr] * len(learn.groups.names), lambda step: 0.95)
    events = list(fit(learn.state, learn.data, plan, steps, cross_entropy, learn._key))
    assert sum(isinstance(event, Epoch) for event in events) == epochs
    return [loss for event in events for loss in event.losses]


def settings():
    """Returns the losses with many settings at once, with global and with local batch norms.

    Those with global batch norms are computed on one device and on eight.
    """
    half = "fp16" if has_float16() else "bf16"
    much = {"precision": half, "accumulate": 2, "average": 0.9, "clip": 0.1}
    local = learner(bn="local", mix=cutmix, shard_optimizer=True, **much)
    much["framing"] = {"method": "squish"}
    return {"global": in_both(mix=mixup, **much), "local": losses(local)}


def summed():
    """Returns the losses on one device and on eight, and the lengths of the summed vectors.

    The vectors are those that the training step sums over the eight devices.
    """
    settings = {"model": Summed(), "precision": "bf16", "mix": mixup, "shard_optimizer": True}
    one, many = (learner(devices=devices, **settings) for devices in (1, 8))
    of_both = [losses(one), losses(many)]
    text = next(iter(many._compiled.values())).train.as_text()
    sums = "".join(re.findall(r" = (.*) all-reduce(?:-start)?\(", text))
    weights = sum(leaf.size for leaf in jax.tree.leaves(many.state.params))
    lengths = [int(length) for length in re.findall(r"f32\[(\d+)\]", sums)]
    return {"losses": of_both, "weights": weights, "lengths": lengths}


def weights():
    """Returns the losses on one device and on eight for a loss with class weights.

    The sum of the weights differs from device to device. The loss `hidden` applies the same weights
    in such a way that the training step cannot find them.
    """
    data, loss = data_of(), partial(cross_entropy, weight=np.linspace(0, 9, 10))

    def trained(**settings):
        learn = vision_learner(data, WithoutNorm(), **{"loss": loss} | settings)
        learn.console = Console(file=io.StringIO())
        return losses(learn, 2)

    def hidden(logits, labels):
        return loss(logits, labels)

    return {
        "losses": [trained(devices=1), trained(), trained(bn="local")],
        "hidden": error_of(lambda: trained(bn="local", loss=hidden)),
        "seen by all": trained(loss=hidden),
    }


def freezing():
    def fine_tuned(**settings):
        learn = learner(**settings)
        learn.fine_tune(1, base_lr=0.01, freeze_epochs=1)
        return learn.recorder.losses

    return [fine_tuned(devices=devices, train_bn=False) for devices in (1, 8)]


def after_training():
    """Returns the results of a trained learner's methods, on one device and on eight."""
    results = []
    for devices in (1, 8):
        learn = learner(devices=devices, shard_optimizer=devices > 1)
        learn.fit(1, 0.01)
        results.append(
            {
                "validate": learn.validate()["valid_loss"],
                "preds": learn.get_preds()[0].tolist(),
                "tta": learn.tta(2)[0].tolist(),
                "predict": learn.predict(digits().read(0)).probabilities.tolist(),
                "interpret": learn.interpret().losses.tolist(),
                "lr_find": learn.lr_find(1e-4, 1e-2, num_it=20) and learn.sweep.losses,
                "again": losses(learn.again(1), 1),
            }
        )
    return results


def other_data():
    """Returns where a learner keeps data that it is given, and its error for 60 rows a batch."""
    learn = learner()

    def take(data):
        learn.data = data

    take(data_of(cache="device"))
    images, _ = learn.data.train.on_device
    return len(images.sharding.device_set), learn.data.devices, error_of(lambda: take(data_of(60)))


def taken_up(folder):
    """Returns the losses of a run begun on eight devices and resumed on eight, two and one.

    The optimizer's moments are sharded on eight and on two devices. For comparison, `whole` has the
    losses of the same steps in an uninterrupted run on one device.
    """

    def trained(path, devices, epochs, **settings):
        learn = learner(devices=devices, **settings)
        learn.run = RunDir(path)
        if path.exists():
            assert learn.restore(learn.run)
        else:
            create_run(Config(), path)
        learn.fit(epochs, 0.01)
        return learn.recorder.losses

    whole = trained(folder / "whole", 1, 4)
    trained(folder / "half", 8, 2, shard_optimizer=True)
    results = {"whole": whole[len(whole) // 2 :]}
    for devices, shared in ((8, True), (2, True), (1, False)):
        path = folder / f"{devices}-{shared}"
        shutil.copytree(folder / "half", path)
        results[f"{devices}, {shared}"] = trained(path, devices, 4, shard_optimizer=shared)
    return results


def errors():
    return {
        "rows": error_of(lambda: learner(batch_size=60)),
        "resumed rows": error_of(lambda: make_mesh(60, resumed=True)),
        "few rows": error_of(lambda: learner(batch_size=3)),
        "devices": error_of(lambda: learner(devices=9)),
        "bn": error_of(lambda: learner(bn="own")),
    }


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    # Compiled programs are cached, because many of these learners need the same ones.
    prepare_process()
    results = {
        "norms": norms(),
        "statistics": running_statistics(),
        "shared": shared_optimizer(),
        "caches": caches(),
        "settings": settings(),
        "summed": summed(),
        "weights": weights(),
        "freezing": freezing(),
        "after": after_training(),
        "other data": other_data(),
        "taken up": taken_up(Path(sys.argv[1])),
        "errors": errors(),
        "described": learner().data.describe(),
    }
    print(json.dumps(results))
