"""The base class of defences that restore images for a frozen classifier."""

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_trn.checked_model import CheckedModel
from keras_trn.classifier_interface import describe_classifier
from keras_trn.graphs import GraphCache
from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_images
from keras_trn.input_validation import check_labels
from keras_trn.logits import logits_function
from keras_trn.pipelines import check_finite
from keras_trn.types import ArrayLike


class RestoredClassifier(CheckedModel):
    """Restores images before a frozen classifier sees them; subclass it for new defences.

    `ProtectedClassifier` and the filters of `keras_trn.baselines` differ only in how they
    restore an image, and `keras_trn.evaluate` treats them alike. The weights and statistics
    of the classifier never change. A subclass defines `restore_batch`.

    Args:
        classifier: A built Keras model from images of shape `(batch, height, width,
            channels)` in [0, 1] to logits of shape `(batch, num_classes)`.
        **kwargs: The usual arguments of a Keras model (`name`).

    Call arguments:
        images: Shape `(batch, height, width, channels)`, in [0, 1].
        labels: Class indices of shape `(batch,)`; only for a restoration that needs them.

    Returns:
        The logits for the restored images: float32, of shape `(batch, num_classes)`.

    Raises:
        ValueError: If the classifier is not built, returns probabilities instead of logits,
            or does not map images to at least two classes.

    Example:
        ```python
        @keras.saving.register_keras_serializable(package="my_package")
        class Darkened(keras_trn.RestoredClassifier):
            def restore_batch(self, images, labels=None):
                return keras.ops.maximum(images - 0.1, 0.0)

        assert Darkened(classifier)(images).shape == (8, 10)
        ```
    """

    # Whether the restoration needs the true labels, which are unknown outside studies.
    needs_labels = False
    # Whether the gradient of the restoration is useful to an attacker.
    is_differentiable = True
    # The number of forward passes through the classifier in one prediction.
    forward_passes = 1

    def __init__(self, classifier: keras.Model, **kwargs: Any) -> None:
        # Images, attacks and gradient maps stay float32 under any global policy.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.image_shape, self.num_classes = describe_classifier(classifier)
        classifier.trainable = False
        self.classifier = classifier
        self._logits = logits_function(classifier)
        self._graphs = GraphCache()

    def restore_batch(self, images: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
        """Restores a batch inside a larger computation; a subclass defines it.

        Args:
            images: Shape `(batch, height, width, channels)`, in [0, 1].
            labels: Class indices; only for a restoration that needs them.

        Returns:
            A tensor of the shape of `images`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define `restore_batch`.")

    def call(self, images: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
        return self._logits(self.restore_batch(images, labels))

    def restore(
        self,
        images: ArrayLike | tf.data.Dataset,
        labels: ArrayLike | None = None,
        batch_size: int = 128,
    ) -> np.ndarray:
        """Restores images.

        Args:
            images: Shape `(number, height, width, channels)`, in [0, 1]; or a
                `tf.data.Dataset` of batches, whose labels are ignored.
            labels: Class indices; only for a restoration that needs them.
            batch_size: Number of images to restore at a time, if they are an array.

        Returns:
            The restored images: an array of the shape of `images`, in [0, 1].

        Raises:
            ValueError: If the images are malformed, or the pipeline is endless.
        """
        return self._in_batches(self.restore_batch, images, labels, batch_size)

    def export(
        self,
        filepath: str,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: list | None = None,
        **kwargs: Any,
    ) -> None:
        """Exports the model for serving, including gradient maps; as `keras.Model.export`.

        The exported model needs only TensorFlow, neither Keras nor this package. Filters that
        run in NumPy cannot be exported.

        Args:
            filepath: Path of the exported model; a folder for a SavedModel.
            format: As in `keras.Model.export`.
            verbose: Whether to print a summary of the export.
            input_signature: As in `keras.Model.export`; by default any number of float32
                images of the classifier's shape.
            **kwargs: The other arguments of `keras.Model.export`.

        Example:
            ```python
            restorer = keras_trn.SingleStreamRestorationNetwork(width=4, depth=1)
            protected = keras_trn.ProtectedClassifier(classifier, restorer)
            protected.export("exported", verbose=False)
            served = tf.saved_model.load("exported")
            assert served.serve(images).shape == (8, 10)
            ```
        """
        if input_signature is None:
            input_signature = [keras.InputSpec(shape=(None, *self.image_shape), dtype="float32")]
        super().export(filepath, format, verbose, input_signature, **kwargs)

    def _in_batches(
        self,
        method: Callable[..., tf.Tensor],
        images: ArrayLike | tf.data.Dataset,
        labels: ArrayLike | None,
        batch_size: int,
    ) -> np.ndarray:
        """Applies a compiled method batch by batch, and joins the results."""
        batch_size = check_count("batch_size", batch_size)
        function = self._graphs.get(method.__name__, self, lambda: method)
        results = [
            function(tf.cast(batch, tf.float32), batch_labels).numpy()
            for batch, batch_labels in self._batches(images, labels, batch_size)
        ]
        _check_same_size(results)
        return np.concatenate(results)

    def _batches(
        self, images: ArrayLike | tf.data.Dataset, labels: ArrayLike | None, batch_size: int
    ) -> Iterator[tuple[Any, tf.Tensor | None]]:
        """Yields checked images, and their labels if there are any."""
        if isinstance(images, tf.data.Dataset):
            if labels is not None:
                raise ValueError(
                    "labels belong to an array of images; received labels and a "
                    "`tf.data.Dataset`. Restore one batch of it at a time."
                )
            check_finite(images)
            batch = None
            for batch in images:
                batch, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
                yield check_images(batch, self.image_shape), None
            if batch is None:
                raise ValueError("Received no images: the data are empty.")
            return
        images = np.asarray(check_images(images, self.image_shape))
        if labels is not None:
            labels = check_labels(labels, self.num_classes, batch_size=len(images))
            labels = np.asarray(labels).reshape(-1)
        for start in range(0, len(images), batch_size):
            batch = slice(start, start + batch_size)
            yield images[batch], None if labels is None else tf.constant(labels[batch])


def _check_same_size(results: list[np.ndarray]) -> None:
    """Checks that the results of all batches fit into one array."""
    sizes = sorted({result.shape[1:3] for result in results})
    if len(sizes) > 1:
        *first, last = [f"{height} x {width}" for height, width in sizes]
        raise ValueError(
            f"The images have sizes of {', '.join(first)} and {last} pixels, so they do not fit "
            "into one array. Restore one batch at a time: `[protected.restore(images) for images, "
            "labels in dataset]`."
        )
