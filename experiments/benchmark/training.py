"""Compares a training step with the passes that it needs."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from experiments.benchmark.attacks import attack_passes
from experiments.benchmark.ratios import median
from experiments.benchmark.settings import Settings
from experiments.benchmark.settings import load_preset
from experiments.benchmark.settings import make_attack
from experiments.benchmark.settings import random_batch
from experiments.studies.cost import gradient_of
from experiments.studies.cost import seconds_in_turn

# By default, this share of a batch is attacked in training.
ATTACKED_SHARE = 0.75
# The map, the first restoration and the restored image each take a forward and a backward pass;
# the labels to restore and the logits before the restoration take a forward pass.
PASSES, FORWARD_PASSES = 3, 2


def measure(settings: Settings) -> dict[str, Any]:
    """Times `fit`, and each of the passes that one of its steps needs."""
    protected = load_preset()
    protected.compile("adam", attack=make_attack(settings.steps), benign_share=1 - ATTACKED_SHARE)
    classifier, gradient_map = protected.classifier, protected.gradient_map
    images, labels = random_batch(settings.batch_size * settings.fitted_batches)
    batch = images[: settings.batch_size]
    attacked = batch[: round(ATTACKED_SHARE * len(batch))]
    maps = tf.random.normal(gradient_map(batch, classifier=classifier).shape)
    functions = {
        "fit": functools.partial(
            protected.fit,
            *(images.numpy(), labels.numpy()),
            batch_size=settings.batch_size,
            shuffle=False,
            verbose=0,
        ),
        "attack": attack_passes(classifier, attacked, settings.steps),
        "classifier": _compiled(classifier_passes(classifier), batch),
        "restorer": _compiled(weight_passes(protected.restorer), batch, maps),
        "first_restoration": _compiled(weight_passes(gradient_map.first_restorer), batch),
    }
    seconds = seconds_in_turn(functions, settings.repeats)
    steps = np.divide(seconds.pop("fit"), settings.fitted_batches)
    passes = np.sum(list(seconds.values()), axis=0)
    return {
        "seconds_of_step": median(steps),
        "seconds_of_passes": {name: median(values) for name, values in seconds.items()},
        "step_over_passes": round(float(np.median(steps / passes)), 3),
    }


def _compiled(function: Callable[..., Any], *arguments: tf.Tensor) -> Callable[[], Any]:
    return functools.partial(tf.function(function, autograph=False), *arguments)


def classifier_passes(classifier: keras.Model) -> Callable[[tf.Tensor], list[tf.Tensor]]:
    """Makes a function of the passes of a training step through the classifier."""
    gradient = gradient_of(classifier)

    def passes(images: tf.Tensor) -> list[tf.Tensor]:
        # Of other images each time, lest TensorFlow takes equal passes for one.
        different = [images / (1 + number) for number in range(PASSES + FORWARD_PASSES)]
        return [
            *map(gradient, different[:PASSES]),
            *(classifier(one, training=False) for one in different[PASSES:]),
        ]

    return passes


def weight_passes(network: keras.Model) -> Callable[..., list[tf.Tensor]]:
    """Makes a function of a forward pass, and a backward pass to the weights."""

    def passes(*inputs: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            outputs = network(*inputs)
        return tape.gradient(outputs, network.trainable_variables)

    return passes
