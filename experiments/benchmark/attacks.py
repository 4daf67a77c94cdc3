"""Compares PGD of this package and of others with the passes that it needs."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from experiments.benchmark.ratios import medians
from experiments.benchmark.ratios import ratio
from experiments.benchmark.settings import CLASSES
from experiments.benchmark.settings import Settings
from experiments.benchmark.settings import load_preset
from experiments.benchmark.settings import make_attack
from experiments.benchmark.settings import random_batch
from experiments.recipes.fashion_mnist import EPSILON
from experiments.recipes.fashion_mnist import IMAGE_SHAPE
from experiments.studies.cost import gradient_of
from experiments.studies.cost import seconds_in_turn

Call = Callable[[], Any]


def measure(settings: Settings) -> dict[str, Any]:
    """Times PGD of each package on one batch, and the passes through the classifier."""
    classifier = load_preset().classifier
    images, labels = random_batch(settings.batch_size)
    step_size = make_attack(settings.steps).step_size(EPSILON)
    given = classifier, images, labels, settings.steps
    functions = {
        "passes": attack_passes(classifier, images, settings.steps),
        "keras_trn": functools.partial(make_attack(settings.steps), classifier, images, labels),
        "CleverHans": cleverhans_descent(*given, step_size),
        "ART": art_descent(*given, step_size),
        "Foolbox": foolbox_descent(*given, step_size),
    }
    seconds = seconds_in_turn(functions, settings.repeats)
    packages = [name for name in functions if name != "passes"]
    return {
        "seconds": medians(seconds),
        "over_passes": {name: ratio(seconds, name, "passes") for name in packages},
    }


def attack_passes(classifier: keras.Model, images: tf.Tensor, steps: int) -> Call:
    """Makes a function of as many forward and backward passes as an attack has steps."""
    one_pass = tf.function(gradient_of(classifier), autograph=False)

    def passes() -> None:
        for _ in range(steps):
            one_pass(images)

    return passes


def cleverhans_descent(
    classifier: keras.Model, images: tf.Tensor, labels: tf.Tensor, steps: int, step_size: float
) -> Call:
    """Makes a function that crafts with CleverHans' PGD, compiled as a whole."""
    from cleverhans.tf2.attacks import projected_gradient_descent

    @tf.autograph.experimental.do_not_convert
    def logits(images: tf.Tensor) -> tf.Tensor:
        return classifier(images, training=False)

    @functools.partial(tf.function, autograph=False)
    def craft(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return projected_gradient_descent.projected_gradient_descent(
            *(logits, images, EPSILON, step_size, steps, np.inf),
            clip_min=0.0,
            clip_max=1.0,
            y=labels,
            rand_init=True,
        )

    return functools.partial(craft, images, labels)


def art_descent(
    classifier: keras.Model, images: tf.Tensor, labels: tf.Tensor, steps: int, step_size: float
) -> Call:
    """Makes a function that crafts with ART's PGD, on a compiled classifier."""
    # Slow to import.
    import art.attacks.evasion
    import art.estimators.classification

    estimator = art.estimators.classification.TensorFlowV2Classifier(
        model=tf.function(lambda images, training: classifier(images, training=False)),
        nb_classes=CLASSES,
        input_shape=IMAGE_SHAPE,
        loss_object=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        clip_values=(0.0, 1.0),
    )
    descent = art.attacks.evasion.ProjectedGradientDescent(
        estimator,
        eps=EPSILON,
        eps_step=step_size,
        max_iter=steps,
        num_random_init=1,
        batch_size=len(images),
        verbose=False,
    )
    one_hot = keras.utils.to_categorical(labels.numpy(), CLASSES)
    return functools.partial(descent.generate, images.numpy(), one_hot)


def foolbox_descent(
    classifier: keras.Model, images: tf.Tensor, labels: tf.Tensor, steps: int, step_size: float
) -> Call:
    """Makes a function that crafts with Foolbox' PGD, on a compiled classifier."""
    import foolbox

    compiled = tf.function(functools.partial(classifier, training=False), autograph=False)
    model = foolbox.TensorFlowModel(compiled, bounds=(0, 1))
    descent = foolbox.attacks.LinfPGD(abs_stepsize=step_size, steps=steps)
    return functools.partial(descent.run, model, images, labels, epsilon=EPSILON)
