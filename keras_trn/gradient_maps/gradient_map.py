"""Gradient maps: the gradient of the classifier's loss with respect to the image."""

import keras
import tensorflow as tf

from keras_trn.graphs import GraphCache
from keras_trn.input_validation import check_image_type
from keras_trn.logits import logits_function

# Below this, a gradient is nothing but rounding, and its map is zero.
_SMALLEST_GRADIENT = 1e-20


class GradientMap(keras.layers.Layer):
    """The gradient of the classifier's loss with respect to the image.

    The base of all estimators of the Gradient Map Estimation Mechanism. The
    gradient of the cross-entropy for a label distribution `a` is the transposed
    Jacobian of the logits `z` times `softmax(z) - a`, so an estimator only has
    to say for which labels it takes the gradient; what is common is here:

    - **One image, one map.** Gradients are never averaged over a batch, so a map
      does not depend on the images beside it.
    - **Normalized per image**, to a root mean square of 1, as only the direction
      of the gradient tells something that the image does not.
    - **Never NaN.** Where the gradient is zero, so is its map.
    - **float32** whatever the global policy, as small gradients vanish in float16.

    An estimator does not own the classifier: it is handed over at every call. It
    may own weights of its own and be trained with the restorer, see
    `EstimatedLabel`.

    Source: Hong et al., arXiv 2202.01117.

    Args:
        **kwargs: The usual arguments of a Keras layer (`name`).

    Call arguments:
        images: Tensor of shape `(batch, height, width, channels)` in [0, 1].
        classifier: A Keras model, or a callable, from images to logits. Pass it
            by name.
        labels: Class indices of shape `(batch,)`; only `TrueLabel` needs them.

    Returns:
        A float32 tensor of shape `(batch, height, width, map_channels)`.

    Raises:
        ValueError: If the images are not floating point, or not of rank 4.

    Example:
        Your own estimator, for the class that is second most likely:

        ```python
        @keras.saving.register_keras_serializable(package="my_package")
        class RunnerUp(keras_trn.gradient_maps.GradientMap):
            def directions(self, logits, labels=None):
                runner_up = tf.math.top_k(logits, 2).indices[:, 1]
                return [tf.nn.softmax(logits) - tf.one_hot(runner_up, logits.shape[-1])]

        assert RunnerUp()(images, classifier=classifier).shape == (8, 8, 8, 1)
        ```
    """

    needs_labels = False

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self._logits_functions = GraphCache()

    def map_channels(self, image_channels, num_classes):
        """Tells the number of channels of the map.

        Args:
            image_channels: Number of channels of the images.
            num_classes: Number of classes of the classifier.

        Returns:
            The number of channels.
        """
        return image_channels

    def backward_passes(self, num_classes):
        """Tells the cost of the map in backward passes through the classifier.

        Args:
            num_classes: Number of classes of the classifier.

        Returns:
            The number of backward passes per image.
        """
        return 1

    def directions(self, logits, labels=None):
        """Says for which labels the gradient is taken: what a subclass must write.

        Args:
            logits: Tensor of shape `(batch, num_classes)`.
            labels: Class indices of shape `(batch,)`, or `None`.

        Returns:
            A list of tensors of shape `(batch, num_classes)`, one for each map:
            the direction in which the logits move fastest for a loss to rise.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define `directions`.")

    def build_for(self, image_shape, num_classes):
        """Creates the estimator's own weights, where it has any.

        Args:
            image_shape: `(height, width, channels)`; height and width may be `None`.
            num_classes: Number of classes of the classifier.
        """
        self.built = True

    def call(self, images, classifier, labels=None):
        """Estimates the gradient maps."""
        self._check_call(images, labels)
        logits, vjp = self.logits_function(classifier).with_vjp(images)
        directions = self.directions(logits, labels)
        return tf.concat([normalize(vjp(d)) for d in directions], axis=-1)

    def call_with_loss(
        self, images, classifier, labels, clean_images, training=True, pixel_weight=10.0
    ):
        """Estimates the maps where the labels are known, and the estimator's own loss.

        Args:
            images: Tensor of shape `(batch, height, width, channels)` in [0, 1].
            classifier: From images to logits.
            labels: Class indices of shape `(batch,)`.
            clean_images: What `images` were before the attack.
            training: Whether a restorer learns from the maps. It may then be taught
                with better maps than it will meet; in validation it must not.
            pixel_weight: Weight of the pixels in the loss of the restorer.

        Returns:
            The maps, through which no gradient flows, and a loss for each image,
            of shape `(batch,)`: zero for an estimator without weights.
        """
        maps = self(images, classifier=classifier, labels=labels)
        return tf.stop_gradient(maps), tf.zeros_like(images[:, 0, 0, 0])

    def logits_function(self, classifier):
        """Returns the classifier's `LogitsFunction`, always the same one.

        Args:
            classifier: A Keras model, or a callable, from images to logits.
        """
        return self._logits_functions.remember(
            "logits", classifier, lambda: logits_function(classifier)
        )

    def _check_call(self, images, labels):
        check_image_type(images)
        if self.needs_labels and labels is None:
            raise ValueError(
                f"{type(self).__name__} takes the map for the true label and was called without "
                "labels. It is an upper bound for studies: at test time, when labels are not "
                "known, use another estimator, such as `keras_trn.gradient_maps.EstimatedLabel`."
            )


def normalize(gradient):
    """Scales the gradient of each image to a root mean square of 1; zero stays zero.

    Args:
        gradient: Tensor of shape `(batch, height, width, channels)`.

    Returns:
        A tensor of the same shape.

    Example:
        ```python
        from keras_trn.gradient_maps.gradient_map import normalize

        maps = normalize(np.zeros((1, 8, 8, 1), "float32"))
        assert np.all(maps == 0)
        ```
    """
    # Dividing by the largest value first keeps the squares from underflowing.
    largest = tf.reduce_max(tf.abs(gradient), axis=[1, 2, 3], keepdims=True)
    is_zero = largest < _SMALLEST_GRADIENT
    gradient = gradient / tf.where(is_zero, 1.0, largest)
    mean_square = tf.reduce_mean(tf.square(gradient), axis=[1, 2, 3], keepdims=True)
    normalized = gradient * tf.math.rsqrt(tf.where(is_zero, 1.0, mean_square))
    return tf.where(is_zero, 0.0, normalized)
