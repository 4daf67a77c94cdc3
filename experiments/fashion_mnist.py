"""The setting that all experiments on Fashion-MNIST share."""

import keras
import tensorflow as tf
from keras import layers

import keras_trn
from experiments import common_setting

IMAGE_SHAPE = (28, 28, 1)
EPSILON = 0.1
STRENGTHS = (0.0, 0.2)
L2_STRENGTHS = (0.02, 2.0)
# The second restoration can be small, as the first has done the most.
RESTORER_SIZES = {"width": 16, "depth": 2}


def load_arrays():
    """Loads training, validation and test images with their labels, as pairs of arrays."""
    splits = keras_trn.datasets.load("fashion_mnist", batch_size=1000)
    return [keras_trn.datasets.to_arrays(split) for split in splits]


def training_pipeline(images, labels, batch_size, seed=0):
    """Makes a pipeline of batches, shuffled anew in each epoch and all of one size."""
    examples = tf.data.Dataset.from_tensor_slices((images, labels))
    shuffled = examples.shuffle(len(images), seed=seed)
    return shuffled.batch(batch_size, drop_remainder=True).prefetch(4)


def make_classifier():
    """Makes the classifier that is protected, not yet trained."""
    return keras.Sequential(
        [
            keras.Input(IMAGE_SHAPE),
            *_convolution(32, 5, strides=2),
            *_convolution(64, 3, strides=2),
            *_convolution(96, 3),
            layers.Flatten(),
            layers.Dropout(0.4),
            layers.Dense(10),
        ]
    )


def _convolution(filters, kernel_size, **kwargs):
    convolution = layers.Conv2D(filters, kernel_size, padding="same", use_bias=False, **kwargs)
    return convolution, layers.BatchNormalization(), layers.ReLU()


def make_other_classifier():
    """Makes a classifier of another architecture, for attacks that transfer."""
    return keras.Sequential(
        [
            keras.Input(IMAGE_SHAPE),
            layers.Conv2D(24, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(48, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(96, activation="relu"),
            layers.Dense(10),
        ]
    )


def mirrored(train):
    """Mirrors half of the training images, anew in each epoch."""
    flip = layers.RandomFlip("horizontal")
    return train.map(lambda images, labels: (flip(images, training=True), labels)).prefetch(2)


def train_classifier(classifier, train, epochs, callbacks=(), verbose=2):
    """Trains a classifier on mirrored images.

    Args:
        classifier: A Keras model from images to logits.
        train: Pipeline of training images.
        epochs: Number of epochs.
        callbacks: Keras callbacks.
        verbose: As of `keras.Model.fit`.

    Returns:
        The classifier.
    """
    classifier.compile(
        optimizer=common_setting.make_optimizer(4e-3, train, epochs),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    classifier.fit(
        mirrored(train), epochs=epochs, callbacks=list(callbacks), shuffle=False, verbose=verbose
    )
    return classifier


def training_attacks():
    """What restorers are trained on: attacks of one step and of several, and noise."""
    return common_setting.training_attacks(STRENGTHS, L2_STRENGTHS)


def protect(classifier, protected_class=keras_trn.ProtectedClassifier):
    """Puts the default gradient map and a small restorer in front of a classifier."""
    restorer = keras_trn.TwoStreamRestorationNetwork(**RESTORER_SIZES)
    return protected_class(
        classifier, restorer, keras_trn.gradient_maps.EstimatedLabel(**common_setting.ESTIMATE)
    )
