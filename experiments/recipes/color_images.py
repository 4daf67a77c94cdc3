"""Shared parts of the recipes for CIFAR-10 and SVHN: classifiers, training and augmentation."""

from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf
from keras import layers

import keras_trn
from experiments.fused_batch_normalization import FusedBatchNormalization
from experiments.recipe import ClassifierRecipe
from experiments.recipe import Data
from experiments.recipe import Recipe
from experiments.training import SEED
from experiments.training import backup
from experiments.training import enough_epochs
from experiments.training import load_or_train
from keras_trn.presets import preset_path

IMAGE_SHAPE = (32, 32, 3)
_LARGEST_SHIFT = 4
# Varies an image, given a seed.
Variation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def load(recipe: Recipe, variation: Variation) -> Data:
    """Loads a data set of TensorFlow Datasets."""
    ordered, validation, test = keras_trn.datasets.load(recipe.data, shuffle=False)
    return Data(
        train=lambda batch_size: training_pipeline(ordered, variation, batch_size),
        validation=keras_trn.datasets.to_arrays(validation),
        test=keras_trn.datasets.to_arrays(test),
        ordered=ordered,
    )


def training_pipeline(
    ordered: tf.data.Dataset, variation: Variation, batch_size: int, seed: int = SEED
) -> tf.data.Dataset:
    """Makes batches of training images; each epoch shuffles, shifts and varies them again."""
    images = ordered.unbatch().cache()
    number = int(images.reduce(0, lambda count, _: count + 1))
    images = images.shuffle(number, seed=seed)
    images = images.apply(tf.data.experimental.assert_cardinality(number))
    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)
    varied = tf.data.Dataset.zip(images, seeds).map(
        lambda example, seed: (variation(shift(example[0], seed), seed + 1), example[1]),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return varied.batch(batch_size, drop_remainder=True).prefetch(4)


def shift(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Shifts an image by some pixels, with reflected edges."""
    margin = [_LARGEST_SHIFT, _LARGEST_SHIFT]
    padded = tf.pad(image, [margin, margin, [0, 0]], mode="REFLECT")
    return tf.image.stateless_random_crop(padded, IMAGE_SHAPE, seed)


def mirror(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirrors every second image."""
    return tf.image.stateless_random_flip_left_right(image, seed)


def recolor(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Inverts every second image, and changes its brightness and contrast."""
    inverted = tf.random.stateless_uniform((), seed) < 0.5
    image = tf.where(inverted, 1 - image, image)
    image = tf.image.stateless_random_contrast(image, 0.6, 1.4, seed + 1)
    image = tf.image.stateless_random_brightness(image, 0.2, seed + 2)
    return tf.clip_by_value(image, 0.0, 1.0)


def erased(pipeline: tf.data.Dataset) -> tf.data.Dataset:
    """Erases a part of each image: Random erasing, Zhong et al., arXiv 1708.04896."""
    erase = layers.RandomErasing(scale=(0.02, 0.1), fill_value=0.5, value_range=(0, 1))
    return pipeline.map(
        lambda images, labels: (erase(images, training=True), labels),
        num_parallel_calls=tf.data.AUTOTUNE,
    ).prefetch(4)


def mixed(pipeline: tf.data.Dataset) -> tf.data.Dataset:
    """Erases parts of images and mixes them: MixUp, Zhang et al., arXiv 1710.09412."""
    mix = layers.MixUp(alpha=0.2)

    def mix_batch(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        batch = mix({"images": images, "labels": tf.one_hot(labels, 10)}, training=True)
        return batch["images"], batch["labels"]

    return erased(pipeline).map(mix_batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(4)


def make_classifier(
    normalization: type[layers.Layer] = layers.BatchNormalization,
    filters: Sequence[int] = (24, 48, 96, 160),
) -> keras.Model:
    """Makes the untrained classifier to protect, a residual network of nine layers.

    It follows David Page's "How to train your ResNet", a third as wide.
    """
    images = keras.Input(IMAGE_SHAPE)
    features = layers.Rescaling(4.0, offset=-2.0)(images)
    features = _convolution(features, filters[0], normalization)
    features = _convolution(features, filters[1], normalization, pool=True)
    features = _residual_block(features, normalization)
    features = _convolution(features, filters[2], normalization, pool=True)
    features = _convolution(features, filters[3], normalization, pool=True)
    features = _residual_block(features, normalization)
    features = layers.GlobalMaxPooling2D()(features)
    return keras.Model(images, layers.Dense(10)(features))


def make_surrogate(normalization: type[layers.Layer] = layers.BatchNormalization) -> keras.Model:
    """Makes a classifier without shortcuts and pooling, for transferred attacks."""
    images = keras.Input(IMAGE_SHAPE)
    features = layers.Rescaling(2.0, offset=-1.0)(images)
    for filters in (32, 64, 128):
        features = _convolution(features, filters, normalization, strides=2)
        features = _convolution(features, filters, normalization)
    features = layers.Flatten()(features)
    features = layers.Dropout(0.4)(features)
    return keras.Model(images, layers.Dense(10)(features))


def _convolution(
    features: tf.Tensor,
    filters: int,
    normalization: type[layers.Layer],
    strides: int = 1,
    pool: bool = False,
) -> tf.Tensor:
    features = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)(features)
    if pool:
        features = layers.MaxPooling2D()(features)
    return layers.ReLU()(normalization()(features))


def _residual_block(features: tf.Tensor, normalization: type[layers.Layer]) -> tf.Tensor:
    changed = features
    for _ in range(2):
        changed = _convolution(changed, features.shape[-1], normalization)
    return layers.Add()([features, changed])


def train_classifier(
    recipe: Recipe, planned: ClassifierRecipe, train: tf.data.Dataset, folder: Path
) -> keras.Model:
    """Trains a classifier on mixed images, then refines it on unmixed ones."""
    start = planned.make()
    is_protected = planned is recipe.classifier
    if is_protected and recipe.starts_from_preset(train, recipe.classifier_batch_size):
        _take_over_features(start, recipe)

    def train_phase(start: keras.Model, phase: int, fit: Callable[..., keras.Model]) -> keras.Model:
        epochs = enough_epochs(planned.epochs[phase], train, recipe.smallest_classifier_steps)
        # Fused layers train faster; the saved classifier has Keras' own layers.
        fast = planned.make(FusedBatchNormalization)
        fast.set_weights(start.get_weights())
        fit(fast, train, epochs, [backup(folder / f"phase_{phase}")])
        trained = planned.make()
        trained.set_weights(fast.get_weights())
        return trained

    first = load_or_train(
        folder.with_name(f"{folder.name} mixed.keras"), lambda: train_phase(start, 0, fit_mixed)
    )
    return train_phase(first, 1, refine)


def fit_mixed(
    classifier: keras.Model,
    train: tf.data.Dataset,
    epochs: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 2,
) -> keras.Model:
    """Trains a classifier on mixed images, in one cycle of the learning rate."""
    return _fit_one_cycle(classifier, mixed(train), 0.1, epochs, 0.1, callbacks, verbose)


def refine(
    classifier: keras.Model,
    train: tf.data.Dataset,
    epochs: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> keras.Model:
    """Continues training with less augmentation: He et al., arXiv 1909.09148."""
    pipeline = erased(train).map(lambda images, labels: (images, tf.one_hot(labels, 10)))
    return _fit_one_cycle(classifier, pipeline, 0.04, epochs, 0.0, callbacks, 2)


def _fit_one_cycle(
    classifier: keras.Model,
    pipeline: tf.data.Dataset,
    learning_rate: float,
    epochs: int,
    label_smoothing: float,
    callbacks: Sequence[keras.callbacks.Callback],
    verbose: int,
) -> keras.Model:
    steps = epochs * len(pipeline)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.1 * learning_rate,
        steps - steps // 5,
        warmup_target=learning_rate,
        warmup_steps=steps // 5,
    )
    # Decoupled weight decay, because momentum would otherwise multiply it by ten.
    optimizer = keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, weight_decay=5e-3)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
    classifier.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])
    classifier.fit(
        pipeline, epochs=epochs, callbacks=list(callbacks), shuffle=False, verbose=verbose
    )
    return classifier


def _take_over_features(classifier: keras.Model, recipe: Recipe) -> None:
    """Copies all weights of the preset's classifier except the last layer."""
    trained = keras.saving.load_model(preset_path(recipe.start_from), compile=False).classifier
    for layer, trained_layer in zip(classifier.layers[:-1], trained.layers[:-1], strict=True):
        layer.set_weights(trained_layer.get_weights())
