"""Classifies pictures with the network of a run or a learner's file, without the training data."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, UInt8

from jaxch5.augmentation.center import center
from jaxch5.batch import Batch, without_labels
from jaxch5.data.canvases import Canvases
from jaxch5.data.parallel import threads_for_batches
from jaxch5.data.picture import Picture, held, many, presized
from jaxch5.data.pipeline import Loader
from jaxch5.data.source import Source
from jaxch5.errors import DataError, WeightsError
from jaxch5.models.features import pooled_features
from jaxch5.models.layers import normalize
from jaxch5.models.pretrained import from_file
from jaxch5.models.registry import create_model, spec_of
from jaxch5.models.spec import ModelSpec, Normalization
from jaxch5.results.about import (
    EXPORT,
    About,
    about_of_file,
    about_of_run,
    check_weights,
    head_of,
    known_task,
    spec_of_file,
)
from jaxch5.run.transfer import from_run
from jaxch5.task import SOFTMAX, Task
from jaxch5.training.kept import KeptJit
from jaxch5.training.precision import dtype_of
from jaxch5.util.address import run_or_learner
from jaxch5.util.fastai import NamesFastai
from jaxch5.util.text import counted, names_in_order, percent

BATCH = 32


@dataclass(frozen=True)
class Prediction:
    """Holds an answer, its index in `Task.answers`, and the probabilities of all classes.

    The label may be "none of these"; the index is then the number of classes.
    """

    label: str
    index: int
    probabilities: Float[np.ndarray, "classes"]

    def __repr__(self) -> str:
        return f"<{self.label}: {percent(self.probabilities.max())}>"


class Predictor(NamesFastai):
    """Predicts the classes of pictures; made by `load_learner` or `Learner.predictor`.

    Args:
        model: Module, called as `model.apply(variables, x, train=False)` on normalized pictures.
        variables: Variables of the model.
        classes: Names of the classes, in the order of the logits.
        normalization: Mean and standard deviation of the colours.
        about: Description of the classifier: how its model was built, and how it sees pictures.
        task: Task that turns logits into probabilities, and probabilities into an answer.
        spec: Architecture; if None, that of `model` is used.
        record: Record of the epoch that ended with these variables; {} if there is none.

    Example:
        >>> class Bright(nn.Module):
        ...     def __call__(self, x, train):
        ...         return x.mean((1, 2, 3))[:, None] * np.array([-1, 1])
        >>> plain = Normalization((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
        >>> about = About("Bright", "", "fp32", presize=8, size=8)
        >>> predictor = Predictor(Bright(), {}, ("dark", "bright"), plain, about)
        >>> predictor.predict(np.full((10, 12, 3), 250, np.uint8)).label
        'bright'
        >>> [found.label for found in predictor.predict_many([np.zeros((8, 8, 3), np.uint8)])]
        ['dark']
    """

    def __init__(
        self,
        model: nn.Module,
        variables: Mapping[str, PyTree],
        classes: tuple[str, ...],
        normalization: Normalization,
        about: About,
        task: Task = SOFTMAX,
        spec: ModelSpec | None = None,
        record: Mapping[str, Any] = {},
    ) -> None:
        self.model, self.variables, self.classes = model, variables, names_in_order(classes)
        self.normalization, self.about, self.task = normalization, about, task
        self.spec, self.record = spec or spec_of(model), record
        self._programs: dict[Callable[[Predictor], Any], Any] = {}  # Shared by copies.

    def __repr__(self) -> str:
        return f"<{self.about.arch} of {counted(len(self.classes), 'class', 'classes')}>"

    def with_variables(self, variables: Mapping[str, PyTree]) -> Predictor:
        """Returns a copy that has other weights, such as a later step's, but the same programs.

        Args:
            variables: Weights and statistics, of the same shapes as the present ones.
        """
        other = copy(self)
        other.variables, other.record = variables, {}
        return other

    def program(self, make: Callable[[Predictor], Any]) -> Any:
        """Returns the result of `make`, which is called once for the classifier and all its copies.

        Args:
            make: Function from the classifier to a program that does not depend on its weights.
        """
        if make not in self._programs:
            self._programs[make] = make(self)
        return self._programs[make]

    def reading(self, **changes: str | int) -> Predictor:
        """Returns the same classifier with other settings for decoding pictures.

        Args:
            changes: `range` or `max_pixels`; see `Reading`.
        """
        other = copy(self)  # Programs take decoded pictures, so they stay the same.
        other.about = self.about._replace(**changes)  # type: ignore[arg-type]
        return other

    def probabilities(
        self, pictures: Float[Array, "batch height width 3"]
    ) -> Float[Array, "batch c"]:
        """Computes class probabilities of pictures; a pure function, which `jax.jit` can compile.

        Args:
            pictures: Pictures of the network's size, with values from 0 to 1, as from `center`.
        """
        return self._of_normalized(self.variables, normalize(pictures, self.normalization))

    @property
    def _of_normalized(self) -> Callable[[PyTree, Array], Array]:
        # The closure holds no weights, so that one program serves all of them.
        apply, activation = self.model.apply, self.task.activation
        return lambda variables, x: activation(cast(Array, apply(variables, x, train=False)))

    @property
    def _compiled(self) -> Any:
        return self.program(Predictor._compile)

    def _compile(self, of_normalized: Callable[[PyTree, Array], Array] | None = None) -> Any:
        about, normalization = self.about, self.normalization
        compute = of_normalized or self._of_normalized

        def of_batch(variables: PyTree, batch: Batch) -> Array:
            pictures = center(batch, about.size, view=about.view)
            return compute(variables, normalize(pictures, normalization))

        return KeptJit(of_batch, "jaxch5.results.about", __name__)

    def predict(self, picture: Picture) -> Prediction:
        """Predicts the class of one picture.

        Args:
            picture: Path, open file, bytes, PIL image, or pixels from 0 to 255; see `read_picture`.

        Raises:
            DataError: The picture cannot be read.
        """
        canvas, frame = self._presized(picture)
        return self._predictions(canvas[None], frame[None])[0]

    def predict_many(
        self, pictures: Iterable[Picture] | Picture
    ) -> Iterator[Prediction | DataError]:
        """Predicts the classes of many pictures, in order; an unreadable picture gives an error.

        Threads read pictures while the previous batch is computed, and one program computes all
        batches; a single picture is computed alone, as by `predict`.

        Args:
            pictures: Pictures, each as `predict` takes it, or a single one. If iterating over them
                raises an error, the pictures before it are predicted first.

        Returns:
            A prediction for each picture, or the error that `predict` would raise.

        Raises:
            DataError: `pictures` cannot be iterated over.
        """
        return self._predict_each(iter(many(pictures)))

    def _predict_each(self, pictures: Iterator[Picture]) -> Iterator[Prediction | DataError]:
        waiting: deque[Future[tuple[np.ndarray, np.ndarray]]] = deque()
        ended: Exception | None = None
        with ThreadPoolExecutor(threads_for_batches()) as pool:
            while ended is None:
                try:
                    picture = held(next(pictures), self.about.reading)
                    waiting.append(pool.submit(self._presized, picture))
                except Exception as error:
                    ended = error
                if len(waiting) == 3 * BATCH:
                    yield from self._predict_ready([waiting.popleft() for _ in range(BATCH)], BATCH)
            # If one picture is left, it was the only one: of several, at least two would be left.
            rows = 1 if len(waiting) == 1 else BATCH
            while waiting:
                count = min(rows, len(waiting))
                yield from self._predict_ready([waiting.popleft() for _ in range(count)], rows)
        if not isinstance(ended, StopIteration):
            # The caller's iterator raised this; the pictures before it have been predicted.
            raise ended

    def probabilities_of(
        self, source: Source, items: Int[np.ndarray, "items"], batch_size: int = BATCH
    ) -> Float[np.ndarray, "items classes"]:
        """Computes class probabilities of a source's items, in the order of `items`.

        Args:
            source: Labelled pictures.
            items: Indices of the items in the source.
            batch_size: Number of pictures computed at a time.

        Raises:
            DataError: A picture cannot be read.
        """
        return self._of_items(self._compiled, source, items, batch_size)

    def features_of(
        self, source: Source, items: Int[np.ndarray, "items"], batch_size: int = BATCH
    ) -> Float[np.ndarray, "items channels"]:
        """Computes features of a source's items, in the order of `items`; see `pooled_features`.

        Args:
            source, items, batch_size: As in `probabilities_of`, whose errors this also raises.
        """
        program = self._compile(partial(pooled_features, self.model))
        return self._of_items(program, source, items, batch_size)

    def _of_items(
        self, program: Any, source: Source, items: Int[np.ndarray, "items"], batch_size: int
    ) -> Float[np.ndarray, "items outputs"]:
        if source.reading.range == "auto":
            # A source not used in training has no range yet, and takes the one used in training.
            source = replace(source, reading=source.reading._replace(range=self.about.range))
        canvases = Canvases(source, self.about.presize, keep=False, framing=self.about.framing)
        loader = Loader(canvases, items, batch_size)
        rows = []
        for batch in loader.steps(0, len(loader)):
            opened = batch.open()
            rows.append(np.asarray(program(self.variables, opened))[opened.mask])
        return np.concatenate(rows)

    def _predict_ready(
        self, futures: list[Future[tuple[np.ndarray, np.ndarray]]], rows: int
    ) -> Iterator[Prediction | DataError]:
        read: list[tuple[np.ndarray, np.ndarray] | DataError] = []
        for future in futures:
            try:
                read.append(future.result())
            except DataError as error:
                read.append(error)
        good = [pair for pair in read if not isinstance(pair, DataError)]
        # A shorter last batch would need its own program, so it is padded.
        filled = good + good[:1] * (rows - len(good))
        predictions: Iterator[Prediction] = iter(())
        if good:
            images, frames = (np.stack(column) for column in zip(*filled, strict=True))
            predictions = iter(self._predictions(images, frames))
        for pair in read:
            yield pair if isinstance(pair, DataError) else next(predictions)

    def _presized(self, picture: Picture | DataError) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(picture, DataError):
            raise picture
        about = self.about
        return presized(picture, about.presize, reading=self.about.reading, method=about.method)

    def _predictions(
        self, images: UInt8[np.ndarray, "batch height width 3"], frames: Float[np.ndarray, "b 3 3"]
    ) -> list[Prediction]:
        batch = without_labels(images, frames, self.about.framing)
        probabilities = np.asarray(self._compiled(self.variables, batch))
        answers, names = self.task.decode(probabilities), self.task.answers(self.classes)
        rows = zip(answers.tolist(), probabilities, strict=True)
        return [Prediction(names[answer], answer, row) for answer, row in rows]


def load_learner(
    path: str | Path, model: str | ModelSpec | nn.Module | None = None, task: Task | None = None
) -> Predictor:
    """Loads a trained classifier from a run directory, or from a file that `export` wrote.

    Args:
        path: Run directory, or `.safetensors` file of format `learner`; the suffix may be omitted.
        model: Architecture that was trained, if it is your own: a `ModelSpec`, an import
            path to one, or the module. An import path in the file itself is never imported.
        task: Task of the classifier, if the task is your own; if None, the stored one is used.

    Raises:
        ConfigError: The folder is not a run, or there is no such architecture.
        WeightsError: There is no usable run or learner's file, or it needs `model` or `task`.

    Example:
        >>> import jax, tempfile
        >>> from jaxch5.results.artifacts import as_learner
        >>> model = create_model("resnet18", num_classes=2)
        >>> init = partial(model.init, train=False)
        >>> shapes = jax.eval_shape(init, jax.random.key(0), np.zeros((1, 32, 32, 3)))
        >>> variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        >>> plain = Normalization((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
        >>> about = About("resnet18", "linear", "fp32", presize=40, size=32)
        >>> trained = Predictor(model, variables, ("cat", "dog"), plain, about)
        >>> with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        ...     _ = file.write(as_learner(trained))
        ...     load_learner(file.name).classes
        ('cat', 'dog')
    """
    path = run_or_learner(path)
    if path.is_dir():
        about, said = about_of_run(path)
        # A run's network may differ from its configuration's; checkpoints name the actual one.
        spec = spec_of(model) if model is not None else spec_of_file(path, about.arch, None)
        pretrained = from_run(path, spec)
        about = about._replace(arch=spec.name, **vars(pretrained.view), licence=pretrained.licence)
    else:
        about, spec, said = about_of_file(path, model)
        pretrained = from_file(path, spec, beside=False, head=about.head)
    task = task or known_task(path, said)
    if pretrained.classes is None:
        raise WeightsError(f"{path}: has no class names; {EXPORT}")
    arch = spec if model is None or isinstance(model, str) else model
    head = (pretrained.head or about.head) if isinstance(arch, ModelSpec) and spec.heads else None
    network = create_model(arch, len(pretrained.classes), head, dtype_of(about.precision))
    about = about._replace(head=head_of(network, spec))
    check_weights(path, network, pretrained, about.size)
    rest = pretrained.classes, pretrained.normalization, about, task, spec, pretrained.record
    return Predictor(network, pretrained.variables, *rest)
