"""Packs a folder for `experiments.hardening_on_jax`.

`python -m experiments.packing cifar10 results/trn_hardened_cifar10.work/jax`

writes the images as encoded in the data set, the trained classifier, and the settings. For
CIFAR-10 the folder takes 49 MB.
"""

import dataclasses
import importlib
import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow_datasets as tfds

from experiments.recipe import HardeningRecipe
from keras_trn.presets import preset_path

SPLITS = {"train": "train[:90%]", "validation": "train[90%:]"}


def pack(recipe: HardeningRecipe, folder: Path) -> None:
    """Writes everything that training needs into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, split in SPLITS.items():
        pack_images(recipe.plain.data, split, folder / f"{name}.npz")
    plain = keras.saving.load_model(preset_path(recipe.plain.preset), compile=False)
    plain.classifier.save(folder / "classifier.keras")
    settings = {
        **dataclasses.asdict(recipe.settings),
        "epsilon": recipe.plain.epsilon,
        "restorer": recipe.restorer,
        "classifiers": {
            name: json.loads(make().to_json()) for name, make in recipe.classifiers.items()
        },
    }
    (folder / "settings.json").write_text(json.dumps(settings, indent=1))


def pack_images(data: str, split: str, path: Path) -> None:
    """Writes the encoded images of a split in sequence, and their labels."""
    decoders = {"image": tfds.decode.SkipDecoding()}
    examples = list(tfds.load(data, split=split, decoders=decoders).as_numpy_iterator())
    encoded = [np.frombuffer(example["image"], "uint8") for example in examples]
    np.savez(
        path,
        encoded=np.concatenate(encoded),
        ends=np.cumsum([len(image) for image in encoded]),
        labels=np.array([example["label"] for example in examples], "int32"),
    )


def main(name: str, folder: str) -> None:
    """Packs the folder for the hardening recipe of this name."""
    recipe = importlib.import_module(f"experiments.recipes.hardened_{name}").RECIPE
    pack(recipe, Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
