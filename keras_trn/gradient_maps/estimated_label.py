"""The estimator that learns for which label to take the map."""

import keras
import tensorflow as tf
from keras import ops

from keras_trn.gradient_maps.gradient_map import GradientMap
from keras_trn.gradient_maps.gradient_map import pull_back
from keras_trn.logits import cross_entropy_direction
from keras_trn.logits import logits_function
from keras_trn.restoration_network import TwoStreamRestorationNetwork


@keras.saving.register_keras_serializable(package="keras_trn")
class EstimatedLabel(GradientMap):
    """The map for a label that is estimated by a light first restoration.

    An attack moves the image along the gradient for its label, so that is the
    map which tells most about the perturbation, and it is not known at test
    time. This estimator learns to find it:

    1. A small single-stream network makes a first restoration of the image.
    2. The classifier's logits before and after it are compared, class by class:
       a class that rises as the perturbation is lifted is likely the true one.
       The weights of this comparison are shared by all classes.
    3. The gradient map is taken for the label distribution that results.

    The map is handed to the restorer together with what the first restoration
    took away, the noise estimate. All of it is trained jointly with the
    restorer; nothing is differentiated through the map.

    Channels: twice those of the image (map, noise estimate). Cost: 1 backward
    pass whatever the number of classes, and 1 more forward pass.

    Args:
        width: Number of filters of the first restoration's network.
        depth: Number of its residual blocks.
        block_size: Side of the blocks in which it folds the image.
        **kwargs: The usual arguments of a Keras layer (`name`).

    Call arguments:
        images: Tensor of shape `(batch, height, width, channels)` in [0, 1].
        classifier: A Keras model, or a callable, from images to logits.

    Returns:
        A float32 tensor of shape `(batch, height, width, 2 * channels)`.

    Raises:
        ValueError: If a size is not a positive whole number, or the images are
            malformed.

    Example:
        ```python
        import keras
        import keras_trn

        classifier = keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
        )
        images = keras.random.uniform((4, 8, 8, 1))
        estimator = keras_trn.gradient_maps.EstimatedLabel(width=8, depth=1)
        estimator.build_for((8, 8, 1), num_classes=10)
        maps = estimator(images, classifier=classifier)
        assert maps.shape == (4, 8, 8, 2)
        ```
    """

    def __init__(self, width=16, depth=2, block_size=2, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.depth = depth
        self.block_size = block_size
        self.first_restorer = TwoStreamRestorationNetwork(
            width, depth, block_size, gradient_stream=False, dtype="float32", name="first_restorer"
        )
        # Applied to each class alike: the last axis holds what is known of a class.
        self.label_scorer = keras.Sequential(
            [
                keras.layers.Dense(16, activation="relu", dtype="float32"),
                keras.layers.Dense(1, kernel_initializer="zeros", dtype="float32"),
            ],
            name="label_scorer",
        )

    def map_channels(self, image_channels, num_classes):
        return 2 * image_channels

    def build_for(self, image_shape, num_classes):
        if self.built:
            return
        self.first_restorer.build((None, *image_shape))
        self.label_scorer.build((None, num_classes, 3))
        self.built = True

    def build(self, images_shape):
        raise ValueError("Call `build_for(image_shape, num_classes)` before the estimator.")

    def call(self, images, classifier, labels=None):
        self._check_call(images, labels)
        maps, _, _ = self._estimate(images, classifier)
        return maps

    def call_with_loss(self, images, classifier, labels, clean_images):
        maps, restored, label_logits = self._estimate(images, classifier)
        label_loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, label_logits)
        pixel_loss = tf.reduce_mean(tf.abs(restored - clean_images), axis=[1, 2, 3])
        return tf.stop_gradient(maps), label_loss + 10 * pixel_loss

    def _estimate(self, images, classifier):
        """The maps, the first restoration and the logits of the estimated label."""
        logits_of = logits_function(classifier)
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = logits_of(images)
        restored = self.first_restorer(images)
        label_logits = self._compare(logits, logits_of(restored))
        direction = cross_entropy_direction(logits, tf.nn.softmax(label_logits))
        gradient_map = pull_back(tape, logits, images, direction)
        return tf.concat([gradient_map, images - restored], axis=-1), restored, label_logits

    def _compare(self, logits, restored_logits):
        """Scores every class from its logits before and after the first restoration."""
        before, after = _standardize(logits), _standardize(restored_logits)
        known = ops.stack([before, after, after - before], axis=-1)
        return restored_logits + ops.squeeze(self.label_scorer(known), axis=-1)

    def get_config(self):
        return {
            **super().get_config(),
            "width": self.width,
            "depth": self.depth,
            "block_size": self.block_size,
        }


def _standardize(logits):
    """Takes away the scale of the logits, which differs from classifier to classifier."""
    centered = logits - ops.mean(logits, axis=-1, keepdims=True)
    return centered / (ops.std(logits, axis=-1, keepdims=True) + 1e-6)
