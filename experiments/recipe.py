"""Describes the settings of experiments."""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

import keras_trn
from keras_trn.attacks import Attack

Arrays = tuple[np.ndarray, np.ndarray]
# All threat models whose attackers run the defence or a part of it, with gradients.
ADAPTIVE = (
    "transfer_from_estimator",
    "transfer_without_map",
    "bpda",
    "whitebox_stopgrad",
    "whitebox_full",
)
# Makes a pipeline of shuffled training images from a batch size.
MakePipeline = Callable[[int], tf.data.Dataset]

# The presets use an estimator that commits to one label less than the default.
ESTIMATE = {"attack_prior": 0.75, "temperature": 1.0, "pixel_loss_weight": 10.0}


class Data(NamedTuple):
    """Holds the images and labels of a data set."""

    train: MakePipeline
    validation: Arrays
    test: Arrays
    # Training images without the validation images, if `train` includes them.
    train_without_validation: MakePipeline | None = None
    # Training images in a fixed order, to cache adversarial examples.
    ordered: tf.data.Dataset | None = None
    # Training images without the validation images, to harden defences.
    arrays: Arrays | None = None


@dataclasses.dataclass(frozen=True)
class ClassifierRecipe:
    """Describes a classifier and its training, with a number of epochs per phase."""

    make: Callable[..., keras.Model]
    epochs: Sequence[int]
    learning_rate: float = 4e-3


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Plans one report: `path` of the results with `suffix`, and a picture for each of `plots`.

    It runs the threat models `oblivious` and `transfer` with true and with predicted labels.
    """

    attacks: Sequence[Attack]
    threat_models: Sequence[str]
    suffix: str = ""
    # Number of test images; None for all of them.
    examples: int | None = None
    epsilons: Sequence[float] = ()
    plots: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Holds all settings of the experiment on one data set, for `experiments.run`."""

    data: str
    load: Callable[["Recipe"], Data]
    epsilon: float
    evaluations: Sequence[Evaluation]

    # Classifiers. Only classifiers train on augmented images, not restorers.
    classifier: ClassifierRecipe
    surrogate: ClassifierRecipe
    train_classifier: Callable[["Recipe", ClassifierRecipe, tf.data.Dataset, Path], keras.Model]
    augment: Callable[[tf.data.Dataset], tf.data.Dataset] = lambda pipeline: pipeline
    classifier_batch_size: int = 64
    smallest_classifier_steps: int = 0

    # The restorer, and the restorers among the baselines.
    restorer: dict[str, Any]
    gradient_map: dict[str, Any] = dataclasses.field(default_factory=lambda: ESTIMATE)
    attacks: Sequence[Attack]
    # If given, these run in each step, and the examples of `attacks` come from a cache.
    fresh_attacks: Sequence[Attack] | None = None
    batch_size: int = 64
    # Number of epochs in which the first restorer of the gradient map trains alone.
    first_epochs: int = 0
    epochs: int
    learning_rate: float = 3e-3
    warmup_steps: int = 300
    smallest_steps: int = 0
    pixel_weight: float = 10.0
    ape_gan_pixel_weight: float = 10.0

    # Adversarial training.
    adversarial_attacks: Sequence[Attack]
    adversarial_epochs: int
    adversarial_learning_rate: float = 3e-3

    # The preset to start from if there are fewer than 10,000 training images.
    start_from: str | None = None
    # The name of the preset to add to the package, if any, and the precision of its weights.
    preset: str | None = None
    half_precision: bool = False

    class_names: Sequence[str] | None = None
    evaluation_batch_size: int = 250
    check_examples: int = 30
    # Whether to write a table of the classifiers.
    classifiers_table: bool = False
    deterministic: bool = False

    def protect(self, classifier: keras.Model) -> keras_trn.ProtectedClassifier:
        """Puts an untrained gradient map and restorer in front of a classifier."""
        return keras_trn.ProtectedClassifier(
            classifier,
            keras_trn.TwoStreamRestorationNetwork(**self.restorer),
            keras_trn.gradient_maps.EstimatedLabel(**self.gradient_map),
            self.class_names,
        )

    def starts_from_preset(self, train: tf.data.Dataset, batch_size: int) -> bool:
        """Tells whether training starts from a preset, because there are few images."""
        return self.start_from is not None and len(train) * batch_size < 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hardening:
    """Configures training against an attacker who knows everything."""

    epochs: int
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    # Momentum of the averaged weights, which validation evaluates.
    momentum: float = 0.998
    # Size of a step of gradient ascent, in units of epsilon.
    step_size: float = 0.5
    # Number of epochs over which epsilon rises to its full value.
    warmup_epochs: float = 0.5
    benign_share: float = 0.2
    # Share of the images to mirror, drawn in each epoch.
    mirrored_share: float = 0.5
    # Weight of the pixels of restored images; the cross-entropy has weight 1.
    pixel: float = 3.0
    # Steps of PGD in validation, and number of images.
    validation_steps: int = 10
    validation_images: int = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class HardeningOnJax:
    """Configures `experiments.hardening_on_jax`; shares the meaning of fields with `Hardening`."""

    # For the restorer, and for each classifier by name.
    epochs: Mapping[str, int]
    batch_size: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 2e-2
    momentum: float = 0.999
    # Number of steps of gradient ascent, from a new random point in each training step.
    attack_steps: int = 3
    step_size: float = 0.5
    warmup_epochs: float = 3.0
    benign_share: float = 0.15
    # Largest shift of an image in pixels.
    largest_shift: int = 4
    # Share of the images that get a rectangle of another one, also by name.
    cutmix_share: Mapping[str, float]
    pixel: float = 1.0
    validation_steps: int = 10
    validation_images: int = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class HardeningRecipe:
    """Holds all settings of a hardened preset, for `experiments.harden`."""

    # The recipe of the plain preset, which provides the classifier.
    plain: Recipe
    settings: Hardening | HardeningOnJax
    restorer: dict[str, Any]
    # As large as the classifier and the restorer together.
    make_large_classifier: Callable[[], keras.Model]
    # Filters to compare with, and their strengths.
    filters: Mapping[str, float]
    evaluations: Sequence[Evaluation]
    preset: str

    @property
    def classifiers(self) -> dict[str, Callable[[], keras.Model]]:
        """Returns the classifiers to train on adversarial examples, by name."""
        return {
            "adversarial training": self.plain.classifier.make,
            "adversarial training, larger network": self.make_large_classifier,
        }
