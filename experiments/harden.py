"""Hardens a restorer, and compares it with the plain one and with adversarial training.

`python -m experiments.harden fashion_mnist results/trn_hardened_fashion_mnist.json`

The classifier is that of the plain preset. One recipe trains a restorer, a classifier of the same
architecture, and one as large as classifier and restorer together. All are evaluated on the test
images. A work folder next to the path keeps the progress: an interrupted run continues there.
"""

import functools
import importlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras

import keras_trn
from experiments.filters import make_filters
from experiments.half_precision import store_as_float16
from experiments.hardening import harden
from experiments.recipe import Data
from experiments.recipe import HardeningOnJax
from experiments.recipe import HardeningRecipe
from experiments.run import Experiment
from experiments.training import SEED
from experiments.training import load_or_train
from keras_trn.presets import FOLDER
from keras_trn.presets import preset_path


class HardeningExperiment(Experiment):
    """A hardened preset in the making."""

    def __init__(self, hardening: HardeningRecipe, path: Path, data: Data | None = None) -> None:
        super().__init__(replace(hardening.plain, evaluations=hardening.evaluations), path, data)
        self.hardening = hardening

    def run(self, presets: Path = FOLDER) -> None:
        """Runs what is missing, and writes results and preset."""
        plain = keras.saving.load_model(preset_path(self.recipe.preset), compile=False)
        hardened = self.harden("restorer", functools.partial(self.make_hardened, plain.classifier))
        preset = presets / f"{self.hardening.preset}.keras"
        shutil.copy(self.folder / "restorer.keras", preset)
        # Where the plain preset is stored so, its classifier is rounded already.
        is_rounded = self.recipe.half_precision
        store_as_float16(preset, except_for=None if is_rounded else "classifier")
        baselines = {
            "plain restorer": plain,
            **make_filters(plain.classifier, self.hardening.filters),
            **{name: self.harden(name, make) for name, make in self.hardening.classifiers.items()},
        }
        surrogate = self.train_classifier(self.recipe.surrogate, "surrogate", self.data.train)
        self.evaluate(hardened, surrogate, baselines)

    def make_hardened(self, classifier: keras.Model) -> keras_trn.ProtectedClassifier:
        """Puts an untrained autoencoder in front of a classifier."""
        restorer = keras_trn.RestorationAutoencoder(**self.hardening.restorer)
        return keras_trn.ProtectedClassifier(
            classifier, restorer, class_names=self.recipe.class_names
        )

    def harden(self, name: str, make: Callable[[], keras.Model]) -> keras.Model:
        """Trains a defence, or continues to."""

        def train() -> keras.Model:
            keras.utils.set_random_seed(SEED)
            defence = make()
            if isinstance(self.hardening.settings, HardeningOnJax):
                load_trained_on_jax(defence, self.folder / "jax" / f"{name}.weights.h5")
            else:
                harden(
                    defence,
                    self.data.arrays,
                    self.data.validation,
                    self.recipe.epsilon,
                    self.hardening.settings,
                    self.folder / name,
                )
            if isinstance(defence, keras_trn.ProtectedClassifier):
                # As the preset stores it. The classifier stays the same to the bit.
                rounded = [weight.astype("float16") for weight in defence.restorer.get_weights()]
                defence.restorer.set_weights(rounded)
            return defence

        return load_or_train(self.folder / f"{name}.keras", train)


def load_trained_on_jax(defence: keras.Model, path: Path) -> None:
    """Loads the weights that `experiments.hardening_on_jax` has trained."""
    if not path.exists():
        raise FileNotFoundError(
            f"The weights {str(path)!r} are missing. `python -m experiments.packing` writes the "
            "folder, and `python -m experiments.hardening_on_jax` trains in it, on a GPU."
        )
    if isinstance(defence, keras_trn.ProtectedClassifier):
        defence = defence.restorer
    defence.load_weights(path)


def main(name: str, path: str) -> None:
    """Runs the hardening recipe of this name."""
    recipe = importlib.import_module(f"experiments.recipes.hardened_{name}").RECIPE
    HardeningExperiment(recipe, Path(path)).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
