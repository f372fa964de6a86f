"""Handles locations, which are paths, names on the Hugging Face Hub, or addresses (URLs)."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from jaxch5.errors import ConfigError, WeightsError

# Extensions of files with weights. Most are extensions of PyTorch's pickles: `.bin` is used on the
# hub, `.ckpt` is used by Lightning, and `.tar` occurs in names such as `model.pth.tar`. Reading a
# safetensors file cannot run code.
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
SAFETENSORS = ".safetensors"
# The end of the message about a run that does not exist.
LISTED = "to list the runs in runs/, use jaxch5 runs"
# Values that stand for no weights ("none") and for weights that are yet to be chosen ("auto").
NO_WEIGHTS = ("none", "auto")
# Matches a tag of weights, timm's NAME.TAG, or a repository on the hub, with or without a revision.
ON_HUB = re.compile(r"(?:\w[\w.-]*/)?\w[\w.-]*(?:@\w[\w.-]*)?", re.ASCII)


class Address(str):
    """Holds an address that fsspec can reach; a `pathlib.Path` would shorten the `//` in it.

    Example:
        >>> Address("s3://bucket/flowers").name
        'flowers'
    """

    __slots__ = ()

    @property
    def name(self) -> str:
        """Returns the last part of the address, as `Path.name` does."""
        return PurePosixPath(self).name

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())


def is_address(place: object) -> bool:
    """Checks whether a location is an address and not a path.

    Example:
        >>> is_address("s3://bucket/flowers"), is_address("photos/flowers")
        (True, False)
    """
    return isinstance(place, str) and re.match(r"(?i)[a-z][a-z0-9+.-]*://", place) is not None


def expanded(path: Path) -> Path:
    """Replaces `~` at the start of a path with the home folder.

    Raises:
        ConfigError: The path begins with `~` and the name of a nonexistent user, as in `~photos`.
            (The error that `Path.expanduser` raises would not name the path.)

    Example:
        >>> expanded(Path("~/photos")) == Path.home() / "photos"
        True
    """
    try:
        return path.expanduser()
    except RuntimeError:
        meant = f"~/{str(path)[1:]}"
        raise ConfigError(f"{path}: there is no such home folder; did you mean {meant}?") from None


def learners_file(path: str | Path) -> Path:
    """Returns the path of a learner's file: a name without an extension gets `.safetensors`.

    The name of an existing folder is not changed.

    Example:
        >>> learners_file("pets").name, learners_file("pets.pkl").name
        ('pets.safetensors', 'pets.pkl')
    """
    path = expanded(Path(path))
    return path if path.suffix or path.is_dir() else path.with_suffix(SAFETENSORS)


def run_or_learner(path: str | Path) -> Path:
    """Returns the path of a run's folder or of a learner's file.

    Raises:
        WeightsError: The name has no extension, and there is neither such a run nor such a file.

    Example:
        >>> run_or_learner(".")
        PosixPath('.')
    """
    given, file = expanded(Path(path)), learners_file(path)
    if file != given and not file.exists():
        raise WeightsError(f"{given}: there is no such run, and no file {file.name}; {LISTED}")
    return file


def is_on_hub(weights: str) -> bool:
    """Checks whether `weights` is "imagenet", a tag or a repository on the hub, and not a path.

    Raises:
        ConfigError: As for `expanded`.

    Example:
        >>> is_on_hub("a1_in1k"), is_on_hub("timm/resnet50.a1_in1k@v2"), is_on_hub("a/resnet18.pth")
        (True, True, False)
    """
    if weights in ("imagenet", *NO_WEIGHTS):
        return weights == "imagenet"
    path = expanded(Path(weights))
    is_file = path.suffix in (SAFETENSORS, *PICKLES)
    return bool(ON_HUB.fullmatch(weights)) and not is_file and not path.exists()
