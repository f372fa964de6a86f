"""Compares our augmentation with fastai's batch transforms in quality and in speed.

Quality: photographs are rotated by 30 degrees, zoomed by 1.1 and cropped to 128 by 128 pixels. The
results are compared with those of the same mapping, computed with high accuracy: by 8x8
super-sampling with a bicubic kernel. The measure is the PSNR over those output pixels that come
from inside the picture, and its median over the photographs is reported. Photographs that presizing
would enlarge are left out. The matrices are multiplied before fastai's `affine_coord` gets them, so
it needs only one interpolation, as ours does. The figures called "one by one" are for rotating,
zooming, cropping and shrinking a picture in four interpolations, of which only the last one is
antialiased.

Speed: the sides take turns at processing batches, and the pictures per second from the canvas to
the network's input are reported. Compiling and warming up are not included. Our side uses all
cores; fastai's is measured with one thread and with two. Both sides use
`aug_transforms(min_scale=0.75)`. fastai gets square pictures, such as its presizing makes, and our
side gets entire canvases. On a GPU, our batch stays in the GPU's memory, whereas fastai's is copied
there each time.

Before anything is timed, both sides apply the same matrix to every photograph, and their results
have to agree. The peer runs this same file in the interpreter that JAXCH5_PEER_PYTHON names (an
environment installed from requirements.txt), because the two sides are not installed in the same
environment.

With --method, squished or padded pictures are measured instead, without the peer, and they take
turns with cropped pictures. A squished picture is rotated as if it still had its original shape.

    JAXCH5_PEER_PYTHON=~/peer/bin/python python benchmarks/augment.py --path ~/photos
    python benchmarks/augment.py --path ~/photos --method squish pad
"""

from __future__ import annotations

import base64
import contextlib
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    PLATFORMS,
    arguments_of,
    best,
    find_files,
    in_turn,
    ratio,
    spread,
    tell,
    use_device,
)
from peer import Peer, answer_requests, declare_torchvision_operators, peer_python

SIZE = 128
QUALITY_CANVAS = 288
SCALES = (1.9, 1.4)
DEGREES, ZOOM = 30.0, 1.1
SPEED_CANVAS = 192
BATCH = 32
BATCHES_A_TURN = 10
# The peer's threads wait for each other in a busy loop, so one thread is faster than two if other
# programs use the cores. Our speed is divided by that of whichever number of threads is faster.
PEER_THREADS = (1, 2)
# If both sides apply the same matrix, the PSNR between their outputs, except near borders, must be
# at least this many decibels. It is not infinite, because the two sides round differently.
SAME = 40.0


# --- the peer's side ---------------------------------------------------------------------------


def serve(device: str) -> None:
    declare_torchvision_operators()
    import torch
    from fastai.vision.all import Pipeline, TensorImage, aug_transforms

    def floats(pixels: np.ndarray) -> Any:
        # The planes are made contiguous, as fastai's loader delivers them, because its sampler is
        # slow with other layouts.
        planes = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
        return TensorImage(planes.to(device).float().div_(255))

    state: dict[str, Any] = {}

    def answer(request: dict[str, Any]) -> Any:
        if request["do"] == "load":
            state["pixels"] = unpacked(request["pixels"])
            state["pipeline"] = Pipeline(aug_transforms(size=SIZE, min_scale=0.75), split_idx=0)
            return "loaded"
        if request["do"] == "turn":
            torch.set_num_threads(request["threads"])
            begin = time.perf_counter()
            for _ in range(BATCHES_A_TURN):
                output = state["pipeline"](floats(state["pixels"]))
            # Reading one number waits until the device has finished.
            float(output[0, 0, 0, 0])
            return BATCHES_A_TURN * len(state["pixels"]) / (time.perf_counter() - begin)
        pixels = unpacked(request["pixels"])
        matrix = torch.tensor(request["matrix"], dtype=torch.float32, device=device)[None, :2]
        output = floats(pixels[None]).affine_coord(mat=matrix, sz=SIZE, align_corners=True)
        return packed(output[0].permute(1, 2, 0).cpu().numpy().astype(np.float32))

    answer_requests(answer)


def packed(array: np.ndarray) -> dict[str, Any]:
    content = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"shape": array.shape, "dtype": str(array.dtype), "content": content}


def unpacked(message: dict[str, Any]) -> np.ndarray:
    content = np.frombuffer(base64.b64decode(message["content"]), message["dtype"])
    return content.reshape(message["shape"])


