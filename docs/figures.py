"""Draws the figures of the guides into docs/images: python docs/figures.py"""

from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageDraw

import jaxch5 as jx
from jaxch5.plots.augmentations import plot_presizing
from jaxch5.plots.figure import Figure
from jaxch5.plots.training import grid

IMAGES = Path(__file__).parent / "images"


def house() -> np.ndarray:
    """Draws a picture wider than high, with detail, and with something at each end."""
    picture = Image.new("RGB", (960, 540), (150, 200, 240))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 380, 960, 540), (90, 160, 80))
    draw.ellipse((40, 40, 160, 160), (250, 210, 70))
    for x in range(860, 950, 30):
        draw.polygon([(x - 30, 400), (x, 190), (x + 30, 400)], (30, 100, 50))
    draw.rectangle((330, 240, 630, 450), (190, 90, 70))
    for y in range(250, 450, 14):
        draw.line((330, y, 630, y), (150, 60, 50), 2)
    draw.polygon([(290, 250), (480, 90), (670, 250)], (110, 60, 60))
    draw.rectangle((450, 340, 510, 450), (80, 50, 40))
    for x in (370, 550):
        draw.rectangle((x, 290, x + 50, 340), (240, 240, 200), (60, 60, 60), 5)
    return np.asarray(picture)


def batch_of(picture: np.ndarray, method: str) -> tuple[jx.Batch, jx.Data]:
    source = jx.from_arrays(np.stack([picture] * 8), [0, 1] * 4, ["house", "home"])
    block = jx.DataBlock(source, jx.random_split(0.5), presize=224, size=160, method=method)
    data = block.load(batch_size=4)
    return next(iter(data.train)), data


def methods() -> Figure:
    picture = house()
    seen = [np.asarray(picture) / 255]
    for method in ("crop", "squish", "pad"):
        batch, data = batch_of(picture, method)
        seen.append(np.asarray(jx.center(batch, data.size))[0])
    return grid(seen, ["the picture", "crop", "squish", "pad"], 1, 4, 2)


def augmentations() -> Figure:
    batch, data = batch_of(house(), "crop")
    drawn = [np.asarray(jx.center(batch, data.size))[0]]
    for seed in range(2):
        key = jax.random.key(seed)
        drawn += list(np.asarray(jx.augment(data.augment, batch, key, data.size)))
    titles = ["validation", *["training"] * 7]
    return grid(drawn[:8], titles, 2, 4, 2)


def schedules() -> Figure:
    figure = Figure(figsize=(8, 2.2), layout="constrained")
    steps, axes = 300, figure.subplots(1, 4, sharey=True)
    tuned = jx.fine_tune_schedule(epochs=2, steps_per_epoch=100, base_lr=2e-3)
    tuned[:100, 0] = np.nan  # frozen
    lines = {
        "one_cycle": {"": jx.one_cycle(1e-3, steps)},
        "fine_tune": {
            "head": lambda step: tuned[step, -1],
            "first layers": lambda step: tuned[step, 0],
        },
        "flat_cosine": {"": jx.flat_cosine(1e-3, steps)},
        "sgdr": {"": jx.sgdr(1e-3, 43)},
    }
    for ax, (name, rates) in zip(axes, lines.items(), strict=True):
        for label, rate in rates.items():
            ax.plot([rate(step) for step in range(steps)], label=label)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("step", fontsize=9)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("rate", fontsize=9)
    axes[1].legend(frameon=False, fontsize=8)
    return figure


def lr_find() -> Figure:
    block = jx.DataBlock(jx.digits(), jx.random_split(), presize=40, size=32)
    learn = jx.vision_learner(block.load(batch_size=64), "resnet18", weights="none")
    learn.lr_find()
    lrs, smooth = learn.sweep.lrs, learn.sweep.smooth
    rates = jx.suggest_lr(lrs, smooth, num_it=len(lrs))
    return jx.plot_lr_find([(lrs, smooth)], {}, (rates["valley"], rates["minimum"]))


def confusion() -> Figure:
    """Plots the mistakes of a network that trained for a short time on few digits."""
    block = jx.DataBlock(jx.digits(), jx.random_split(0.5), presize=40, size=32)
    learn = jx.vision_learner(block.load(batch_size=64), "resnet18", weights="none")
    learn.fit_one_cycle(3, 2e-3)
    return learn.interpret().plot_confusion_matrix()


if __name__ == "__main__":
    figures = {
        "methods": methods(),
        "augmentations": augmentations(),
        "presizing": plot_presizing(house()),
        "schedules": schedules(),
        "lr_find": lr_find(),
        "confusion": confusion(),
    }
    for name, figure in figures.items():
        figure.savefig(IMAGES / f"{name}.png", dpi=130)
        # A few colours are enough, and the file is a quarter as large.
        image = Image.open(IMAGES / f"{name}.png").convert("RGB")
        image.quantize(128).save(IMAGES / f"{name}.png", optimize=True)
