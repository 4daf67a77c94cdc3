"""The setting that all experiments on colour images share: CIFAR-10 and SVHN."""

import math

import keras
import tensorflow as tf
from keras import layers

import keras_trn
from experiments import common_setting
from keras_trn import attacks
from keras_trn.presets import FOLDER

IMAGE_SHAPE = (32, 32, 3)
EPSILON = 8 / 255
PRESET = "trn_cifar10"
_FEW_IMAGES = 10_000
_LARGEST_SHIFT = 4
_LEARNING_RATE = 0.1
_REFINING_RATE = 0.04


def training_pipeline(name, batch_size, seed=0):
    """Makes a pipeline of training images for a classifier: shifted, and mirrored or recoloured.

    Args:
        name: `"cifar10"` or `"svhn_cropped"`.
        batch_size: Number of images in a batch; all have as many.
        seed: Whole number that fixes order and variations.

    Returns:
        A `tf.data.Dataset`, another one in each epoch.
    """
    train, _, _ = keras_trn.datasets.load(name, batch_size=1000, shuffle=False)
    train = train.unbatch().cache()
    number = count_images(train)
    train = train.shuffle(number, seed=seed).apply(tf.data.experimental.assert_cardinality(number))
    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)
    varied = tf.data.Dataset.zip(train, seeds).map(
        lambda example, seed: (_vary(example[0], seed, _VARIATIONS[name]), example[1]),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return varied.batch(batch_size, drop_remainder=True).prefetch(4)


def erased(pipeline):
    """Erases a part of each image.

    Random erasing is of Zhong et al., arXiv 1708.04896.

    Args:
        pipeline: Pipeline of training images.

    Returns:
        A `tf.data.Dataset`.
    """
    erase = layers.RandomErasing(scale=(0.02, 0.1), fill_value=0.5, value_range=(0, 1))
    return pipeline.map(
        lambda images, labels: (erase(images, training=True), labels),
        num_parallel_calls=tf.data.AUTOTUNE,
    ).prefetch(4)


def mixed(pipeline):
    """Erases a part of each image, and mixes each with another of its batch, and their labels.

    The images of CIFAR-10 are few enough to be learned by heart. MixUp is of Zhang et al.,
    arXiv 1710.09412.

    Args:
        pipeline: Pipeline of training images.

    Returns:
        A `tf.data.Dataset` whose labels are distributions over the ten classes.
    """
    mix = layers.MixUp(alpha=0.2)

    def mix_batch(images, labels):
        batch = mix({"images": images, "labels": tf.one_hot(labels, 10)}, training=True)
        return batch["images"], batch["labels"]

    return erased(pipeline).map(mix_batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(4)


def count_images(images):
    """Counts the images of a pipeline of single ones, by running through it."""
    return int(images.reduce(0, lambda count, _: count + 1))


def _vary(image, seed, variation):
    """Shifts an image by some pixels, its edges reflected, and varies it as its data set allows."""
    margin = [_LARGEST_SHIFT, _LARGEST_SHIFT]
    padded = tf.pad(image, [margin, margin, [0, 0]], mode="REFLECT")
    image = tf.image.stateless_random_crop(padded, IMAGE_SHAPE, seed)
    return variation(image, seed + 1)


def _mirror(image, seed):
    """Mirrors every second image."""
    return tf.image.stateless_random_flip_left_right(image, seed)


def _recolour(image, seed):
    """Inverts every second image, and makes it brighter or darker, and more or less flat.

    The mirror image of a digit is none, but a digit is the same on any wall.
    """
    inverted = tf.random.stateless_uniform((), seed) < 0.5
    image = tf.where(inverted, 1 - image, image)
    image = tf.image.stateless_random_contrast(image, 0.6, 1.4, seed + 1)
    image = tf.image.stateless_random_brightness(image, 0.2, seed + 2)
    return tf.clip_by_value(image, 0.0, 1.0)


_VARIATIONS = {"cifar10": _mirror, "svhn_cropped": _recolour}


def make_classifier(normalization=layers.BatchNormalization):
    """Makes the classifier that is protected, not yet trained: a residual network of nine layers.

    The shape is David Page's "How to train your ResNet", a third as wide: 49 million
    multiplications for an image, and 700,000 weights.

    Args:
        normalization: Class of the layers that normalize batches.
    """
    images = keras.Input(IMAGE_SHAPE)
    features = layers.Rescaling(4.0, offset=-2.0)(images)
    features = _convolution(features, 24, normalization)
    features = _convolution(features, 48, normalization, pool=True)
    features = _residual_block(features, normalization)
    features = _convolution(features, 96, normalization, pool=True)
    features = _convolution(features, 160, normalization, pool=True)
    features = _residual_block(features, normalization)
    features = layers.GlobalMaxPooling2D()(features)
    return keras.Model(images, layers.Dense(10)(features))


def make_other_classifier(normalization=layers.BatchNormalization):
    """Makes a classifier of another architecture, for attacks that transfer.

    No shortcuts, and all that is left of the image is looked at, not the largest of it.

    Args:
        normalization: Class of the layers that normalize batches.
    """
    images = keras.Input(IMAGE_SHAPE)
    features = layers.Rescaling(2.0, offset=-1.0)(images)
    for filters in (32, 64, 128):
        features = _convolution(features, filters, normalization, strides=2)
        features = _convolution(features, filters, normalization)
    features = layers.Flatten()(features)
    features = layers.Dropout(0.4)(features)
    return keras.Model(images, layers.Dense(10)(features))


def has_few_images(pipeline, batch_size):
    """Tells whether there are so few images that training starts from the weights for CIFAR-10.

    Args:
        pipeline: Pipeline of training images.
        batch_size: Number of images in a batch.
    """
    return len(pipeline) * batch_size < _FEW_IMAGES


def enough_epochs(epochs, pipeline, steps):
    """Raises a number of epochs where they would be too few steps, as there are few images.

    Args:
        epochs: Number of epochs where there are many images.
        pipeline: Pipeline of training images.
        steps: Smallest number of steps.

    Returns:
        Number of epochs.
    """
    return max(epochs, math.ceil(steps / len(pipeline)))


def take_over_features(classifier):
    """Gives a classifier the weights for CIFAR-10, but those of its last layer.

    Args:
        classifier: A classifier of `make_classifier`.

    Returns:
        The classifier.
    """
    trained = keras.saving.load_model(FOLDER / f"{PRESET}.keras", compile=False).classifier
    for layer, trained_layer in zip(classifier.layers[:-1], trained.layers[:-1], strict=True):
        layer.set_weights(trained_layer.get_weights())
    return classifier


def take_over_restorer(protected):
    """Gives a protected classifier the restorer and the gradient map for CIFAR-10.

    Args:
        protected: A protected classifier of `protect`.

    Returns:
        The protected classifier.
    """
    trained = keras.saving.load_model(FOLDER / f"{PRESET}.keras", compile=False)
    protected.build((None, *IMAGE_SHAPE))
    protected.restorer.set_weights(trained.restorer.get_weights())
    protected.gradient_map.set_weights(trained.gradient_map.get_weights())
    return protected


def _convolution(features, filters, normalization, strides=1, pool=False):
    features = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)(features)
    if pool:
        features = layers.MaxPooling2D()(features)
    return layers.ReLU()(normalization()(features))


def _residual_block(features, normalization):
    changed = features
    for _ in range(2):
        changed = _convolution(changed, features.shape[-1], normalization)
    return layers.Add()([features, changed])


def train_classifier(classifier, train, epochs, callbacks=(), verbose=2):
    """Trains a classifier on mixed images, in one cycle of the learning rate.

    Args:
        classifier: A Keras model from images to logits.
        train: Pipeline of training images.
        epochs: Number of epochs.
        callbacks: Keras callbacks.
        verbose: As in `keras.Model.fit`.

    Returns:
        The classifier.
    """
    return _train_one_cycle(
        classifier, mixed(train), _LEARNING_RATE, epochs, 0.1, callbacks, verbose
    )


def refine_classifier(classifier, train, epochs, callbacks=(), verbose=2):
    """Goes on training, on images that are not mixed, with labels that are not smoothed.

    To refine on images that are varied less is of He et al., arXiv 1909.09148.

    Args:
        classifier: A classifier that `train_classifier` trained.
        train: Pipeline of training images.
        epochs: Number of epochs.
        callbacks: Keras callbacks.
        verbose: As in `keras.Model.fit`.

    Returns:
        The classifier.
    """
    pipeline = erased(train).map(lambda images, labels: (images, tf.one_hot(labels, 10)))
    return _train_one_cycle(classifier, pipeline, _REFINING_RATE, epochs, 0.0, callbacks, verbose)


def _train_one_cycle(
    classifier, pipeline, learning_rate, epochs, label_smoothing, callbacks, verbose
):
    steps = epochs * len(pipeline)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.1 * learning_rate,
        steps - steps // 5,
        warmup_target=learning_rate,
        warmup_steps=steps // 5,
    )
    # Decoupled from the momentum, which would otherwise make ten times as much of it.
    optimizer = keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, weight_decay=5e-3)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    classifier.compile(
        optimizer=optimizer,
        loss=keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=label_smoothing
        ),
        metrics=["accuracy"],
    )
    classifier.fit(
        pipeline, epochs=epochs, callbacks=list(callbacks), shuffle=False, verbose=verbose
    )
    return classifier


def training_attacks():
    """What restorers are trained on: attacks of one step and of several, and noise."""
    return common_setting.training_attacks((0.0, 2 * EPSILON), (0.0, 1.5))


def fresh_attacks():
    """Those of them that are crafted anew in each step: they take few passes."""
    return training_attacks()[:2]


def fast_attack():
    """The attack of one step that a classifier is trained against adversarially.

    From a random point, as Wong et al. have it, arXiv 2001.03994.
    """
    return attacks.ProjectedGradientDescent(EPSILON, steps=1)


def protect(classifier):
    """Puts gradient map and restorer in front of a classifier.

    The gradient is taken at the first restoration, which costs one forward pass less than
    halfway to it.
    """
    gradient_map = keras_trn.gradient_maps.EstimatedLabel(
        width=32, depth=4, position=1, restored_loss_weight=1.0, **common_setting.ESTIMATE
    )
    restorer = keras_trn.TwoStreamRestorationNetwork(width=16, depth=3)
    return keras_trn.ProtectedClassifier(classifier, restorer, gradient_map)
