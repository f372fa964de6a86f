"""Finds weights on the Hugging Face hub by their names, and fetches each file only once."""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from jaxch5.errors import WeightsError
from jaxch5.models.reader import NEEDS_TORCH, reason_of
from jaxch5.models.registry import architectures
from jaxch5.models.spec import HubWeights, ModelSpec
from jaxch5.util.address import LISTED, PICKLES

# Names that a file of weights may have in a repository, or in a folder that is laid out like one.
# If several of these files exist, the one that comes first here is read.
FILES = ("model.safetensors", "pytorch_model.bin")
DESCRIPTION = "config.json"
# Time to wait for an answer from each of the hub's IP addresses; a download may take longer.
ANSWER_SECONDS = 3.0


class Place(NamedTuple):
    """Says where weights are on the hub.

    Attributes:
        repository: Name of the repository.
        revision: Git commit, branch or tag; None means the newest commit.
        known: What the architecture states about the weights; None if it does not list them.
        tags: List of the architecture's tags, for a message, if this would be the repository of a
            tag of timm's that the architecture does not list; "" if not.
    """

    repository: str
    revision: str | None
    known: HubWeights | None
    tags: str = ""


def place_of(weights: str, spec: ModelSpec) -> Place:
    """Finds where weights are on the hub.

    Args:
        weights: "imagenet", a repository, or one of the architecture's tags. A repository or a tag
            may be followed by `@REVISION`.
        spec: Architecture.

    Raises:
        WeightsError: The architecture has no such weights, or the weights clearly belong to another
            architecture.

    Example:
        >>> from jaxch5.models.registry import spec_of
        >>> place_of("a1_in1k@v2", spec_of("resnet50"))[:2]
        ('timm/resnet50.a1_in1k', 'v2')
    """
    if not spec.weights and "/" not in weights:
        raise WeightsError(
            f"the ModelSpec of {spec.name} lists no weights on the hub; choose a file, a run or a "
            "repository with --model.weights PATH or OWNER/NAME"
        )
    if weights == "imagenet":
        return Place(spec.weights[0].repository, None, spec.weights[0])
    name, _, revision = weights.partition("@")
    by_tag = {known.tag: known for known in spec.weights}
    if "/" in name:
        known = next((each for each in spec.weights if each.repository == name), None)
        arch = name.removeprefix("timm/").partition(".")[0]
        if arch != spec.name and arch in architectures() and name.startswith("timm/"):
            raise WeightsError(
                f"{name} belongs to {arch}, not to {spec.name} (--model.arch {arch})"
            )
        is_tag = spec.weights and known is None and name.startswith(f"timm/{spec.name}.")
        tags = f"the tags of {spec.name} are {_tags(spec, name)}" if is_tag else ""
        return Place(name, revision or None, known, tags)
    known = by_tag.get(name.removeprefix(f"{spec.name}."))
    if known is None:
        raise WeightsError(
            f"model.weights = {weights}: there is no such file or folder, and {spec.name} has no "
            f"such tag; its tags are {_tags(spec, name)}"
        )
    return Place(known.repository, revision or None, known)


def _tags(spec: ModelSpec, name: str) -> str:
    """Lists an architecture's tags, and suggests one for an unknown tag or its repository."""
    tags = [known.tag for known in spec.weights]
    close = difflib.get_close_matches(name.rpartition(f"{spec.name}.")[2], tags, n=1)
    return ", ".join(tags) + (f"; did you mean {close[0]}?" if close else "")


def fetch(place: Place, cache: Path | None = None, endpoint: str | None = None) -> Path:
    """Fetches weights and their description into the hub's cache, and returns the weights' file.

    Args:
        place: Where the weights are on the hub.
        cache: Folder for fetched files; None means huggingface-hub's default.
        endpoint: Address of the hub; None means huggingface-hub's default.

    Raises:
        WeightsError: No repository can have this name, a file that is not in the cache cannot be
            fetched, or the hub has the weights only in PyTorch's format and PyTorch is not
            installed.
    """
    for name in FILES:
        try:
            file, commit = _look(place, name, place.revision, cache, endpoint)
        except WeightsError:
            # Without the hub, weights that are in the cache will do in either format.
            there = (_cached(place, each, place.revision, cache) for each in FILES)
            file, commit = next(filter(None, there), None), None
            if file is None:
                raise
        if file or commit:
            break
    else:
        raise WeightsError(f"{place.repository}: holds neither {' nor '.join(FILES)}")
    is_new = file is None
    if file is None:
        if not place.known:
            # The description comes first: if the process ends in between, the next one does not
            # find weights that seem to have none.
            _file(place, DESCRIPTION, commit, cache, endpoint)
        file = _download(place, name, place.revision, cache, endpoint)
    if is_new or not place.known:
        try:
            # The description is from the same commit as the weights, so that it matches them.
            _file(place, DESCRIPTION, file.parent.name, cache, endpoint)
        except WeightsError:
            if is_new:
                raise
    return file


