"""The configuration: what a run does, complete enough to run it again.

One pydantic model, read from TOML, overridden on the command line (`jaxch5.cli`) and written into
the run directory. Some defaults depend on where the pictures come from: the embedded digits are
tiny, and mirrored or cut they are other signs; photographs are neither.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from jaxch5.errors import ConfigError

# Where pictures may come from; without any, they are the digits.
SOURCES = ("path", "tfds", "archive")
GOES_WITH = {
    "pattern": ("path", "archive"),
    "root": ("path",),
    "tfds_dir": ("tfds",),
    "sha256": ("archive",),
}
# What differs for pictures of one's own; the fields' own defaults are those of the digits.
PICTURES: dict[str, dict[str, Any]] = {
    "data": {"presize": 192, "size": 128, "batch_size": 32},
    "augment": {"do_flip": True, "max_lighting": 0.2, "max_warp": 0.2, "min_scale": 0.75},
}


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(Section):
    """The pictures, and how they become batches."""

    path: Path | None = Field(
        None,
        description="folder of class folders, or of train/ and valid/ (or val/) folders of them, "
        "or a CSV file; without path, tfds or archive, scikit-learn's 1,797 digits",
    )
    pattern: str | None = Field(
        None,
        description="regular expression for whole file names, whose first group is the class, as "
        r"in (.+)_\d+\.jpg; without it, folders are classes",
    )
    image_column: str = Field("image", description="column of paths or links in a CSV file")
    label_column: str = Field("label", description="column of class names in a CSV file")
    root: Path | None = Field(
        None, description="where relative paths in a CSV file begin; without it, beside the file"
    )
    tfds: str | None = Field(None, description="name of a tensorflow-datasets set")
    tfds_dir: Path | None = Field(
        None, description="folder with prepared sets; without it, tensorflow-datasets' own"
    )
    archive: str | None = Field(
        None, description="address of a zip or tar file of pictures, fetched once"
    )
    sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="checksum of the archive, 64 digits"
    )
    split: Literal["auto", "random", "given"] = Field(
        "auto",
        description="given: the set's own train and valid folders, its split_column or its splits; "
        "auto: given where there is one, else random",
    )
    split_column: str = Field(
        "is_valid", description="column of a CSV file that is true for validation pictures"
    )
    valid_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="share of the pictures, 0 to 1, that a random split holds out for validation",
    )
    stratify: bool = Field(
        False, description="a random split holds out the same share of each class"
    )
    on_bad: Literal["stop", "skip"] = Field(
        "stop",
        description="skip: read every picture first, and leave out those that cannot be read",
    )
    split_seed: int = Field(42, ge=0, description="seed of the split")
    presize: int = Field(
        40,
        ge=8,
        le=4096,
        description="short side on the CPU, pixels; 192 for pictures of one's own",
    )
    size: int = Field(
        32,
        ge=8,
        le=4096,
        description="side of the network's input, pixels; 128 for pictures of one's own",
    )
    batch_size: int = Field(64, ge=1, description="pictures a step; 32 for pictures of one's own")
    cache: Literal["auto", "off", "memory", "device"] = Field(
        "auto", description="where presized pictures are kept between epochs"
    )

    @field_validator("path", "root", "tfds_dir")
    @classmethod
    def _from_anywhere(cls, path: Path | None) -> Path | None:
        """A run can be taken up from another working directory."""
        return None if path is None else path.expanduser().absolute()

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(
                f"data.{given[0]} = {getattr(self, given[0])}: does not go together with "
                f"data.{given[1]}; name one place"
            )
        for name, places in GOES_WITH.items():
            if getattr(self, name) is not None and not set(given) & set(places):
                wanted = " or ".join(f"data.{place}" for place in places)
                raise ValueError(f"data.{name} = {getattr(self, name)}: goes with {wanted} only")
        return self


class AugmentConfig(Section):
    """Random changes to training pictures; names and meanings are fastai's `aug_transforms`."""

    do_flip: bool = Field(
        False, description="mirror half of the pictures; on for pictures of one's own"
    )
    flip_vert: bool = Field(False, description="all eight symmetries of the square, not two")
    max_rotate: float = Field(10.0, ge=0, le=180, description="largest turn, degrees")
    min_zoom: float = Field(1.0, gt=0, le=10, description="smallest zoom, a factor")
    max_zoom: float = Field(1.1, gt=0, le=10, description="largest zoom, a factor")
    max_lighting: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="largest change of brightness and contrast, 0 to 1; 0.2 for pictures of "
        "one's own",
    )
    max_warp: float = Field(
        0.1,
        ge=0,
        le=0.5,
        description="largest change of perspective, 0 to 0.5; 0.2 for pictures of one's own",
    )
    p_affine: float = Field(0.75, ge=0, le=1, description="probability of each turn, zoom or warp")
    p_lighting: float = Field(0.75, ge=0, le=1, description="probability of a change of lighting")
    min_scale: float = Field(
        1.0,
        ge=0.01,
        le=1,
        description="smallest share of the area that a crop keeps; 0.75 for pictures of one's own",
    )
    max_saturation: float = Field(
        0.0, ge=0, lt=1, description="largest change of saturation, 0 to 1; 0 is none"
    )
    max_hue: float = Field(
        0.0, ge=0, le=0.5, description="largest turn of the colour circle, 0 to 0.5; 0 is none"
    )
    p_gray: float = Field(0.0, ge=0, le=1, description="probability of a picture without colour")
    mix: Literal["none", "mixup", "cutmix"] = Field(
        "none", description="pairs of a batch's pictures become one, and so do their labels"
    )
    mix_alpha: float = Field(
        0.4, gt=0, le=10, description="of the Beta distribution of a pair's shares"
    )


