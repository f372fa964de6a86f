"""Lists fastai's names and jaxch5's counterparts, for the errors about missing attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

_LEARNER = 'jx.vision_learner(data, "resnet34"'
_DATA = "jx.DataBlock(source, split, presize=460, size=224)"
_ONE_CLASS = "left out: a data block has pictures with one class each"
_WEIGHTS_KNOW = "left out: mean and standard deviation come with the weights"

# Keyed by the name of the class or package. Entries that begin with "left out" say why there is no
# counterpart, or what else to use; all other entries are code.
INSTEAD: dict[str, dict[str, str]] = {
    "jaxch5": {
        "untar_data": "jx.from_archive(path)",
        "URLs": 'jx.from_tfds("oxford_iiit_pet") or jx.from_archive(path)',
        "get_image_files": "jx.from_folder(path) or jx.from_regex(path, pattern)",
        "RegexLabeller": "jx.from_regex(path, pattern)",
        "using_attr": "jx.from_regex(path, pattern)",
        "parent_label": "jx.from_folder(path)",
        "ColReader": 'jx.from_csv(path, image="image", label="label")',
        "RandomSplitter": "jx.random_split(0.2, seed=42)",
        "TrainTestSplitter": "jx.random_split(0.2, seed=42, stratify=True)",
        "GrandparentSplitter": "jx.folder_split()",
        "ColSplitter": 'jx.column_split("is_valid")',
        **dict.fromkeys(("ImageBlock", "CategoryBlock"), _ONE_CLASS),
        **dict.fromkeys(("MultiCategoryBlock", "BBoxBlock", "PointBlock", "MaskBlock"), _ONE_CLASS),
        "ImageDataLoaders": f"{_DATA}.load(batch_size=64)",
        "DataLoaders": f"{_DATA}.load(batch_size=64)",
        "Resize": _DATA,
        "ResizeMethod": _DATA.replace(")", ', method="squish")'),
        "PadMode": _DATA.replace(")", ', method="pad", pad_mode="zeros")'),
        "RandomResizedCrop": "jx.aug_transforms(min_scale=0.75)",
        "Normalize": _WEIGHTS_KNOW,
        "imagenet_stats": _WEIGHTS_KNOW,
        **dict.fromkeys(
            ("setup_aug_tfms", "Pipeline", "Rotate", "Zoom", "Warp", "TensorImage"),
            "jx.plot_augmentations(picture)",
        ),
        **dict.fromkeys(("PILImage", "tensor"), "left out: paths, files and arrays are accepted"),
        **dict.fromkeys(("subplots", "plot_function"), "left out: use matplotlib's functions"),
        "Inf": "data.show_batch(1, 3, unique=True)",
        "show_image": "data.show_batch(1, 1)",
        "verify_images": "jx.readable(source)",
        "L": "left out: use lists, tuples and NumPy arrays",
        "Path": "left out: use pathlib.Path",
        "cnn_learner": f"{_LEARNER})",
        **{
            f"resnet{depth}": f'jx.vision_learner(data, "resnet{depth}")'
            for depth in (18, 34, 50, 101, 152)
        },
        "accuracy": 'learn.validate()["accuracy"]',
        "error_rate": 'learn.validate()["error_rate"]',
        "top_k_accuracy": f'{_LEARNER}, metrics=("top_5",))',
        "F1Score": f'{_LEARNER}, metrics=("f1",))',
        **{
            rule: f'learn.lr_find(suggest_funcs=("{rule}",))'
            for rule in ("minimum", "steep", "valley", "slide")
        },
        "CrossEntropyLossFlat": "jx.cross_entropy",
        "LabelSmoothingCrossEntropy": "partial(jx.cross_entropy, label_smoothing=0.1)",
        "FocalLossFlat": "jx.focal_loss",
        "BCEWithLogitsLossFlat": "jx.binary_cross_entropy",
        "MixUp": f"{_LEARNER}, mix=jx.mixup)",
        "CutMix": f"{_LEARNER}, mix=jx.cutmix)",
        "GradientAccumulation": f"{_LEARNER}, accumulate=4)",
        "GradientClip": f"{_LEARNER}, clip=1.0)",
        "SaveModelCallback": "learn.saving = learn.saving._replace(keep_best=True)",
        "EarlyStoppingCallback": "left out; docs/training.md says why",
        **dict.fromkeys(
            ("Callback", "WandbCallback", "TensorBoardCallback"), f"{_LEARNER}, hooks=(print,))"
        ),
        "set_seed": f"{_LEARNER}, seed=42) and jx.random_split(seed=42)",
        "ClassificationInterpretation": "learn.interpret()",
        "ImageClassifierCleaner": "learn.interpret().suspects()",
        "doc": "help(jx.vision_learner)",
    },
    "DataBlock": {
        "dataloaders": "pets.load(batch_size=64)",
        "datasets": "pets.load(batch_size=64)",
        "summary": "pets.load(batch_size=64).summary()",
        "show_batch": "pets.load(batch_size=64).show_batch()",
        "get_items": "pets.source",
        "get_y": "pets.source",
        "splitter": "pets.split",
        "item_tfms": "pets.presize",
        "batch_tfms": "pets.augment",
        "blocks": _ONE_CLASS,
    },
    "Data": {
        "vocab": "data.classes",
        "c": "len(data.classes)",
        "bs": "data.train.batch_size",
        "one_batch": "next(iter(data.train))",
        "items": "data.train.items",
        "train_ds": "data.train",
        "valid_ds": "data.valid",
        "loaders": "(data.train, data.valid)",
        "after_batch": "data.augment",
        "test_dl": "learn.predictor().predict_many(pictures)",
        "device": "left out: JAX uses the accelerator if there is one",
        "cuda": "left out: JAX uses the accelerator if there is one",
    },
    "Trainer": {
        "dls": "learn.data",
        "loss_func": "learn.recipe.objective",
        "metrics": "learn.recipe.metrics",
        "opt": "learn.state.opt_state",
        "opt_func": "learn.recipe.optimizer",
        "wd": "learn.recipe.wd",
        "splitter": "learn.groups",
        "cbs": "learn.hooks",
        "add_cb": "learn.hooks",
        "path": "learn.run",
        "epoch": "len(learn.records)",
        "to_fp16": f'{_LEARNER}, precision="bf16")',
        "to_bf16": f'{_LEARNER}, precision="bf16")',
        "to_fp32": f'{_LEARNER}, precision="fp32")',
        "fit_flat_cos": "learn.fit(3, jx.flat_cosine(1e-3, steps=3 * len(data.train)))",
        "fit_sgdr": "learn.fit(3, jx.sgdr(1e-2, steps=200))",
        "load": f'{_LEARNER}, "pets.safetensors")',
    },
    "Recorder": {
        "values": "learn.records",
        "plot_lr_find": "learn.lr_find()",
        "log": "learn.records",
    },
    "Interpretation": {
        "vocab": "interp.classes",
        "preds": "interp.probabilities",
        "targs": "interp.targets",
        "decoded": "interp.predictions",
        "print_classification_report": "print(interp.classification_report())",
        "show_results": "interp.plot_results(3, 3)",
    },
    "Predictor": {
        "dls": "learn.predictor().classes",
        "get_preds": "learn.predictor().predict_many(pictures)",
        "test_dl": "learn.predictor().predict_many(pictures)",
    },
}


def missing(name: str, *owners: str) -> str:
    """Returns the message about a missing attribute; "" if `INSTEAD` has no entry for it.

    Args:
        name: Name of the attribute.
        owners: Name of the class that lacks the attribute, and names of its base classes; or the
            name of the package.

    Example:
        >>> missing("vocab", "Data")
        "Data.vocab: this is fastai's name; here it is data.classes"
        >>> missing("nonsense", "Data")
        ''
    """
    found = [INSTEAD[owner][name] for owner in owners if name in INSTEAD.get(owner, {})]
    return f"{owners[0]}.{name}: this is fastai's name; here it is {found[0]}" if found else ""


class NamesFastai:
    """Names jaxch5's counterpart if a class has no attribute of a name that fastai uses."""

    # With these methods, a type checker would assume that every attribute exists.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            kinds = type(self).__mro__
            is_property = any(name in vars(kind) for kind in kinds)  # property whose getter failed
            if not is_property and (line := missing(name, *(kind.__name__ for kind in kinds))):
                raise AttributeError(line)
            return object.__getattribute__(self, name)  # raises the usual error

        def __setattr__(self, name: str, value: Any) -> None:
            kinds = type(self).__mro__
            is_own = any(name in vars(kind) for kind in kinds)
            if not is_own and (line := missing(name, *(kind.__name__ for kind in kinds))):
                fixed = ", which vision_learner sets once" * ("learn.recipe." in line)
                raise AttributeError(line + fixed)
            super().__setattr__(name, value)
