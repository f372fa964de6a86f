"""Compares our speed with fastai's over entire epochs of JPEG files, including validation.

Both sides use the same files, split, augmentation and network, which is trained from scratch. The
benchmark checks that both have the same numbers of pictures, steps, classes and parameters, and
pictures of the same size. fastai decodes in worker processes, and uses the channels-last layout on
a GPU. The time of an epoch includes its start and its validation.

With `--cache off`, our side decodes every file in every epoch, as fastai does. With `memory` and
`device` it keeps the presized pictures, which fastai cannot do, and only epochs after the first one
are timed. `--bare` also times the bare training step on pictures in the device's memory. Its speed
is about the highest that an epoch can reach, and `of_bare` is the share of it that our training
reaches when validation is left out.

    JAXCH5_PEER_PYTHON=~/peer/bin/python python benchmarks/epoch.py --path ~/photos
    python benchmarks/epoch.py --path ~/photos --cache device --bare --device gpu --precision bf16
"""

from __future__ import annotations

import argparse
import contextlib
import math
from pathlib import Path
from typing import Any

import numpy as np
from bare import BareStep
from common import (
    PLATFORMS,
    arguments_of,
    find_files,
    in_turn,
    ratio,
    same,
    seconds_of,
    spread,
    tell,
    use_device,
)
from ours_learner import add_sizes, facts, learner_of, request_of, settings_of
from peer import Peer, peer_python

from jaxch5.learner import Learner
from jaxch5.optim.optimizer import make_optimizer


def bare_step(learn: Learner) -> BareStep:
    """Returns the bare step of the learner's network, with a learning rate of 0.

    At this rate the step can be repeated indefinitely.
    """
    data, rng = learn.data, np.random.default_rng(0)
    shape = (data.train.batch_size, data.size, data.size, 3)
    labels = rng.integers(len(data.classes), size=shape[0]).astype(np.int32)
    pictures = rng.standard_normal(shape, np.float32)
    return BareStep(learn.model, make_optimizer("adam", 0.0), pictures, labels)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Times all sides alternately; returns their pictures per second, and the ratios of these."""
    find_files(arguments.path)
    learn = learner_of(settings_of(arguments, arguments.cache))
    count = len(learn.data.train.items) + len(learn.data.valid.items)
    of_training: list[float] = []

    def ours() -> float:
        seconds = seconds_of(lambda: learn.fit(1, 1e-3))
        of_training.append(learn.records[-1]["images_per_second"])
        return count / seconds

    sides = {"ours": ours}
    if arguments.bare:
        bare = bare_step(learn)
        sides["bare"] = lambda: bare.pictures_a_second(len(learn.data.train))
    with contextlib.ExitStack() as stack:
        python = None if arguments.alone else peer_python(required=True)
        if python:
            script = Path(__file__).with_name("fastai_learner.py")
            peer = stack.enter_context(Peer(python, script))
            theirs = peer.ask(**request_of(learn, arguments, PLATFORMS[arguments.device]))
            same("the work", facts(learn), theirs)

            def fastai() -> float:
                answer = peer.ask()
                if not math.isfinite(answer["loss"]):
                    raise SystemExit(f"the peer's loss is {answer['loss']}")
                return count / answer["seconds"]

            sides["peer"] = fastai
        rates = in_turn(sides, arguments.turns)
    of_training = of_training[-arguments.turns :]
    document: dict[str, Any] = {"unit": "pictures a second"}
    document |= {name: spread(values) for name, values in rates.items()}
    if python:
        document["ratio"] = ratio(rates["ours"], rates["peer"])
    if arguments.bare:
        document["ours_training"] = spread(of_training)
        document["of_bare"] = ratio(of_training, rates["bare"])
    return document | {"cache": learn.data.cache, **facts(learn), "turns": arguments.turns}


def main() -> None:
    parser = arguments_of(__doc__, turns=3, path=True)
    add_sizes(parser)
    parser.add_argument("--cache", choices=("off", "memory", "device"), default="off")
    parser.add_argument("--bare", action="store_true", help="measure the bare step too")
    parser.add_argument("--alone", action="store_true", help="leave out the peer")
    arguments = parser.parse_args()
    use_device(arguments.device)
    tell(measure(arguments), arguments.json)


if __name__ == "__main__":
    main()
