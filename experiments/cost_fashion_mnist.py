"""Measures what an evaluation costs beyond the passes that it needs, on Fashion-MNIST.

`python -m experiments.cost_fashion_mnist results/cost_fashion_mnist.json`

An attack of 20 steps needs 20 forward and backward passes through the classifier.
This times those passes alone, the evaluation of PGD-20 on the same 1,000 test
images, and ART's PGD with as many steps, one after the other, several times over.
Tracing is left out of all of them: each is run once before it is timed.
"""

import json
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_trn
from keras_trn.attacks.art_attack import import_art
from keras_trn.evaluation.environment import describe_environment

EXAMPLES = 1000
BATCH_SIZE = 250
STEPS = 20
EPSILON = 0.1
REPEATS = 5


def train_classifier():
    """Trains a convolutional classifier for a little while."""
    classifier = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(64, 3, padding="same", strides=2, activation="relu"),
            layers.Conv2D(64, 3, padding="same", strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    classifier.compile(
        optimizer="adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    train, _, _ = keras_trn.datasets.load("fashion_mnist")
    classifier.fit(train.take(100), shuffle=False, verbose=0)
    return classifier


def make_passes(classifier, dataset):
    """The passes that the attack needs, and nothing else."""

    @tf.function(
        input_signature=[tf.TensorSpec((None, 28, 28, 1)), tf.TensorSpec((None,), "int64")]
    )
    def forward_and_backward(images, labels):
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = classifier(images, training=False)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return tape.gradient(losses, images)

    def passes():
        for images, labels in dataset:
            for _ in range(STEPS):
                forward_and_backward(images, labels)

    return passes


def make_evaluation(classifier, dataset):
    """The evaluation of PGD: crafting, predictions, PSNR and SSIM."""
    attack = keras_trn.attacks.ProjectedGradientDescent(EPSILON, steps=STEPS, seed=0)

    def evaluation():
        cells = keras_trn.evaluation.measure({"bare": classifier}, dataset, [attack], verbose=0)
        return cells[-1]

    return evaluation


def make_art_attack(classifier, dataset):
    """ART's PGD, on the same images and as many steps; crafting alone."""
    art = import_art()
    estimator = art.estimators.classification.TensorFlowV2Classifier(
        model=tf.function(lambda images, training: classifier(images, training=False)),
        nb_classes=10,
        input_shape=(28, 28, 1),
        loss_object=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        clip_values=(0.0, 1.0),
    )
    attack = art.attacks.evasion.ProjectedGradientDescent(
        estimator,
        eps=EPSILON,
        eps_step=2.5 * EPSILON / STEPS,
        max_iter=STEPS,
        num_random_init=1,
        batch_size=BATCH_SIZE,
        verbose=False,
    )
    images, labels = keras_trn.datasets.to_arrays(dataset)
    one_hot = keras.utils.to_categorical(labels, 10)
    return lambda: attack.generate(images, one_hot)


def seconds_of(function):
    """Times one call; an evaluation says itself how long its last attack took."""
    started = time.perf_counter()
    result = function()
    if isinstance(result, dict):
        return result["seconds"]
    return time.perf_counter() - started


def main(path):
    """Runs the measurement and writes it to `path`."""
    keras.utils.set_random_seed(0)
    classifier = train_classifier()
    _, _, test = keras_trn.datasets.load("fashion_mnist", batch_size=BATCH_SIZE)
    dataset = test.take(EXAMPLES // BATCH_SIZE).cache()
    timed = {
        "passes": make_passes(classifier, dataset),
        "evaluation": make_evaluation(classifier, dataset),
        "art_attack": make_art_attack(classifier, dataset),
    }
    for function in timed.values():
        function()
    seconds = {name: [] for name in timed}
    for _ in range(REPEATS):
        for name, function in timed.items():
            seconds[name].append(round(seconds_of(function), 3))
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    results = {
        "examples": EXAMPLES,
        "batch_size": BATCH_SIZE,
        "steps": STEPS,
        "epsilon": EPSILON,
        "seconds": seconds,
        "evaluation_over_passes": round(medians["evaluation"] / medians["passes"], 3),
        "art_attack_over_evaluation": round(medians["art_attack"] / medians["evaluation"], 3),
        "environment": describe_environment(),
    }
    Path(path).write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])
