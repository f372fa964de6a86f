"""Defines the configuration, which decides all that a run does, so that a run can be repeated.

It is one pydantic model, read from TOML, overridden on the command line (`jaxch5.cli`) and written
into the run directory. Some defaults depend on where the pictures come from: unlike photographs,
the bundled digits are tiny, and become other characters when mirrored or cut.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from jaxch5.config.cases import SOURCES
from jaxch5.config.defaults import default_of
from jaxch5.config.ranges import (
    DataSize,
    PositiveShare,
    Share,
    TrainingSize,
    parse_range,
    parsed,
)
from jaxch5.config.section import LENIENT, Section, idle_settings, setting
from jaxch5.config.toml import deep_update, explain, flat, known_keys, read_toml, without
from jaxch5.config.toml import differing as differing
from jaxch5.config.toml import to_toml as to_toml
from jaxch5.errors import ConfigError
from jaxch5.framing import MAX_SIDE, check_pad_mode, height_and_width, size_text
from jaxch5.models.registry import OURS, architectures
from jaxch5.util.address import NO_WEIGHTS, Address, expanded, is_address, is_on_hub
from jaxch5.util.imports import FORM, check_choice, check_listed
from jaxch5.util.limits import LIMITS, is_within
from jaxch5.util.text import is_text, printable

# Settings that may differ when a run is resumed: training can go on whatever their values are.
MAY_CHANGE = (
    "data.cache",
    "model.remat",
    "fit.devices",
    "fit.shard_optimizer",
    "fit.keep_best",
    "checkpoint.every_steps",
    "checkpoint.every_minutes",
    "log",
    "profile",
    "hooks",
)
# The heads of the built-in architectures.
Head = Literal["linear", "concat_pool", "mean_pool"]
# Decoding a picture with this many pixels takes a gigabyte of memory at most.
MAX_PIXELS = 80_000_000
# Settings that say where the pictures are. They may differ if the run has recorded its pictures.
MAY_MOVE = ("data.path", "data.root", "data.tfds_dir", "data.archive")
# Settings of the data that decide how a run splits its pictures and how its network sees them.
OF_THE_RUN = (
    *("split", "split_column", "valid_fraction", "stratify", "split_seed"),
    *("presize", "size", "method", "pad_mode", "crop_pct", "interpolation"),
)

_table = partial(default_of, "data.sources.table:from_csv")
_split = partial(default_of, "data.split:random_split")
_augment = partial(default_of, "augmentation.policy:aug_transforms")
_policy = partial(default_of, "augmentation.policy:Policy")
_cycle = partial(default_of, "optim.schedule:one_cycle")
_fine_tune = partial(default_of, "optim.schedule:fine_tune_schedule")
_optimizer = partial(default_of, "optim.optimizer:make_optimizer")
_recipe = partial(default_of, "training.recipe:Recipe")
_saving = partial(default_of, "run.hooks.checkpoints:Saving")


class DataConfig(Section):
    """The pictures, and how they become batches."""

    section: ClassVar[str] = "data."

    path: Path | Address | None = Field(
        None,
        description="folder of class folders (directly, or within train/ and valid/), a zip or tar "
        "file of such a folder, a CSV file, or a folder or an address (s3://...) that jaxch5 pack "
        "wrote to; if there is no path, tfds or archive, scikit-learn's 1,797 digits are used",
    )
    pattern: str | None = Field(
        None,
        description="regular expression for whole file names, with the class as its first group, "
        r"as in (.+)_\d+\.jpg; without it, folders are classes",
    )
    train: str | None = Field(
        None,
        description="folder of the training pictures, below path; '.' takes all pictures that are "
        "not in valid, whatever folders they are in; by default a folder named train or similar",
    )
    valid: str | None = Field(
        None,
        description="folder of the validation pictures, below path; by default the folder named "
        "valid, validation, val, dev or the like",
    )
    image_column: str = Field(_table("image"), description="column of paths or links in a CSV file")
    label_column: str = Field(_table("label"), description="column of class names in a CSV file")
    root: Path | None = Field(
        None, description="base of relative paths in a CSV file; by default the file's folder"
    )
    tfds: str | None = Field(None, description="name of a tensorflow-datasets set")
    tfds_dir: Path | None = Field(
        None, description="folder with prepared sets; by default tensorflow-datasets' own folder"
    )
    archive: str | None = Field(
        None, description="address of a zip or tar file of pictures, fetched once, or its path"
    )
    sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="SHA-256 of the archive, 64 hexadecimal digits"
    )
    split: Literal["auto", "random", "given"] = Field(
        "auto",
        description="given: the set's own train and valid folders, its split_column or its splits; "
        "auto: given if the set has any of these, else random",
    )
    split_column: str = Field(
        default_of("data.source", "IS_VALID"),
        description="column of a CSV file that is true for validation pictures",
    )
    valid_fraction: float = Field(
        _split("valid_fraction"),
        gt=0,
        lt=1,
        description="share of the pictures, 0 to 1, that a random split holds out for validation",
    )
    stratify: bool = Field(
        _split("stratify"),
        description="whether a random split holds out the same share of each class",
    )
    on_bad: Literal["stop", "skip"] = Field(
        "stop",
        description="skip: read every picture first, and leave out those that cannot be read",
    )
    range: str = Field(
        default_of("data.decode:Reading", "range"),
        description="for pictures of more than 8 bits, the value of white (4095), or the values "
        "of black and white (-1024,3071); auto: what the file states, or else one guess for the "
        "whole set",
    )
    max_pixels: int = Field(
        MAX_PIXELS,
        ge=1_000_000,
        description="largest number of pixels to decode; a larger JPEG is decoded at a half, "
        "a quarter or an eighth of its size",
    )
    split_seed: int = Field(_split("seed"), ge=0, description="seed of the random split")
    presize: int = setting(
        "data.presize",
        40,
        "side of the presized pictures in pixels: the short one with crop, the long one with pad, "
        "both with squish; by default at least 1.25 times size, or 1.5 times for your own pictures",
        ge=8,
        le=MAX_SIDE,
    )
    size: DataSize = setting(
        "data.size",
        32,
        "side of the network's input in pixels; height x width, as in 224x160; or weights, the "
        "size that the weights were tested at",
    )
    method: Literal["crop", "squish", "pad"] = Field(
        default_of("framing:Framing", "method"),
        description="how pictures get the input's shape: crop keeps the largest part that fits; "
        "squish distorts the whole picture; pad surrounds the whole picture as pad_mode says",
    )
    pad_mode: Annotated[str, parsed("data.pad_mode", check_pad_mode)] = Field(
        default_of("framing:Framing", "pad_mode"),
        description="what fills the area beyond a picture: reflection; border, its edge repeated; "
        "zeros, black; or a colour, as in #ffffff",
    )
    crop_pct: PositiveShare | None = Field(
        None,
        description="share of the short side that evaluation sees; by default all of it with "
        "squish and pad, else the weights' own share",
    )
    interpolation: Literal["bilinear", "bicubic"] | None = Field(
        None,
        description="filter for evaluation: bilinear, as in training, or Pillow's bicubic; by "
        "default the weights' own filter",
    )
    batch_size: int = setting("data.batch_size", 64, "pictures per step", ge=1)
    sampler: str = Field(
        default_of("data.block:DataBlock", "sampler"),
        description="what an epoch draws (also --data.sampling): shuffled (also uniform), each "
        "picture once; balanced, each class equally often; sqrt, each class in proportion to the "
        f"square root of its number of pictures; or your own function, as {FORM}",
    )
    cache: Literal["auto", "off", "memory", "device"] = Field(
        default_of("data.block:DataBlock.load", "cache"),
        description="where presized pictures are kept between epochs",
    )

    @field_validator("path", mode="before")
    @classmethod
    def _path_or_address(cls, path: Any) -> Any:
        if not isinstance(path, str):
            return path
        return Address(path) if is_address(path) else Path(path)

    @field_validator("sampler")
    @classmethod
    def _known_sampler(cls, name: str) -> str:
        name = "shuffled" if name == "uniform" else name
        return check_choice(name, ("shuffled", "balanced", "sqrt"), "data.sampler")

    @field_validator("range")
    @classmethod
    def _known_range(cls, text: str) -> str:
        try:
            parse_range(text)
        except ValueError as error:
            raise ValueError(f"data.range = {error}") from None
        return text

    @field_validator("path", "root", "tfds_dir", "archive")
    @classmethod
    def _from_anywhere(cls, path: Path | str | None) -> Path | str | None:
        """Makes paths absolute, so that a run can be resumed from another directory."""
        if path is not None and not is_text(str(path)):
            why = "not valid UTF-8, so not allowed in config.toml"
            raise ValueError(f"{printable(str(path))}: {why}; name a link to it")
        if path is None or is_address(path):
            return path
        return type(path)(expanded(Path(path)).absolute())

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(
                f"data.{given[0]} = {getattr(self, given[0])}: cannot be combined with "
                f"data.{given[1]}; name one of them"
            )
        return self


class AugmentConfig(Section):
    """Random changes to training pictures; the first ten settings have fastai's names."""

    section: ClassVar[str] = "augment."

    do_flip: bool = setting("augment.do_flip", False, "mirror half of the pictures")
    flip_vert: bool = Field(
        _augment("flip_vert"),
        description="instead of mirroring, apply one of a square's eight symmetries, at random",
    )
    max_rotate: float = Field(
        _augment("max_rotate"), ge=0, le=180, description="largest rotation, in degrees"
    )
    min_zoom: float = Field(_augment("min_zoom"), gt=0, le=10, description="smallest zoom factor")
    max_zoom: float = Field(_augment("max_zoom"), gt=0, le=10, description="largest zoom factor")
    max_lighting: float = setting(
        "augment.max_lighting", 0.1, "largest change of brightness and contrast, 0 to 1", ge=0, lt=1
    )
    max_warp: float = setting(
        "augment.max_warp", 0.1, "largest change of perspective, 0 to 0.5", ge=0, le=0.5
    )
    p_affine: float = Field(
        _augment("p_affine"), ge=0, le=1, description="probability of each rotation, zoom and warp"
    )
    p_lighting: float = Field(
        _augment("p_lighting"),
        ge=0,
        le=1,
        description="probability of each change of brightness, contrast, saturation or hue",
    )
    min_scale: float = setting(
        "augment.min_scale", 1.0, "smallest share of the area that a crop keeps", ge=0.01, le=1
    )
    max_saturation: float = Field(
        _policy("max_saturation"), ge=0, lt=1, description="largest change of saturation, 0 to 1"
    )
    max_hue: float = Field(
        _policy("max_hue"),
        ge=0,
        le=0.5,
        description="extent of hue shifts, as a share of the colour circle, 0 to 0.5",
    )
    p_gray: float = Field(
        _policy("p_gray"), ge=0, le=1, description="probability of a picture without colour"
    )
    mix: Literal["none", "mixup", "cutmix"] = Field(
        "none", description="mix pairs of a batch's pictures, and their labels"
    )
    mix_alpha: float = setting(
        "augment.mix_alpha",
        default_of("augmentation.mixing:mixup", "alpha"),
        "parameter of the Beta distribution from which the shares of a pair are drawn",
        **LIMITS["alpha"],
    )


