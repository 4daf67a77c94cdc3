"""The base class of all gradient maps."""

from typing import Any

import keras
import tensorflow as tf

from keras_trn.graphs import GraphCache
from keras_trn.input_validation import check_image_type
from keras_trn.logits import LogitsFunction
from keras_trn.logits import logits_function
from keras_trn.types import Classifier
from keras_trn.types import ImageShape

# A smaller gradient is rounding error, and its map is zero.
_SMALLEST_GRADIENT = 1e-20


class GradientMap(keras.layers.Layer):
    """Computes the gradient of the classifier's loss with respect to the image.

    Subclass it to write an estimator for the Gradient Map Estimation Mechanism. The gradient of
    the cross-entropy for a label distribution `a` is the transposed Jacobian of the logits `z`
    times `softmax(z) - a`. So an estimator only chooses the labels, in `directions`. Every map

    - depends on its own image only, not on the rest of the batch;
    - is normalized to a root mean square of 1, because only the direction of the gradient adds
      information;
    - is zero, never NaN, if the gradient vanishes;
    - is float32 under any global policy, because small gradients vanish in float16.

    An estimator does not own the classifier; pass it with every call. It may own weights that
    train together with the restorer, as `EstimatedLabel` does.

    Source: Hong et al., arXiv 2202.01117.

    Args:
        **kwargs: The usual arguments of a Keras layer (`name`).

    Call arguments:
        images: Tensor of shape `(batch, height, width, channels)` in [0, 1].
        classifier: A Keras model, or a function, from images to logits; passed by name.
        labels: Class indices of shape `(batch,)`; only `TrueLabel` needs them.

    Returns:
        A float32 tensor of shape `(batch, height, width, map_channels)`.

    Raises:
        ValueError: If the images are not floating point or not of rank 4, or labels are missing.

    Example:
        An estimator for the class with the second largest logit:

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

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self._logits_functions = GraphCache()

    def map_channels(self, image_channels: int, num_classes: int) -> int:
        """Returns the map's number of channels; by default as many as the images have."""
        return image_channels

    def backward_passes(self, num_classes: int) -> int:
        """Returns the map's cost in backward passes of the classifier; by default 1."""
        return 1

    def forward_passes(self, num_classes: int) -> int:
        """Returns the map's cost in forward passes of the classifier; by default 1."""
        return 1

    def directions(self, logits: tf.Tensor, labels: tf.Tensor | None = None) -> list[tf.Tensor]:
        """Chooses the labels of the maps; a subclass must define this.

        Args:
            logits: Tensor of shape `(batch, num_classes)`.
            labels: Class indices of shape `(batch,)`, or `None`.

        Returns:
            A tensor of shape `(batch, num_classes)` for each map: the gradient of its loss with
            respect to the logits, up to a positive factor per image.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define `directions`.")

    def build_for(self, image_shape: ImageShape, num_classes: int) -> None:
        """Creates the weights of the estimator, if it has any."""
        self.built = True

    def call(
        self, images: tf.Tensor, classifier: Classifier, labels: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Estimates the gradient maps."""
        self._check_call(images, labels)
        logits, vjp = self.logits_function(classifier).with_vjp(images)
        directions = self.directions(logits, labels)
        return tf.concat([normalize(vjp(direction)) for direction in directions], axis=-1)

    def call_with_loss(
        self,
        images: tf.Tensor,
        classifier: Classifier,
        labels: tf.Tensor,
        clean_images: tf.Tensor,
        training: bool = True,
        pixel_weight: float = 10.0,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes the maps for known labels, and the loss of the estimator.

        Args:
            images: Tensor of shape `(batch, height, width, channels)` in [0, 1].
            classifier: A Keras model, or a function, from images to logits.
            labels: Class indices of shape `(batch,)`.
            clean_images: The images before the attack.
            training: Whether the maps train a restorer. Only then may they use `labels`, which
                are unknown in use.
            pixel_weight: Weight of the pixel loss of an estimator that restores images.

        Returns:
            The maps, through which no gradient flows, and a loss for each image, of shape
            `(batch,)`: zero for an estimator without weights.
        """
        maps = self(images, classifier=classifier, labels=labels)
        return tf.stop_gradient(maps), tf.zeros_like(images[:, 0, 0, 0])

    def logits_function(self, classifier: Classifier) -> LogitsFunction:
        """Returns the cached `LogitsFunction` of a classifier."""
        return self._logits_functions.remember(
            "logits", classifier, lambda: logits_function(classifier)
        )

    def _check_call(self, images: tf.Tensor, labels: tf.Tensor | None) -> None:
        check_image_type(images)
        if self.needs_labels and labels is None:
            raise ValueError(
                f"{type(self).__name__} computes the map for the true label and was called without "
                "labels. It is an upper bound for studies: if labels are unknown, use another "
                "estimator, such as `keras_trn.gradient_maps.EstimatedLabel`."
            )


def normalize(gradient: tf.Tensor) -> tf.Tensor:
    """Scales the gradient of each image to a root mean square of 1; zero stays zero."""
    # Dividing by the largest value first keeps the squares from underflowing.
    largest = tf.reduce_max(tf.abs(gradient), axis=[1, 2, 3], keepdims=True)
    is_zero = largest < _SMALLEST_GRADIENT
    gradient = gradient / tf.where(is_zero, 1.0, largest)
    mean_square = tf.reduce_mean(tf.square(gradient), axis=[1, 2, 3], keepdims=True)
    normalized = gradient * tf.math.rsqrt(tf.where(is_zero, 1.0, mean_square))
    return tf.where(is_zero, 0.0, normalized)
