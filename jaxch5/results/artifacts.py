"""Exports a trained classifier for PyTorch, for jax alone, for ONNX runtimes, and for jaxch5.

Besides the weights, each format contains what a program needs in order to use them. The same
classifier always gives the same bytes, whichever process exports it, and wherever it runs.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from jaxch5.augmentation.center import center
from jaxch5.batch import without_labels
from jaxch5.errors import CheckpointError, ConfigError
from jaxch5.framing import height_and_width
from jaxch5.models.pretrained import flax_names
from jaxch5.models.reader import SAFETENSORS
from jaxch5.models.weights import export_state_dict
from jaxch5.results.elsewhere import onnx_program, recipe, timm_config
from jaxch5.results.predictor import Predictor
from jaxch5.util.files import write_file

# For each method, what `crop_pct` is a share of: "center" stands for the largest centre crop, and
# "none" for the whole picture.
SEEN = {"crop": "center", "squish": "none", "pad": "none"}

README = "README.md"
# Words of the `README.md` in every folder for timm, by which such a folder is recognized.
BY_TIMM_EXPORT = b"takes pictures as `pixels` below"


def description_of(predictor: Predictor) -> dict[str, Any]:
    """Returns what a program needs besides the weights, under the names that exported files use.

    Returns:
        The fields of `About`, such as `presize` and `size` (pixels); `crop`, which says what
        `crop_pct` is a share of; `mean` and `std`, for values from 0 to 1; `classes`, in the
        order of the outputs; `task`, which names the activation; `threshold`, below which the
        answer is "none of these"; and `import_path`, if your own architecture was named by one.
    """
    spec = predictor.spec
    return {
        **predictor.about._asdict(),
        **({"import_path": spec.import_path} if spec.import_path else {}),
        "crop": SEEN[predictor.about.method],
        "mean": list(predictor.normalization.mean),
        "std": list(predictor.normalization.std),
        "classes": list(predictor.classes),
        "task": predictor.task.name,
        "threshold": predictor.task.threshold,
    }


def as_safetensors(predictor: Predictor) -> bytes:
    """Serializes weights under other libraries' names, such as torchvision's, with a description.

    Raises:
        ConfigError: The network is your own module, which has no such names.
    """
    if predictor.spec.names is None:
        raise _no_names(predictor, "safetensors", "torchvision's")
    spec, head = predictor.spec, predictor.about.head
    weights = export_state_dict(predictor.variables, spec, head=head)
    return _safetensors(weights, _for_others(predictor))


def as_fastai(predictor: Predictor) -> bytes:
    """Serializes weights under the names of fastai's `vision_learner`, including its head.

    Raises:
        ConfigError: There are no such names for the network, or its head is not "concat_pool".
    """
    spec, head = predictor.spec, predictor.about.head
    if spec.names is None or "fastai" not in spec.names.others:
        raise _no_names(predictor, "fastai", "fastai's")
    if head != "concat_pool":
        raise ConfigError(
            f"format = fastai: only works with the head concat_pool, not {head}; choose "
            "safetensors, load its weights into torchvision's network, and give the network to "
            "fastai's Learner"
        )
    return _safetensors(
        export_state_dict(predictor.variables, spec, "fastai", head), _for_others(predictor)
    )


def as_learner(predictor: Predictor) -> bytes:
    """Serializes a classifier for `load_learner`, which reads no other exported format.

    The weights of your own module are stored under flax's names.
    """
    spec, variables, head = predictor.spec, predictor.variables, predictor.about.head
    named = spec.names is not None
    weights = export_state_dict(variables, spec, head=head) if named else flax_names(variables)
    return _safetensors(weights, _metadata(description_of(predictor)))


def _no_names(predictor: Predictor, form: str, whose: str) -> ConfigError:
    what = f"format = {form}: needs {whose} names, but {predictor.spec.name}"
    if predictor.spec.names is not None:
        return ConfigError(f"{what} has other names; choose safetensors, stablehlo or learner")
    return ConfigError(
        f"{what} is a module of your own; choose stablehlo, or learner, which "
        "load_learner(path, model=...) loads in Python"
    )


def _for_others(predictor: Predictor) -> dict[str, str]:
    """Returns metadata in which the architecture has the key that timm's `config.json` uses."""
    metadata = _metadata(description_of(predictor))
    return {"architecture" if name == "arch" else name: metadata[name] for name in metadata}


def _metadata(description: dict[str, Any]) -> dict[str, str]:
    """Writes values as text, and lists as JSON, for `jaxch5.models.provenance.Metadata` to read."""
    return {
        name: json.dumps(value) if isinstance(value, list | tuple) else str(value)
        for name, value in description.items()
        if value is not None
    }


def _safetensors(weights: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    from safetensors.numpy import save

    content = save(weights, metadata)
    # The library writes its metadata in an order that changes from one process to the next.
    (length,) = struct.unpack("<Q", content[:8])
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, ensure_ascii=False)
    encoded = header.encode()
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded + content[8 + length :]