class ModelConfig(Section):
    """The network."""

    arch: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = Field(
        "resnet18", description="architecture"
    )
    head: Literal["linear", "concat_pool"] = Field(
        "linear",
        description="torchvision's one layer, or fastai's two with dropout",
    )


class FitConfig(Section):
    """Training: one cycle of learning rate and momentum."""

    epochs: int = Field(5, ge=1, description="passes over the training set")
    lr: float = Field(3e-3, gt=0, le=100, description="highest learning rate")
    wd: float = Field(0.01, ge=0, le=1, description="decoupled weight decay, a share of the rate")
    pct_start: float = Field(
        0.25, gt=0, lt=1, description="share of the steps in which the rate rises"
    )
    div: float = Field(25.0, ge=1, description="the first rate is lr / div")
    div_final: float = Field(1e5, ge=1, description="the last rate is lr / div_final")
    moms: tuple[float, float, float] = Field(
        (0.95, 0.85, 0.95), description="momentum at the start, the highest rate and the end"
    )

    @model_validator(mode="after")
    def _momentum_is_a_share(self) -> FitConfig:
        if not all(0 <= momentum < 1 for momentum in self.moms):
            raise ValueError(f"fit.moms = {list(self.moms)}: each must be at least 0 and below 1")
        return self


class CheckpointConfig(Section):
    """Saving. The last state and the best are kept; one is saved after every epoch."""

    every_steps: int = Field(
        0, ge=0, description="steps between saves within an epoch; 0 saves after epochs only"
    )


class Config(Section):
    """Everything that decides what a run computes."""

    data: DataConfig = Field(DataConfig(), description="the pictures")
    augment: AugmentConfig = Field(AugmentConfig(), description="random changes to them")
    model: ModelConfig = Field(ModelConfig(), description="the network")
    fit: FitConfig = Field(FitConfig(), description="training")
    checkpoint: CheckpointConfig = Field(CheckpointConfig(), description="saving")
    seed: int = Field(0, ge=0, lt=2**32, description="root of every random draw but the split's")

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_source(cls, values: dict[str, Any]) -> dict[str, Any]:
        data = values.get("data")
        if not isinstance(data, dict) or all(data.get(name) is None for name in SOURCES):
            return values
        return deep_update(PICTURES, values)

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.data.presize < self.data.size:
            raise ValueError(
                f"data.presize = {self.data.presize} is below data.size = {self.data.size}: "
                "presize is the larger of the two, so that a crop has room"
            )
        if self.augment.min_zoom > self.augment.max_zoom:
            raise ValueError(
                f"augment.min_zoom = {self.augment.min_zoom} is above augment.max_zoom = "
                f"{self.augment.max_zoom}"
            )
        return self


def deep_update(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of nested dictionaries in which the values of `changes` win.

    Example:
        >>> deep_update({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
        {'a': {'b': 3, 'c': 2}}
    """
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = deep_update(merged[key], value) if nested else value
    return merged


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigError: the file does not exist, cannot be read or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from None


def to_toml(config: Config) -> str:
    """The whole configuration as TOML; what has no value is left out.

    Example:
        >>> print(to_toml(Config()).splitlines()[0])
        seed = 0
    """
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def from_toml(path: Path) -> Config:
    """The configuration in a TOML file, with defaults for what it does not name.

    Raises:
        ConfigError: one line for the first key that is unknown or has a value that is not allowed.
    """
    try:
        return Config.model_validate(read_toml(path))
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, known_keys())}") from None


def differing(one: Config, other: Config) -> list[str]:
    """Dotted names of the settings in which two configurations differ.

    Example:
        >>> differing(Config(), Config(seed=1))
        ['seed']
    """

    def value(config: Config, key: str) -> Any:
        for part in key.split("."):
            config = getattr(config, part)
        return config

    return [key for key in known_keys() if value(one, key) != value(other, key)]


def known_keys(section: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Dotted names of all settings.

    Example:
        >>> known_keys()[0], known_keys()[-1]
        ('data.path', 'seed')
    """
    keys = []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += known_keys(field.annotation, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys


def explain(error: ValidationError, keys: list[str]) -> str:
    """One line for the first thing that pydantic found: key, value, what is allowed."""
    import difflib

    first = error.errors()[0]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, keys, n=1)
        return f"{key}: no such setting" + (f"; did you mean {close[0]}?" if close else "")
    allowed = first["msg"].replace("Input should", "should").split(", unable")[0]
    return f"{key} = {first['input']}: {allowed}"
