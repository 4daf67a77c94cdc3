"""Registers second derivatives that TensorFlow lacks, for attacks through gradient maps."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.ops import gradient_registry

_Derivative = Callable[[tf.Operation, tf.Tensor], list[tf.Tensor | None]]


def register_second_derivatives() -> None:
    """Makes the gradients of image resizing and of softsign differentiable.

    Resizing is linear, so the derivative of its gradient is the resizing itself. TensorFlow lacks
    it for nearest, bicubic and antialiased resizing and for crops, and treats it as zero for
    bilinear resizing. The gradient map of a classifier that resizes would then look constant, and
    the white-box attack would be too weak. Existing derivatives stay.
    """
    for operation, derivative in {
        "ResizeBicubicGrad": _of_resizing(tf.raw_ops.ResizeBicubic),
        "ResizeNearestNeighborGrad": _of_resizing(tf.raw_ops.ResizeNearestNeighbor),
        "ScaleAndTranslateGrad": _of_scaling,
        "CropAndResizeGradImage": _of_crops,
        "SoftsignGrad": _of_softsign,
    }.items():
        if not is_registered(operation):
            tf.RegisterGradient(operation)(derivative)
    if gradient_registry.lookup("ResizeBilinearGrad") is None:
        # TensorFlow considers this gradient constant and caches no inputs for it. So this
        # replaces the gradient of the resizing itself with one of the same values.
        gradient_registry._registry.pop("ResizeBilinear")
        tf.RegisterGradient("ResizeBilinear")(_of_bilinear_resizing)


def is_registered(operation: str) -> bool:
    """Tells whether TensorFlow can differentiate an operation type, or treats it as constant."""
    try:
        gradient_registry.lookup(operation)
    except LookupError:
        return False
    return True


def _attributes(operation: tf.Operation, *names: str) -> dict[str, Any]:
    return {name: operation.get_attr(name) for name in names}


def _of_resizing(resize: Callable[..., tf.Tensor]) -> _Derivative:
    def second_derivative(operation: tf.Operation, upstream: tf.Tensor) -> list[tf.Tensor | None]:
        options = _attributes(operation, "align_corners", "half_pixel_centers")
        size = tf.shape(operation.inputs[0])[1:3]
        return [tf.cast(resize(images=upstream, size=size, **options), upstream.dtype), None]

    return second_derivative


def _of_bilinear_resizing(operation: tf.Operation, upstream: tf.Tensor) -> list[tf.Tensor | None]:
    images = operation.inputs[0]
    options = _attributes(operation, "align_corners", "half_pixel_centers")

    @tf.custom_gradient
    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def second_derivative(upstream_of_gradient: tf.Tensor) -> tf.Tensor:
            size = tf.shape(upstream)[1:3]
            return tf.raw_ops.ResizeBilinear(images=upstream_of_gradient, size=size, **options)

        first = tf.raw_ops.ResizeBilinearGrad(grads=upstream, original_image=images, **options)
        return first, second_derivative

    return [gradient(upstream), None]


def _of_scaling(operation: tf.Operation, upstream: tf.Tensor) -> list[tf.Tensor | None]:
    gradients, _, scale, translation = operation.inputs
    scaled = tf.raw_ops.ScaleAndTranslate(
        images=upstream,
        size=tf.shape(gradients)[1:3],
        scale=scale,
        translation=translation,
        **_attributes(operation, "kernel_type", "antialias"),
    )
    return [scaled, None, None, None]


def _of_crops(operation: tf.Operation, upstream: tf.Tensor) -> list[tf.Tensor | None]:
    gradients, boxes, box_indices, _ = operation.inputs
    crops = tf.raw_ops.CropAndResize(
        image=upstream,
        boxes=boxes,
        box_ind=box_indices,
        crop_size=tf.shape(gradients)[1:3],
        **_attributes(operation, "method"),
    )
    return [crops, None, None, None]


def _of_softsign(operation: tf.Operation, upstream: tf.Tensor) -> list[tf.Tensor | None]:
    gradients, features = operation.inputs
    inverse = 1.0 / (1.0 + tf.abs(features))
    in_features = -2.0 * gradients * tf.sign(features) * inverse**3
    return [upstream * inverse**2, upstream * in_features]
