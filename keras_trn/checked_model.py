"""Checks the data of a Keras model before Keras uses them."""

from typing import Any
from typing import Self

import keras
import numpy as np

from keras_trn.architecture import architecture_config
from keras_trn.graphs import state_of
from keras_trn.input_validation import check_whole_number
from keras_trn.keras_settings import float32_numbers
from keras_trn.pipelines import check_data
from keras_trn.pipelines import plain_errors
from keras_trn.types import Config
from keras_trn.types import ImageShape

# The numbers that Keras' own methods take, and the smallest that make sense.
_LOOP_NUMBERS = {
    "batch_size": 1,
    "epochs": 0,
    "initial_epoch": 0,
    "steps": 1,
    "steps_per_epoch": 1,
    "validation_batch_size": 1,
    "validation_freq": 1,
    "validation_steps": 1,
}


def check_loop(given: dict[str, Any]) -> None:
    """Checks the numbers among the arguments of `fit`, `evaluate` or `predict`."""
    for name, value in given.items():
        # `validation_freq` may also be a list of epochs.
        if name in _LOOP_NUMBERS and value is not None and not isinstance(value, (list, tuple)):
            check_whole_number(name, value, _LOOP_NUMBERS[name])


class CheckedModel(keras.Model):
    """Holds a classifier, and checks images and labels before the first step.

    A subclass sets `classifier`, its `image_shape`, `(height, width, channels)`, and `num_classes`.
    """

    classifier: keras.Model
    image_shape: ImageShape
    num_classes: int

    def build(self, images_shape: tuple) -> None:
        """Creates the weights, if the subclass has any of its own."""
        self.built = True

    def compute_output_shape(self, images_shape: tuple) -> tuple:
        return (images_shape[0], self.num_classes)

    @plain_errors()
    @float32_numbers()
    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> np.ndarray:
        """Predicts logits; as `keras.Model.predict`.

        Args:
            x: Images in [0, 1]: an array, a list, a tensor or a `tf.data.Dataset`.
            batch_size: Number of images in a batch, if `x` is an array.
            verbose: As for `keras.Model.predict`.
            steps: Number of batches to take from a pipeline; all by default.
            callbacks: As for `keras.Model.predict`.

        Returns:
            An array of shape `(number of images, num_classes)`.

        Raises:
            ValueError: If the images are malformed, or the pipeline is endless.
        """
        check_loop({"batch_size": batch_size, "steps": steps})
        x, _ = self._checked(x, needs_labels=False, steps=steps)
        return super().predict(x, batch_size, verbose, steps, callbacks)

    @float32_numbers()
    def predict_on_batch(self, x: Any) -> np.ndarray:
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

    def _checked(
        self, x: Any, y: Any = None, needs_labels: bool = True, steps: int | None = None
    ) -> tuple[Any, Any]:
        """Checks the data and returns them in the form that Keras gets."""
        return check_data(x, y, self.image_shape, self.num_classes, needs_labels, steps)

    def make_train_function(self, force: bool = False) -> Any:
        """Compiles the training step, also if a part of the model has changed since."""
        return super().make_train_function(force or self._has_changed("train"))

    def make_test_function(self, force: bool = False) -> Any:
        """Compiles the validation step, also if a part of the model has changed since."""
        return super().make_test_function(force or self._has_changed("test"))

    def make_predict_function(self, force: bool = False) -> Any:
        """Compiles the prediction step, also if a part of the model has changed since."""
        return super().make_predict_function(force or self._has_changed("predict"))

    def _has_changed(self, step: str) -> bool:
        """Tells whether a part of the model has changed since this was asked for the same step."""
        state = state_of(self)
        known = getattr(self, "_compiled_state", {})
        # Keras would treat the dictionary as a dictionary of layers.
        object.__setattr__(self, "_compiled_state", {**known, step: state})
        return known.get(step, state) != state

    def get_config(self) -> Config:
        return {"name": self.name, "classifier": architecture_config(self.classifier)}

    @classmethod
    def from_config(cls, config: Config, custom_objects: Config | None = None) -> Self:
        classifier = keras.saving.deserialize_keras_object(config["classifier"], custom_objects)
        return cls(**{**config, "classifier": classifier})