class ModelConfig(Section):
    """The network."""

    section: ClassVar[str] = "model."

    arch: str = Field(
        "resnet18",
        description=f"architecture: {', '.join(architectures())}, or {FORM} of your own ModelSpec",
    )
    weights: str = setting(
        "model.weights",
        "none",
        "weights to begin from: none, imagenet, auto or others; auto is imagenet if it can be "
        "fetched, else none; others are a timm tag (a1_in1k), a repository of the Hugging Face hub "
        "(timm/NAME.TAG, perhaps with @REVISION), a .safetensors or .pth file (FILE#PART for one "
        "of its state dicts), a folder with such a file and its config.json, or a run directory",
        min_length=1,
    )
    mean: tuple[Share, Share, Share] | None = Field(
        None,
        description="mean of each colour, for values 0 to 1, that the weights were trained with; "
        "by default what the weights state, else ImageNet's",
    )
    std: tuple[PositiveShare, PositiveShare, PositiveShare] | None = Field(
        None, description="standard deviation of each colour, for values 0 to 1; needs mean"
    )
    head: Head | str = setting(
        "model.head",
        "linear",
        "linear is torchvision's one layer; concat_pool is fastai's two layers with dropout; "
        "mean_pool, for a ViT, is one layer on the mean of the patches; a ModelSpec may offer more",
    )
    task: str = setting(
        "model.task",
        "softmax",
        "what labels mean: softmax, one of the classes; sigmoid, one of them, or none if no "
        f"class is probable enough; or a jaxch5.Task, as {FORM}",
    )
    threshold: Share = Field(
        default_of("task:one_vs_rest", "threshold"),
        description="with sigmoid: smallest probability that makes a class the answer",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        _recipe("precision"),
        description="number type in which the network computes; weights are always float32",
    )
    groups: Literal["auto", "stages", "fastai"] = Field(
        _recipe("groups"),
        description="groups of layers for freezing and rates: fastai's (three for a ResNet) or the "
        "network's stages; auto: stages if layer_decay < 1, else fastai",
    )
    train_bn: bool = Field(
        _recipe("train_bn"), description="train the batch norms of frozen layers"
    )
    bn: Literal["global", "local"] = Field(
        _recipe("bn"),
        description="what batch norms on several devices take their statistics from: global, the "
        "whole batch, as on one device; local, each device's own rows, so that the devices need to "
        "communicate only once per step",
    )
    remat: bool = Field(
        _recipe("remat"),
        description="recompute a block's activations for the gradient: less memory, more time",
    )
    drop_path: float = Field(
        _recipe("drop_path"),
        **LIMITS["drop_path"],
        description="share of items that skip the last block in training; "
        "it is smaller for earlier blocks",
    )

    @field_validator("arch")
    @classmethod
    def _known_arch(cls, arch: str) -> str:
        return check_choice(arch, architectures(), "model.arch")

    @field_validator("head")
    @classmethod
    def _known_head(cls, head: str, info: ValidationInfo) -> str:
        ours = info.data.get("arch") in OURS
        return check_listed(head, get_args(Head), "model.head") if ours else head

    @field_validator("weights")
    @classmethod
    def _from_anywhere(cls, weights: str) -> str:
        """Makes a path absolute, so that a run can be resumed from another directory."""
        named = weights in NO_WEIGHTS or is_on_hub(weights)
        return weights if named else str(expanded(Path(weights)).absolute())

    @field_validator("task")
    @classmethod
    def _known_task(cls, name: str) -> str:
        return check_choice(name, ("softmax", "sigmoid"), "model.task")


