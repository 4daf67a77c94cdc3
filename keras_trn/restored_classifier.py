"""A classifier that sees images only after their restoration, learned or not."""

import keras
import numpy as np
import tensorflow as tf

from keras_trn.architecture import architecture_config
from keras_trn.checked_model import CheckedModel
from keras_trn.classifier_interface import describe_classifier
from keras_trn.graphs import GraphCache
from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_images
from keras_trn.input_validation import check_labels
from keras_trn.logits import logits_function
from keras_trn.pipelines import check_finite


class RestoredClassifier(CheckedModel):
    """A frozen classifier behind a restoration of its images.

    The base of `ProtectedClassifier` and of its baselines in `keras_trn.baselines`: they
    differ in how an image is restored, and everything that judges a defence
    treats them alike. The classifier is frozen: its weights and statistics stay
    as they are, bit for bit. A subclass writes `restore_batch`.

    Args:
        classifier: A built Keras model from images of shape `(batch, height,
            width, channels)` in [0, 1] to logits of shape `(batch, num_classes)`.
        **kwargs: The usual arguments of a Keras model (`name`).

    Call arguments:
        images: Tensor of shape `(batch, height, width, channels)` in [0, 1].
        labels: Class indices of shape `(batch,)`; only for a restoration that
            needs them.

    Returns:
        The classifier's logits for the restored images: a float32 tensor of shape
        `(batch, num_classes)`.

    Raises:
        ValueError: If the classifier is not built, returns probabilities instead
            of logits, or does not map images to at least two classes.

    Example:
        Your own defence, which leaves out the finest grey values:

        ```python
        @keras.saving.register_keras_serializable(package="my_package")
        class Darkened(keras_trn.RestoredClassifier):
            def restore_batch(self, images, labels=None):
                return keras.ops.maximum(images - 0.1, 0.0)

        darkened = Darkened(classifier)
        assert darkened(keras.random.uniform((4, 8, 8, 1))).shape == (8, 10)
        ```
    """

    # Whether the restoration needs the true labels, which only a study can give it.
    needs_labels = False
    # Whether an attacker who differentiates the restoration learns anything from it.
    is_differentiable = True

    def __init__(self, classifier, **kwargs):
        # Images, attacks and gradient maps stay float32 under any global policy.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.image_shape, self.num_classes = describe_classifier(classifier)
        classifier.trainable = False
        self.classifier = classifier
        self._logits = logits_function(classifier)
        self._graphs = GraphCache()

    def restore_batch(self, images, labels=None):
        """Restores a batch as a part of a larger computation: what a subclass must write.

        Args:
            images: Tensor of shape `(batch, height, width, channels)` in [0, 1].
            labels: Class indices; only for a restoration that needs them.

        Returns:
            A tensor of the shape of `images`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define `restore_batch`.")

    def build(self, images_shape):
        """Creates the weights, where the restoration has any."""
        self.built = True

    def call(self, images, labels=None):
        return self._logits(self.restore_batch(images, labels))

    def compute_output_shape(self, images_shape):
        return (images_shape[0], self.num_classes)

    def restore(self, images, labels=None, batch_size=128):
        """Restores images.

        Args:
            images: Array of shape `(number, height, width, channels)` in [0, 1]; or a
                `tf.data.Dataset` of batches, whose labels are left out.
            labels: Class indices; only for a restoration that needs them.
            batch_size: Number of images to restore at a time, where they are an array.

        Returns:
            An array of the shape of `images`: the restored images, in [0, 1].

        Raises:
            ValueError: If the images are malformed, or the pipeline has no end.
        """
        return self._in_batches(self.restore_batch, images, labels, batch_size)

    def export(
        self, filepath, format="tf_saved_model", verbose=None, input_signature=None, **kwargs
    ):
        """Exports the model for serving, gradient maps and all; as `keras.Model.export`.

        What is exported needs TensorFlow alone: neither Keras nor this package. Filters
        that run in NumPy, among the baselines, cannot be exported.

        Args:
            filepath: Where to; a folder for a SavedModel.
            format: As of `keras.Model.export`.
            verbose: Whether to print what is exported.
            input_signature: As of `keras.Model.export`; by default float32 images of the
                shape that the classifier takes, any number of them.
            **kwargs: The further arguments of `keras.Model.export`.

        Example:
            ```python
            import tempfile

            protected = keras_trn.ProtectedClassifier.from_preset("trn_fashion_mnist")
            images = keras.random.uniform((4, 28, 28, 1))
            with tempfile.TemporaryDirectory() as folder:
                protected.export(folder, verbose=False)
                served = tf.saved_model.load(folder)
                logits = served.serve(images)
            assert logits.shape == (8, 10)
            ```
        """
        if input_signature is None:
            input_signature = [keras.InputSpec(shape=(None, *self.image_shape), dtype="float32")]
        super().export(filepath, format, verbose, input_signature, **kwargs)

    def _in_batches(self, method, images, labels, batch_size):
        """Applies a compiled method to one batch after the other, and joins the results."""
        batch_size = check_count("batch_size", batch_size)
        function = self._graphs.get(method.__name__, self, lambda: method)
        results = [
            function(tf.cast(batch, tf.float32), batch_labels).numpy()
            for batch, batch_labels in self._batches(images, labels, batch_size)
        ]
        _check_same_size(results)
        return np.concatenate(results)

    def _batches(self, images, labels, batch_size):
        """Yields checked images, and their labels where there are any."""
        if isinstance(images, tf.data.Dataset):
            check_finite(images)
            for batch in images:
                batch, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
                yield check_images(batch, self.image_shape), None
            return
        images = check_images(np.asarray(images), self.image_shape)
        if labels is not None:
            check_labels(labels, self.num_classes, batch_size=len(images))
        for start in range(0, len(images), batch_size):
            batch = slice(start, start + batch_size)
            yield images[batch], None if labels is None else tf.constant(labels[batch])

    def get_config(self):
        return {"name": self.name, "classifier": architecture_config(self.classifier)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        classifier = keras.saving.deserialize_keras_object(config["classifier"], custom_objects)
        return cls(**{**config, "classifier": classifier})


def _check_same_size(results):
    """Checks that the results of all batches fit into one array."""
    if not results:
        raise ValueError("Received no images: the data are empty.")
    sizes = sorted({result.shape[1:3] for result in results})
    if len(sizes) > 1:
        *first, last = [f"{height} x {width}" for height, width in sizes]
        raise ValueError(
            f"The images have the sizes {', '.join(first)} and {last} in pixels, and do not fit "
            "into one array. Restore one batch at a time: `[protected.restore(images) for images, "
            "labels in dataset]`."
        )
