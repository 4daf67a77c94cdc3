"""The classifier that ART's attacks query; imported late, as ART is slow to import."""

import collections
from typing import Any

import numpy as np
import tensorflow as tf
from art.estimators.classification import TensorFlowV2Classifier
from tensorflow import Tensor

from keras_trn.graphs import compile_function
from keras_trn.types import ImageShape
from keras_trn.types import Logits


class Estimator(TensorFlowV2Classifier):
    """Answers ART's queries by graphs, each traced once for any number of images.

    ART's own methods trace for each number of images, and take gradients of the weights too.
    """

    def __init__(
        self, logits: Logits, image_shape: ImageShape, loss: Any, remembered_calls: int
    ) -> None:
        images = tf.TensorSpec((None, *image_shape), tf.float32)
        self._logits = compile_function(logits, [images])
        _, num_classes = self._logits.get_concrete_function().output_shapes
        super().__init__(
            # ART says that it does not train.
            model=lambda images, training: self._logits(images),
            nb_classes=num_classes,
            input_shape=image_shape,
            clip_values=(0.0, 1.0),
            preprocessing=None,
        )
        scores = tf.TensorSpec((None, num_classes), tf.float32)
        self._loss = loss
        self._losses = compile_function(self._compute_losses, [images, scores])
        self._loss_gradients = compile_function(self._take_loss_gradients, [images, scores])
        self._class_gradients = compile_function(self._take_class_gradients, [images, scores])
        self._answers: collections.deque[dict[bytes, Any]] = collections.deque(
            maxlen=remembered_calls
        )

    def forget(self) -> None:
        """Forgets all answers, as the classifier may have learned."""
        self._answers.clear()

    def predict(self, x: np.ndarray, **_: Any) -> np.ndarray:
        """Returns logits; ART sends some images in 64 bits."""
        if not self._answers.maxlen:
            return self._logits(tf.cast(x, tf.float32)).numpy()
        images = [image.tobytes() for image in x]
        known = collections.ChainMap(*self._answers)
        new = {image: index for index, image in enumerate(images) if image not in known}
        scores = self._logits(tf.cast(x[list(new.values())], tf.float32)).numpy() if new else ()
        known = known.new_child(dict(zip(new, scores, strict=True)))
        self._answers.append({image: known[image] for image in images})
        return np.stack([known[image] for image in images])

    def compute_loss(self, x: np.ndarray, y: np.ndarray, **_: Any) -> np.ndarray:
        """Returns the loss of each image."""
        return self._losses(tf.cast(x, tf.float32), tf.cast(y, tf.float32)).numpy()

    def loss_gradient(self, x: np.ndarray, y: np.ndarray, **_: Any) -> np.ndarray:
        """Returns the gradient of each image's loss."""
        return self._loss_gradients(tf.cast(x, tf.float32), tf.cast(y, tf.float32)).numpy()

    def class_gradient(self, x: np.ndarray, label: int | None = None, **_: Any) -> np.ndarray:
        """Returns the gradients of the logits of all classes, or of one."""
        labels = range(self.nb_classes) if label is None else [label]
        directions = tf.one_hot(tf.constant(labels), self.nb_classes)
        return self._class_gradients(tf.cast(x, tf.float32), directions).numpy()

    def _compute_losses(self, images: Tensor, one_hot: Tensor) -> Tensor:
        return self._loss(one_hot, self._logits(images))

    def _take_loss_gradients(self, images: Tensor, one_hot: Tensor) -> Tensor:
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.reduce_sum(self._compute_losses(images, one_hot))
        return tape.gradient(loss, images)

    def _take_class_gradients(self, images: Tensor, directions: Tensor) -> Tensor:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(images)
            scores = self._logits(images)

        def gradient(direction: Tensor) -> Tensor:
            everywhere = tf.broadcast_to(direction, tf.shape(scores))
            return tape.gradient(scores, images, output_gradients=everywhere)

        gradients = tf.map_fn(gradient, directions, parallel_iterations=1)
        return tf.transpose(gradients, [1, 0, 2, 3, 4])