class FitConfig(Section):
    """Training: how long, with which rates, and with which optimizer."""

    section: ClassVar[str] = "fit."

    epochs: int | None = Field(
        5,
        **LIMITS["epochs"],
        description="epochs (in fine_tune, of the second phase); 3 to 40 for your own pictures",
    )
    schedule: Literal["one_cycle", "fine_tune", "flat_cosine", "triangular", "sgdr"] = setting(
        "fit.schedule",
        "one_cycle",
        "learning-rate schedule; fine_tune is one cycle for the head, then one for all layers",
    )
    lr: float = Field(_fine_tune("base_lr"), **LIMITS["lr"], description="highest learning rate")
    wd: float = Field(
        _optimizer("wd"),
        **LIMITS["wd"],
        description="decoupled weight decay, multiplied by the rate",
    )
    sizes: tuple[TrainingSize, ...] = Field(
        _recipe("sizes"),
        description="sizes of the network's input, one after the other, each for an equal part of "
        "the epochs: sides, or height x width, as in 112x80,160x128; the last is the size for "
        "validation, data.size",
    )
    pct_start: float = setting(
        "fit.pct_start",
        _cycle("pct_start"),
        "share of the steps in which the rate rises, or, with flat_cosine, is constant",
        **LIMITS["pct_start"],
    )
    div: float = setting("fit.div", _cycle("div"), "the first rate is lr / div", **LIMITS["div"])
    div_final: float = Field(
        _cycle("div_final"), **LIMITS["div_final"], description="the last rate is lr / div_final"
    )
    moms: tuple[float, float, float] = Field(
        default_of("optim.schedule", "MOMS"),
        description="momentum at the start, at the highest rate and at the end",
    )
    freeze_epochs: int = Field(
        _fine_tune("freeze_epochs"),
        **LIMITS["freeze_epochs"],
        description="with fine_tune: epochs that train the head alone",
    )
    lr_mult: float = Field(
        _fine_tune("lr_mult"),
        **LIMITS["lr_mult"],
        description="with fine_tune: the head's rate divided by that of the earliest layers",
    )
    layer_decay: float = Field(
        default_of("optim.groups:group_rates", "layer_decay"),
        **LIMITS["layer_decay"],
        description="ratio of a layer group's rate to that of the next group",
    )
    cycle_epochs: int = Field(
        2, ge=1, description="epochs in a cycle of triangular, or in the first cycle of sgdr"
    )
    loss: str = Field(
        "cross_entropy",
        description="loss to minimize: cross_entropy, the task's own; binary_cross_entropy, with a "
        f"sigmoid for each class; focal; or {FORM}",
    )
    class_weights: str = Field(
        _recipe("class_weights"),
        description="weight of each class in the loss of training and of validation: none; "
        "balanced, the inverse of its number of training pictures; sqrt, the square root of that; "
        "or a .toml file with a line `class = weight` for each class",
    )
    label_smoothing: float = Field(
        default_of("losses:cross_entropy", "label_smoothing"),
        **LIMITS["label_smoothing"],
        description="share of a target that is spread over all classes, 0 to 1",
    )
    gamma: float = Field(
        default_of("losses:focal_loss", "gamma"),
        **LIMITS["gamma"],
        description="focusing parameter of the focal loss; 0 is cross-entropy",
    )
    metrics: tuple[str, ...] = Field(
        _recipe("metrics"),
        description="metrics of each epoch besides the task's (also --metrics): top_5 and the "
        f"like, precision, recall, f1, balanced_accuracy, or {FORM}; several are "
        "separated by commas, or the option is repeated",
    )
    optimizer: Literal["adam", "adamw", "lamb", "sgd"] = Field(
        _optimizer("name"), description="adam has fastai's constants, adamw optax's"
    )
    clip: float = Field(
        _optimizer("clip"),
        **LIMITS["clip"],
        description="largest norm of all gradients together; 0 does not clip",
    )
    accumulate: int = Field(
        _optimizer("accumulate"),
        **LIMITS["accumulate"],
        description="number of batches whose mean gradient makes one update; batches left over at "
        "the end of an epoch make one too",
    )
    average: float = Field(
        _recipe("average"),
        **LIMITS["average"],
        description="decay per step of an exponential average of the weights, which is evaluated "
        "and saved; 0 keeps none",
    )
    devices: int = Field(
        _recipe("devices"),
        **LIMITS["devices"],
        description="devices of each process that share a batch; 0 uses all",
    )
    shard_optimizer: bool = Field(
        _recipe("shard_optimizer"),
        description="shard the optimizer's moments among the devices of a process",
    )
    keep_best: bool = Field(
        _saving("keep_best"),
        description="end with the weights of the best epoch, not of the last",
    )
    best: str | None = Field(
        None,
        description="what decides which epoch is the best, for --fit.keep-best, the checkpoints "
        "and the report: a recorded metric (its highest value, or the lowest error_rate), "
        "valid_loss or train_loss; by default the task's own choice, such as accuracy; ties go to "
        "the lowest valid_loss",
    )

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, name: str) -> str:
        return check_choice(name, ("cross_entropy", "binary_cross_entropy", "focal"), "fit.loss")

    @field_validator("class_weights")
    @classmethod
    def _known_weights(cls, text: str) -> str:
        if text in ("none", "balanced", "sqrt"):
            return text
        if not text.endswith(".toml"):
            raise ValueError(
                f"fit.class_weights = {text}: should be none, balanced, sqrt or a .toml file"
            )
        return str(expanded(Path(text)).absolute())

    @property
    def passes(self) -> int:
        """Returns the number of epochs, once `with_epochs` has replaced None by a number."""
        assert self.epochs is not None
        return self.epochs

    @model_validator(mode="after")
    def _momentum_is_a_share(self) -> FitConfig:
        if not all(is_within("momentum", momentum) for momentum in self.moms):
            raise ValueError(f"fit.moms = {list(self.moms)}: each must be at least 0 and below 1")
        return self