# --- quality -----------------------------------------------------------------------------------


def mapping(scale: float, height: int, width: int, wider: float = 1.0) -> list[np.ndarray]:
    """Returns the matrices of the rotation, the zoom and the crop, in pixels of the canvas.

    Along a side, their product takes one output pixel to `scale` pixels of the canvas. The picture
    itself is `wider` times as wide, relative to its height, as it appears on the canvas; `wider` is
    the last number of its frame.
    """
    x, y = width / 2, height / 2
    middle = np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])
    back = np.linalg.inv(middle)
    angle = math.radians(DEGREES)
    turn = np.array(
        [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]]
    )
    turn = np.diag([1 / wider, 1, 1]) @ turn @ np.diag([wider, 1, 1])
    shrink = np.diag([1 / ZOOM, 1 / ZOOM, 1])
    side = scale * ZOOM * SIZE
    crop = np.array([[side / SIZE, 0, x - side / 2], [0, side / SIZE, y - side / 2], [0, 0, 1]])
    return [middle @ turn @ back, middle @ shrink @ back, crop]


def measure_quality(
    pictures: list[tuple[np.ndarray, float]], method: str, peer: Peer | None
) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    from jaxch5.augmentation.sample import sample

    gathered = method == "squish"
    bare, four = (
        jax.jit(lambda *a, n=n: sample(*a, SIZE, subsamples=n, gathered=gathered)) for n in (1, 2)
    )
    truth = jax.jit(lambda image, matrix: supersampled_bicubic(image, matrix, 8))
    results: dict[str, Any] = {}
    for scale in SCALES:
        psnr: dict[str, list[float]] = {}
        for pixels, wider in pictures:
            height, width, _ = pixels.shape
            steps = mapping(scale, height, width, wider)
            matrix = np.linalg.multi_dot(steps)
            frame = np.diag([width, height, 1.0]).astype(np.float32)[None]
            arguments = (pixels[None], matrix.astype(np.float32)[None], frame)
            outputs = {
                "2x2": np.asarray(four(*arguments))[0],
                "4 taps": np.asarray(bare(*arguments))[0],
                "one by one": one_by_one(pixels, steps, scale),
            }
            if peer:
                outputs["fastai"] = by_fastai(peer, pixels, matrix)
            expected = np.asarray(truth(jnp.asarray(pixels), jnp.asarray(matrix, jnp.float32)))
            inside = sources_inside(matrix, height, width)
            for name, output in outputs.items():
                error = np.mean((output - expected)[inside] ** 2)
                psnr.setdefault(name, []).append(float(-10 * np.log10(error)))
            if peer and scale == min(SCALES):
                check_same(outputs["4 taps"][inside], outputs["fastai"][inside])
        results[str(scale)] = {name: spread(values) for name, values in psnr.items()}
    return results


def check_same(ours: np.ndarray, peer: np.ndarray) -> None:
    """Exits if the two sides' outputs for one matrix differ by more than rounding."""
    decibels = -10 * np.log10(np.mean((ours - peer) ** 2))
    if not decibels >= SAME:
        sys.exit(
            f"the sides disagree: the PSNR between their outputs for one matrix is {decibels:.1f} "
            f"dB, but should be at least {SAME:g} dB"
        )