def as_stablehlo(predictor: Predictor) -> bytes:
    """Serializes a classifier as a program that `jax.export.deserialize` reads.

    The program's `call` takes upright RGB pictures, uint8 [any batch, height, width, 3]. Both sides
    are `presize`, unless `size` is not square and the method is "crop". With "crop", pictures are
    centre crops with the proportions of `size` and a short side of `presize`. With "squish", they
    are entire pictures, resized without keeping their proportions. With "pad", they are entire
    pictures whose long side is `presize`, in the upper left corner; `call` then also takes their
    heights and widths, int32 [batch, 2]. From there on, the program computes what validation
    computes, and returns probabilities. Its `fun_name` is the description as JSON.
    """
    from jax import export

    about = predictor.about
    rows, columns = height_and_width(about.size)
    unit = about.presize / min(rows, columns) if about.method == "crop" else None
    shape = (about.presize,) * 2 if unit is None else (round(rows * unit), round(columns * unit))

    def seen(
        picture: UInt8[Array, "height width 3"], sides: Int[Array, "2"] | tuple[int, int] = shape
    ) -> Float[Array, "rows columns 3"]:
        frame = jnp.diag(jnp.array([sides[1], sides[0], 1], jnp.float32))
        batch = without_labels(picture[None], frame[None], about.framing)
        return center(batch, about.size, view=about.view)[0]

    def program(
        pictures: UInt8[Array, "batch height width 3"], *sides: Int[Array, "batch 2"]
    ) -> Float[Array, "batch classes"]:
        return predictor.probabilities(jax.vmap(seen)(pictures, *sides))

    (batch,) = export.symbolic_shape("batch")
    inputs = [jax.ShapeDtypeStruct((batch, *shape, 3), jnp.uint8)]
    if about.method == "pad":
        inputs.append(jax.ShapeDtypeStruct((batch, 2), jnp.int32))
    with _without_locations():
        exported = export.export(jax.jit(program), platforms=("cpu", "cuda"))(*inputs)
    described = dataclasses.replace(exported, fun_name=json.dumps(description_of(predictor)))
    return bytes(described.serialize())


def as_onnx(predictor: Predictor) -> bytes:
    """Serializes a classifier as an ONNX program that takes pictures of its input size.

    The program's metadata holds the description, and its `doc_string` shows how to call it.

    Raises:
        ConfigError: The extra `onnx` is not installed, or an operation cannot be written as ONNX.
    """
    try:
        from jaxch5.results.onnx import Unwritten, to_onnx
    except ModuleNotFoundError:
        line = "format = onnx: needs the extra onnx: python -m pip install -e '.[onnx]'"
        raise ConfigError(line) from None
    try:
        model = to_onnx(*onnx_program(predictor), jnp.uint8, ("pictures", "probabilities"))
    except Unwritten as error:
        raise ConfigError(
            f"format = onnx: {predictor.spec.name} uses {error}, which cannot be written as ONNX; "
            "choose stablehlo"
        ) from None
    for key, value in _metadata(description_of(predictor)).items():
        model.metadata_props.add(key=key, value=value)
    model.doc_string, model.producer_name = recipe(predictor, "onnx"), "jaxch5"
    return model.SerializeToString(deterministic=True)


def as_timm(predictor: Predictor) -> dict[str, bytes]:
    """Serializes a classifier as the files of a folder that `timm.create_model` loads.

    Raises:
        ConfigError: timm does not have this network, or does not have it with this head.
    """
    config = json.dumps(timm_config(predictor), indent=2, ensure_ascii=False)
    return {
        # Written first, since it marks the folder as an export even if the others are missing.
        README: recipe(predictor, "timm").encode(),
        "config.json": config.encode(),
        "model.safetensors": as_safetensors(predictor),
    }


@contextmanager
def _without_locations() -> Iterator[None]:
    """Keeps source locations out of a program: they would name folders of the exporting machine."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


# Each function returns the content of one file, or the contents of a folder's files, keyed by their
# names.
FORMATS: dict[str, Callable[[Predictor], bytes | dict[str, bytes]]] = {
    "safetensors": as_safetensors,
    "fastai": as_fastai,
    "timm": as_timm,
    "stablehlo": as_stablehlo,
    "onnx": as_onnx,
    "learner": as_learner,
}


def _is_export(folder: Path) -> bool:
    """Checks whether a folder's `README.md` is one that `as_timm` wrote."""
    try:
        return BY_TIMM_EXPORT in (folder / README).read_bytes()
    except OSError:
        return False


def write_artifact(predictor: Predictor, path: Path, format: str) -> int:
    """Writes a classifier as one file, or as a folder for timm; returns the total size in bytes.

    Args:
        predictor: Classifier to write.
        path: File or folder to write.
        format: Key of `FORMATS`.

    Raises:
        ConfigError: There is no such format, it cannot hold the classifier, the name of a
            learner's file does not end in `.safetensors`, or the folder already holds a file that
            would be replaced, and has no `README.md` of an earlier export.
        CheckpointError: The file or the folder cannot be written.
    """
    if format not in FORMATS:
        raise ConfigError(f"format = {format}: should be one of {', '.join(FORMATS)}")
    if format == "learner" and path.suffix != SAFETENSORS:
        # The end of a name such as pets-v1.2 is not a suffix.
        bare = path.stem if path.suffix[1:2].isalpha() else path.name
        raise ConfigError(
            f"{path}: should end in {SAFETENSORS}, since it could not be loaded otherwise; "
            f"write {path.with_name(bare + SAFETENSORS)} instead"
        )
    content = FORMATS[format](predictor)
    if isinstance(content, dict):
        there = [name for name in content if (path / name).exists()]
        if there and not _is_export(path):
            raise ConfigError(
                f"{path / there[0]}: would be replaced, and the folder has no {README} of an "
                "earlier export; move it away, or name another folder"
            )
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be written: {error.strerror}") from None
    files = {"": content} if isinstance(content, bytes) else content
    for name, part in files.items():
        write_file(path / name, part)
    return sum(map(len, files.values()))