class CheckpointConfig(Section):
    """Saving. A checkpoint is saved after every epoch; the last two and the best are kept."""

    section: ClassVar[str] = "checkpoint."

    every_steps: int = Field(
        _saving("every_steps"),
        ge=0,
        description="steps between saves within an epoch; 0 turns these saves off",
    )
    every_minutes: float = Field(
        _saving("every_minutes"),
        ge=0,
        description="minutes between saves within an epoch; 0 turns these saves off",
    )


class Config(Section):
    """Everything that decides what a run computes."""

    data: DataConfig = Field(default_factory=DataConfig, description="the pictures")
    augment: AugmentConfig = Field(
        default_factory=AugmentConfig, description="random changes to the pictures"
    )
    model: ModelConfig = Field(default_factory=ModelConfig, description="the network")
    fit: FitConfig = Field(default_factory=FitConfig, description="training")
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig, description="saving")
    seed: int = Field(
        default_of("learner:vision_learner", "seed"),
        ge=0,
        lt=2**32,
        description="seed of all randomness except the split",
    )
    deterministic: bool = Field(
        _recipe("deterministic"),
        description="compute the same bits each time, on a GPU too, where this may be slower",
    )
    log: Literal["none", "tensorboard"] = Field(
        "none", description="event files for TensorBoard in the run directory, beside metrics.jsonl"
    )
    profile: bool = Field(
        False, description="traces of some steps in the run directory, for Perfetto and TensorBoard"
    )
    hooks: tuple[str, ...] = Field(
        (),
        description="functions that are called with each event of training, as import paths "
        "(package.module:name), separated by commas",
    )

    def __eq__(self, other: object) -> bool:
        """Compares the settings, whether or not the command line named them."""
        return type(self) is type(other) and self.__dict__ == other.__dict__

    @classmethod
    def meant(cls, values: dict[str, Any]) -> dict[str, Any]:
        given = flat(values)
        if (sizes := given.get("fit.sizes")) and "data.size" not in given:
            return deep_update(values, {"data": {"size": sizes[-1]}})
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.data.presize < max(height_and_width(self.data.size)):
            raise ValueError(
                f"data.presize = {self.data.presize} is below data.size = "
                f"{size_text(self.data.size)}: "
                "presize must be at least as large, so that a crop has room"
            )
        if self.augment.min_zoom > self.augment.max_zoom:
            raise ValueError(
                f"augment.min_zoom = {self.augment.min_zoom} is above augment.max_zoom = "
                f"{self.augment.max_zoom}"
            )
        return self


def check_applies(config: Config, **known: Any) -> None:
    """Checks that every given setting has an effect.

    Args:
        config: All settings.
        known: What else is known: `pictures`, `devices`, `lacks`; see `Situation`.

    Raises:
        ConfigError: A setting has no effect; the message is one line about the first such setting.
    """
    for line in idle_settings(config, **known).values():
        raise ConfigError(line)


def idle_in(values: dict[str, Any]) -> dict[str, str]:
    """Returns which of a file's values have no effect, and why; none if the values are invalid."""
    values = {name: value for name, value in values.items() if name in Config.model_fields}
    try:
        return idle_settings(Config.model_validate(values, context={LENIENT: True}))
    except ValidationError:
        return {}


def from_toml(path: Path, recorded: bool = False) -> Config:
    """Reads the configuration in a TOML file, with defaults for what it omits.

    Args:
        path: TOML file.
        recorded: Whether a run has written the file, perhaps when other rules were in force;
            settings without effect are then left out instead of being refused.

    Raises:
        ConfigError: A key is unknown, or its value is not allowed; the message is one line.
    """
    values = read_toml(path)
    try:
        return Config.model_validate(without(values, idle_in(values)) if recorded else values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, known_keys(Config))}") from None
