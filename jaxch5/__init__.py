"""jaxch5 trains image classifiers in JAX.

A public name is imported only when it is first used, so that a command imports only what it needs.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "jaxch5.batch": ("Batch",),
    "jaxch5.data.sources.archive": ("from_archive",),
    "jaxch5.data.sources.packed": ("from_packed",),
    "jaxch5.data.sources.table": ("from_csv",),
    "jaxch5.data.sources.tfds": ("from_tfds",),
    "jaxch5.data.sources.folder": ("from_folder", "from_regex"),
    "jaxch5.data.sampler": ("balanced", "repeated", "sequential", "shuffled"),
    "jaxch5.data.source": ("digits", "from_arrays"),
    "jaxch5.data.split": ("column_split", "folder_split", "given_split", "random_split"),
    "jaxch5.data.verify": ("readable",),
    "jaxch5.data.block": ("Data", "DataBlock"),
    "jaxch5.augmentation.center": ("center",),
    "jaxch5.augmentation.policy": ("aug_transforms", "augment"),
    "jaxch5.augmentation.mixing": ("cutmix", "mixup"),
    "jaxch5.plots.augmentations": ("plot_augmentations",),
    "jaxch5.results.interpretation": ("Interpretation",),
    "jaxch5.results.confident": ("find_label_issues",),
    "jaxch5.models.registry": ("create_model", "register"),
    "jaxch5.models.spec": ("HubWeights", "LastMap", "ModelSpec", "Names", "Normalization"),
    "jaxch5.models.weights": ("export_state_dict", "import_state_dict"),
    "jaxch5.training.events": ("Begin", "End", "Epoch", "Ready", "Step", "StepRecord"),
    "jaxch5.training.compiler": ("keep_compiled_programs",),
    "jaxch5.training.process": ("prepare_process",),
    "jaxch5.training.recipe": ("Recipe",),
    "jaxch5.training.state": ("init_state",),
    "jaxch5.training.step": ("make_train_step",),
    "jaxch5.run.transfer": ("load_weights",),
    "jaxch5.optim.schedule": (
        "fine_tune_momentum",
        "fine_tune_schedule",
        "flat_cosine",
        "one_cycle",
        "one_cycle_momentum",
        "sgdr",
        "triangular",
    ),
    "jaxch5.optim.groups": ("even_mults", "group_rates"),
    "jaxch5.optim.suggest": ("suggest_lr",),
    "jaxch5.plots.training": ("plot_lr_find",),
    "jaxch5.optim.optimizer": ("make_optimizer",),
    "jaxch5.losses": (
        "ItemLosses",
        "binary_cross_entropy",
        "cross_entropy",
        "explain_loss",
        "focal_loss",
        "log_softmax",
        "nll_loss",
        "sigmoid_cross_entropy",
        "softmax",
    ),
    "jaxch5.metrics": ("Best",),
    "jaxch5.task": ("Task", "one_vs_rest", "single_label"),
    "jaxch5.learner": ("Learner", "vision_learner"),
    "jaxch5.results.attribution": ("attribution",),
    "jaxch5.results.predictor": ("Predictor", "load_learner"),
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        fastais = import_module("jaxch5.util.fastai").missing(name, "jaxch5")
        raise AttributeError(fastais or f"module 'jaxch5' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