def by_fastai(peer: Peer, pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Makes fastai apply a matrix.

    In fastai's coordinates, the centres of the outermost pixels are at -1 and 1.
    """
    height, width, _ = pixels.shape
    output = np.array([[(SIZE - 1) / 2, 0, SIZE / 2], [0, (SIZE - 1) / 2, SIZE / 2], [0, 0, 1]])
    canvas = np.array(
        [[(width - 1) / 2, 0, width / 2], [0, (height - 1) / 2, height / 2], [0, 0, 1]]
    )
    mat = np.linalg.inv(canvas) @ matrix @ output
    return unpacked(peer.ask(do="apply", pixels=packed(pixels), matrix=mat.tolist()))


def one_by_one(pixels: np.ndarray, steps: list[np.ndarray], scale: float) -> np.ndarray:
    """Rotates, zooms and crops a picture at the canvas's scale, then shrinks it, antialiased."""
    import jax
    from scipy import ndimage

    turn, shrink, crop = steps
    side = round(scale * ZOOM * SIZE)
    cut = crop @ np.diag([SIZE / side, SIZE / side, 1])
    image = pixels.astype(np.float32) / 255
    centre = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    for matrix, shape in ((turn, image.shape[:2]), (shrink, image.shape[:2]), (cut, (side, side))):
        at = (np.linalg.inv(centre) @ matrix @ centre)[[1, 0, 2]][:, [1, 0, 2]]
        planes = [
            ndimage.affine_transform(image[..., c], at, output_shape=shape, order=1, mode="reflect")
            for c in range(3)
        ]
        image = np.stack(planes, axis=-1)
    return np.asarray(jax.image.resize(image, (SIZE, SIZE, 3), "linear", antialias=True))


def supersampled_bicubic(image: Any, matrix: Any, n: int) -> Any:
    """Returns, for each output pixel, the mean of n x n samples by Keys' bicubic (a = -0.5)."""
    import jax
    import jax.numpy as jnp

    height, width, _ = image.shape
    pixels = image.astype(jnp.float32).reshape(-1, 3) / 255

    def weights(t: Any) -> list[Any]:
        near = [1.5 * d**3 - 2.5 * d**2 + 1 for d in (t, 1 - t)]
        far = [-0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 for d in (1 + t, 2 - t)]
        return [far[0], near[0], near[1], far[1]]

    def reflected(index: Any, size: int) -> Any:
        index = jnp.mod(index, 2 * size)
        return jnp.minimum(index, 2 * size - 1 - index)

    def at(k: Any, total: Any) -> Any:
        offsets = (jnp.array([k % n, k // n]) + 0.5) / n
        columns, rows = jnp.meshgrid(jnp.arange(SIZE) + offsets[0], jnp.arange(SIZE) + offsets[1])
        x = matrix[0, 0] * columns + matrix[0, 1] * rows + matrix[0, 2] - 0.5
        y = matrix[1, 0] * columns + matrix[1, 1] * rows + matrix[1, 2] - 0.5
        left, top = jnp.floor(x), jnp.floor(y)
        for j, down in enumerate(weights(y - top)):
            row = reflected(top.astype(int) + j - 1, height) * width
            for i, across in enumerate(weights(x - left)):
                place = row + reflected(left.astype(int) + i - 1, width)
                total += pixels[place] * (down * across)[..., None]
        return total

    return jax.lax.fori_loop(0, n * n, at, jnp.zeros((SIZE, SIZE, 3))) / n**2


def sources_inside(matrix: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns the output pixels whose source is at least 2 pixels inside the canvas."""
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    x, y, _ = np.tensordot(matrix, np.stack([columns, rows, np.ones_like(rows)]), 1)
    return (x > 2) & (x < width - 2) & (y > 2) & (y < height - 2)


# --- speed -------------------------------------------------------------------------------------


def measure_speed(
    batch: Any, others: dict[str, Any], squares: np.ndarray, peer: Peer | None, turns: int
) -> dict[str, Any]:
    import dm_pix
    import jax
    import jax.numpy as jnp

    from jaxch5.augmentation import policy as ours
    from jaxch5.augmentation.sample import sample

    policy = ours.aug_transforms(min_scale=0.75)

    def with_samples(batch: Any, key: Any, n: int) -> Any:
        draws = ours.draw(key, batch.index)
        matrix = ours.random_matrix(policy, draws, batch.frame, SIZE, batch.framing)
        gathered = batch.framing.method == "squish"
        pictures = sample(batch.image, matrix, batch.frame, SIZE, subsamples=n, gathered=gathered)
        return ours.random_color(policy, draws, pictures)

    programs: dict[str, Any] = {}
    compile_seconds = {}

    def by_dm_pix(batch: Any, key: Any) -> Any:
        """Applies the same draws with dm-pix, whose interpolation keeps the size of pictures."""
        draws = ours.draw(key, batch.index)
        matrix = ours.random_matrix(policy, draws, batch.frame, SIZE)
        # In dm-pix rows come before columns, and channels are a third axis.
        order = jnp.array([1, 0, 2])
        at = jnp.zeros((len(matrix), 4, 4)).at[:, 2, 2].set(1)
        places = jnp.array([0, 1, 3])
        at = at.at[:, places[:, None], places].set(matrix[:, order][:, :, order])
        corner = batch.image[:, :SIZE, :SIZE].astype(jnp.float32) / 255
        return ours.random_color(policy, draws, jax.vmap(dm_pix.affine_transform)(corner, at))

    ways = {
        "4 taps": lambda batch, key: with_samples(batch, key, 1),
        "2x2": lambda batch, key: with_samples(batch, key, 2),
        "dm-pix": by_dm_pix,
    }
    batches = dict.fromkeys(ways, batch)
    if others:
        # `augment` chooses this interpolation for each of these methods.
        ways = {"crop": ways["2x2"]} | dict.fromkeys(others, ways["2x2"])
        batches = {"crop": batch} | others
    for name, way in ways.items():
        begin = time.perf_counter()
        programs[name] = jax.jit(way).lower(batches[name], jax.random.key(0)).compile()
        compile_seconds[name] = time.perf_counter() - begin

    def turn_of(name: str) -> float:
        begin = time.perf_counter()
        for number in range(BATCHES_A_TURN):
            programs[name](batches[name], jax.random.key(number)).block_until_ready()
        return BATCHES_A_TURN * len(batch.image) / (time.perf_counter() - begin)

    sides: dict[str, Any] = {name: lambda n=name: turn_of(n) for name in programs}
    if peer:
        peer.ask(do="load", pixels=packed(squares))
        for threads in PEER_THREADS:
            sides[f"fastai, {threads}"] = lambda t=threads: peer.ask(do="turn", threads=t)
    rates = in_turn(sides, turns)
    of_peer = {name: values for name, values in rates.items() if name not in programs}
    result: dict[str, Any] = {"unit": "pictures a second"}
    result |= {name: spread(values) for name, values in rates.items()}
    for name, seconds in compile_seconds.items():
        result[name]["compile_seconds"] = seconds
        if of_peer:
            result[name]["ratio"] = ratio(rates[name], of_peer[best(of_peer)])
        elif others:
            result[name]["ratio"] = ratio(rates[name], rates["crop"])
    return result


# --- both --------------------------------------------------------------------------------------


def photographs(path: Path, count: int) -> list[np.ndarray]:
    """Returns the first `count` photographs that presizing does not enlarge."""
    from jaxch5.data.image import decode

    pictures: list[np.ndarray] = []
    for file in find_files(path):
        picture = decode(Path(file).read_bytes(), file)
        if min(picture.shape[:2]) >= QUALITY_CANVAS and len(pictures) < count:
            pictures.append(picture)
    if not pictures:
        sys.exit(f"{path} contains no picture whose sides have {QUALITY_CANVAS} pixels or more")
    return pictures


def presized(picture: np.ndarray, size: int, method: str) -> tuple[np.ndarray, float]:
    """Returns the picture on its canvas, without the rest, and how much wider it was before."""
    from jaxch5.data.image import presize

    canvas, frame = presize(picture, size, method=method)
    wider = float(frame[2, 2])
    width, height = (round(float(np.abs(row[:2]).sum()) / wider) for row in frame[:2])
    return canvas[:height, :width], wider


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
        return
    parser = arguments_of(__doc__, turns=7, path=True)
    parser.add_argument("--count", type=int, default=100, help="photographs for measuring quality")
    parser.add_argument("--method", nargs="+", choices=("squish", "pad"), default=[])
    arguments = parser.parse_args()
    use_device(arguments.device)
    import jax

    from jaxch5.batch import Batch
    from jaxch5.data.image import presize
    from jaxch5.framing import Framing

    python = None if arguments.method else peer_python()
    pictures = photographs(arguments.path, arguments.count)
    index = np.arange(BATCH, dtype=np.int32)

    def batch_of(method: str) -> Any:
        some = (pictures[k % len(pictures)] for k in range(BATCH))
        laid = (presize(one, SPEED_CANVAS, method=method) for one in some)
        arrays = map(np.stack, zip(*laid, strict=True))
        return jax.device_put(Batch(*arrays, index, index, index >= 0, Framing(method)))

    batch, others = batch_of("crop"), {method: batch_of(method) for method in arguments.method}
    squares = np.asarray(batch.image)[:, :, :SPEED_CANVAS]
    with contextlib.ExitStack() as stack:
        peer = None
        if python:
            peer = stack.enter_context(
                Peer(python, __file__, "--serve", PLATFORMS[arguments.device])
            )
        report = {
            "photographs": len(pictures),
            "quality": {
                method: measure_quality(
                    [presized(one, QUALITY_CANVAS, method) for one in pictures], method, peer
                )
                for method in ("crop", *others)
            },
            "speed": measure_speed(batch, others, squares, peer, arguments.turns),
        }
    tell(report, arguments.json)


if __name__ == "__main__":
    main()
