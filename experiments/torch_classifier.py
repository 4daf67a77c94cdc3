"""Wraps a TensorFlow classifier in an ordinary PyTorch module."""

from typing import Any

import tensorflow as tf
import torch
from torch.autograd.function import once_differentiable

from keras_trn.graphs import compile_function
from keras_trn.logits import logits_function
from keras_trn.types import Classifier


class TorchClassifier(torch.nn.Module):
    """Runs a classifier and its gradient in TensorFlow, and counts both.

    Attacks in PyTorch need not know TensorFlow. The module converts between PyTorch's channels
    first and TensorFlow's channels last.

    Args:
        classifier: A Keras model, or any function from images to logits.
        image_shape: Height, width and number of channels.
        num_classes: Number of logits.

    Call arguments:
        images: A float32 tensor of shape `(batch, channels, height, width)`.

    Returns:
        The logits, of shape `(batch, num_classes)`. PyTorch can differentiate them once.
    """

    def __init__(
        self, classifier: Classifier, image_shape: tuple[int, int, int], num_classes: int
    ) -> None:
        super().__init__()
        logits = logits_function(classifier)

        def gradient(images: tf.Tensor, direction: tf.Tensor) -> tf.Tensor:
            _, vjp = logits.with_vjp(images)
            return vjp(direction)

        images, directions = tf.TensorSpec((None, *image_shape)), tf.TensorSpec((None, num_classes))
        self._logits = compile_function(logits, [images])
        self._gradient = compile_function(gradient, [images, directions])
        self._forward_passes = 0
        self._backward_passes = 0

    @property
    def passes(self) -> tuple[int, int]:
        """Returns the forward and the backward passes so far, counted per image."""
        return self._forward_passes, self._backward_passes

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return _Logits.apply(images, self)

    def compute_logits(self, images: torch.Tensor) -> torch.Tensor:
        """Computes the logits without gradients."""
        self._forward_passes += len(images)
        return _to_torch(self._logits(_channels_last(images)))

    def compute_gradient(self, images: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """Computes the gradient of `sum(logits * direction)` with respect to the images."""
        self._backward_passes += len(images)
        gradient = self._gradient(_channels_last(images), tf.constant(direction.numpy()))
        return _to_torch(gradient).permute(0, 3, 1, 2).contiguous()


class _Logits(torch.autograd.Function):
    """Passes tensors from PyTorch to TensorFlow, and gradients back."""

    @staticmethod
    def forward(context: Any, images: torch.Tensor, classifier: TorchClassifier) -> torch.Tensor:
        context.save_for_backward(images)
        context.classifier = classifier
        return classifier.compute_logits(images)

    @staticmethod
    @once_differentiable
    def backward(context: Any, direction: torch.Tensor) -> tuple[torch.Tensor, None]:
        (images,) = context.saved_tensors
        return context.classifier.compute_gradient(images, direction), None


def _channels_last(images: torch.Tensor) -> tf.Tensor:
    return tf.constant(images.detach().permute(0, 2, 3, 1).contiguous().numpy())


def _to_torch(tensor: tf.Tensor) -> torch.Tensor:
    # A copy, because attacks write into tensors, and TensorFlow's memory must not change.
    return torch.tensor(tensor.numpy())
