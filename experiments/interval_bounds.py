"""Trains classifiers that prove, for an image, that no change within epsilon alters their answer.

Interval bound propagation: Gowal et al., "On the Effectiveness of Interval Bound Propagation for
Training Verifiably Robust Models", arXiv 1810.12715. The initial weights follow Shi et al., "Fast
Certified Robust Training with Short Warmup", arXiv 2103.17268.
"""

import math

import keras
import tensorflow as tf
from keras import layers


def interval_normal(inputs: int, seed: int) -> keras.initializers.Initializer:
    """Draws weights of a layer of so many inputs, so that intervals keep their width."""
    return keras.initializers.RandomNormal(stddev=math.sqrt(2 * math.pi) / inputs, seed=seed)


def propagate(
    layer: layers.Layer, center: tf.Tensor, radius: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Maps center and radius of the inputs of a layer to center and radius of its outputs."""
    if isinstance(layer, (layers.ReLU, layers.Flatten)):
        lower, upper = layer(center - radius), layer(center + radius)
        return (lower + upper) / 2, (upper - lower) / 2
    is_linear = getattr(layer, "activation", None) is keras.activations.linear
    if is_linear and isinstance(layer, layers.Dense):
        return layer(center), tf.matmul(radius, tf.abs(layer.kernel))
    if is_linear and isinstance(layer, layers.Conv2D) and layer.groups == 1:
        width = tf.nn.conv2d(
            radius,
            tf.abs(layer.kernel),
            layer.strides,
            layer.padding.upper(),
            dilations=layer.dilation_rate,
        )
        return layer(center), width
    raise TypeError(
        f"Bounds pass Flatten, ReLU, Dense and Conv2D, the last two without activation and groups, "
        f"received {layer!r}."
    )


def worst_logits(
    classifier: keras.Model, images: tf.Tensor, labels: tf.Tensor, epsilon: tf.Tensor | float
) -> tf.Tensor:
    """Bounds how far each class gets ahead of the label, over all images within epsilon.

    Args:
        classifier: A chain of layers as in `propagate`; the last one is dense.
        images: Images in [0, 1], shape `(batch, height, width, channels)`.
        labels: Class indices, shape `(batch,)`.
        epsilon: The largest change of a pixel.

    Returns:
        Upper bounds of the differences to the logit of the label, shape `(batch, classes)`. The
        right answer is certified where the bounds of all other classes are below zero. The bounds
        are computed in float32, and leave out its rounding.

    Raises:
        TypeError: If bounds cannot pass a layer.
    """
    lower, upper = tf.maximum(images - epsilon, 0.0), tf.minimum(images + epsilon, 1.0)
    center, radius = (lower + upper) / 2, (upper - lower) / 2
    *hidden, head = (one for one in classifier.layers if not isinstance(one, layers.InputLayer))
    if not (isinstance(head, layers.Dense) and head.activation is keras.activations.linear):
        raise TypeError(f"Bounds need a last Dense layer that returns logits, received {head!r}.")
    for layer in hidden:
        center, radius = propagate(layer, center, radius)
    # Bounding the differences of logits is tighter than subtracting the bounds of logits.
    weights = tf.transpose(head.kernel)
    weights = weights - tf.gather(weights, labels)[:, None]
    differences = tf.einsum("bi,bci->bc", center, weights)
    differences += tf.einsum("bi,bci->bc", radius, tf.abs(weights))
    return differences + head.bias - tf.gather(head.bias, labels)[:, None]


def certified(
    classifier: keras.Model, images: tf.Tensor, labels: tf.Tensor, epsilon: float
) -> tf.Tensor:
    """Tells for which images no change within epsilon can alter the right answer."""
    bounds = worst_logits(classifier, images, labels, epsilon)
    others = tf.one_hot(labels, bounds.shape[-1], on_value=-math.inf, off_value=0.0)
    return tf.reduce_max(bounds + others, axis=-1) < 0


class IntervalTraining(keras.Model):
    """Trains a classifier on its worst logits within epsilon.

    Epsilon and the weight of the worst logits rise from zero over the first `warmup_steps`.

    Args:
        classifier: The classifier, as in `worst_logits`.
        epsilon: The largest change of a pixel.
        warmup_steps: Number of training steps in which epsilon rises.
        benign_share: Weight of the loss of unperturbed images in the end.
    """

    def __init__(
        self,
        classifier: keras.Model,
        epsilon: float,
        warmup_steps: int,
        benign_share: float = 0.0,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.epsilon = epsilon
        self.warmup_steps = warmup_steps
        self.benign_share = benign_share
        self.loss_metric = keras.metrics.Mean(name="loss")
        self.accuracy = keras.metrics.Mean(name="accuracy")
        self.certified_accuracy = keras.metrics.Mean(name="certified_accuracy")
        self.built = True

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.classifier(images, training=training)

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        images, labels = data
        progress = tf.cast(self.optimizer.iterations, tf.float32) / self.warmup_steps
        progress = tf.minimum(progress, 1.0)
        worst_share = (1 - self.benign_share) * progress
        with tf.GradientTape() as tape:
            logits = self(images, training=True)
            worst = worst_logits(self.classifier, images, labels, progress * self.epsilon)
            loss = (1 - worst_share) * _cross_entropy(labels, logits)
            loss += worst_share * _cross_entropy(labels, worst)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        self.loss_metric.update_state(loss)
        return {"loss": self.loss_metric.result()}

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        images, labels = data
        self.accuracy.update_state(tf.argmax(self(images), axis=-1) == labels)
        self.certified_accuracy.update_state(
            certified(self.classifier, images, labels, self.epsilon)
        )
        measured = (self.accuracy, self.certified_accuracy)
        return {metric.name: metric.result() for metric in measured}


def _cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
