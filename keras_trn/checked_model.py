"""A Keras model that looks at its data before Keras does."""

import keras

from keras_trn.graphs import state_of
from keras_trn.input_validation import check_data
from keras_trn.keras_settings import float32_numbers


class CheckedModel(keras.Model):
    """Checks images and labels before any step is spent on them.

    A subclass sets `image_shape`, `(height, width, channels)`, and `num_classes`.
    """

    @float32_numbers()
    def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None):
        """Predicts logits; as `keras.Model.predict`.

        Args:
            x: Images in [0, 1]: an array, a list, a tensor or a `tf.data.Dataset`.
            batch_size: Number of images in a batch, where `x` is an array.
            verbose: As of `keras.Model.predict`.
            steps: Number of batches to take of a pipeline; all by default.
            callbacks: As of `keras.Model.predict`.

        Returns:
            An array of shape `(number of images, num_classes)`.

        Raises:
            ValueError: If the images are malformed, or the pipeline has no end.
        """
        x, _ = self._checked(x, needs_labels=False, steps=steps)
        return super().predict(x, batch_size, verbose, steps, callbacks)

    @float32_numbers()
    def predict_on_batch(self, x):
        """Predicts the logits of one batch; as `keras.Model.predict_on_batch`.

        Args:
            x: Images in [0, 1], of shape `(batch, height, width, channels)`.

        Returns:
            An array of shape `(batch, num_classes)`.

        Raises:
            ValueError: If the images are malformed.
        """
        x, _ = self._checked(x, needs_labels=False)
        return super().predict_on_batch(x)

    def _checked(self, x, y=None, needs_labels=True, steps=None):
        """Checks data, and returns what to use in place of them."""
        self._forget_stale_graphs()
        return check_data(x, y, self.image_shape, self.num_classes, needs_labels, steps)

    def _forget_stale_graphs(self):
        """Makes Keras compile its steps again where a part of the model has changed."""
        state = state_of(self)
        if getattr(self, "_compiled_state", state) != state:
            self.train_function = self.test_function = self.predict_function = None
        # Keras would take a list for a list of layers.
        object.__setattr__(self, "_compiled_state", state)