def _file(
    place: Place, name: str, revision: str | None, cache: Path | None, endpoint: str | None
) -> Path | None:
    """Returns a file's path in the cache, into which it is fetched; None if the hub lacks it."""
    file, commit = _look(place, name, revision, cache, endpoint)
    return _download(place, name, revision, cache, endpoint) if commit else file


def _cached(place: Place, name: str, revision: str | None, cache: Path | None) -> Path | None:
    """Returns a file's path in the cache, if it is there and can be read."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        file = hub.try_to_load_from_cache(place.repository, name, cache, revision)
    except errors.HFValidationError:
        raise WeightsError(
            f"{place.repository}: there is no such run, file or folder, and a repository on the "
            f"hub cannot have this name; {LISTED}"
        ) from None
    return Path(file) if isinstance(file, str) and not _lacks_torch(name) else None


def _lacks_torch(name: str) -> bool:
    return Path(name).suffix in PICKLES and importlib.util.find_spec("torch") is None


def _look(
    place: Place, name: str, revision: str | None, cache: Path | None, endpoint: str | None
) -> tuple[Path | None, str | None]:
    """Returns a file's path in the cache, or else the commit that has it on the hub, if any has."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    if file := _cached(place, name, revision, cache):
        return file, None
    url = hub.hf_hub_url(place.repository, name, revision=revision, endpoint=endpoint)
    with _explained(place, revision, url):
        try:
            # One request is made beforehand, since a failing download retries for most of a minute.
            said = hub.get_hf_file_metadata(url, timeout=ANSWER_SECONDS)
        except errors.RemoteEntryNotFoundError:
            return None, None
        # huggingface-hub makes paths from the ETag and the commit, wherever these paths lead.
        for what, each in {"ETag": said.etag, "commit": said.commit_hash}.items():
            if each is None or not re.fullmatch(r"[A-Za-z0-9_-]+", each):
                raise OSError(f"it names the {what} {each!r}")
        if _lacks_torch(name):
            raise WeightsError(f"{place.repository}: the hub has only its {name}; {NEEDS_TORCH}")
        return None, said.commit_hash


def _download(
    place: Place, name: str, revision: str | None, cache: Path | None, endpoint: str | None
) -> Path:
    import huggingface_hub as hub

    where: dict[str, Any] = {"revision": revision, "endpoint": endpoint}
    with _explained(place, revision, hub.hf_hub_url(place.repository, name, **where)):
        where |= {"cache_dir": cache, "etag_timeout": ANSWER_SECONDS}
        return Path(hub.hf_hub_download(place.repository, name, **where))


@contextmanager
def _explained(place: Place, revision: str | None, url: str) -> Iterator[None]:
    """Turns errors of a request into a `WeightsError` that says what can be done."""
    from huggingface_hub import errors

    try:
        yield
    except errors.RevisionNotFoundError:
        raise WeightsError(f"{place.repository}@{revision}: the hub has no such revision") from None
    except (errors.HTTPError, OSError) as error:
        problem = f"{place.repository}: {_problem(error)}"
        if place.tags and isinstance(error, errors.RepositoryNotFoundError):
            raise WeightsError(f"{problem}; {place.tags}") from None
        raise WeightsError(
            f"{problem} ({reason_of(error)}); download {url} elsewhere and pass the file with "
            "--model.weights PATH"
        ) from None


def _problem(error: Exception) -> str:
    """Says whether the hub has no such repository, cannot be reached, or answers with an error."""
    from huggingface_hub import errors

    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such file or folder here, and no such public repository on the hub"
    no_answer = errors.OfflineModeIsEnabled | errors.HTTPError
    # An error has a response only if the hub answered.
    if isinstance(error, no_answer) and not hasattr(error, "response"):
        return "the hub cannot be reached"
    return "the hub does not serve it"
