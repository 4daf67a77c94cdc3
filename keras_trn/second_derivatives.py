"""Second derivatives that TensorFlow leaves out, and attacks through gradient maps need."""

import tensorflow as tf
from tensorflow.python.framework.ops import gradient_registry


def register_second_derivatives():
    """Gives the gradients of image resizing and of softsign a gradient of their own.

    Resizing is linear in the image, so its gradient is linear in what comes from above, and the
    derivative of that is the resizing itself. TensorFlow has none for nearest neighbours,
    bicubic, antialiased resizing and crops, and says of bilinear resizing that the derivative
    is zero. A gradient map of a classifier with such an operation then looks constant to
    whoever differentiates it, and the attacker who knows everything is a weak one.

    What TensorFlow, or another package, knows to differentiate is left as it is.
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
        # TensorFlow takes its gradient for one that needs no inputs, and keeps none. So the
        # gradient of the resizing itself is replaced, by one with the same values.
        gradient_registry._registry.pop("ResizeBilinear")
        tf.RegisterGradient("ResizeBilinear")(_of_bilinear_resizing)


def is_registered(operation):
    """Tells whether TensorFlow knows how to differentiate an operation, or that it is constant.

    Args:
        operation: The type of the operation, such as `"Conv2D"`.

    Returns:
        Whether it knows either.

    Example:
        ```python
        from keras_trn.second_derivatives import is_registered

        assert is_registered("Conv2D") and is_registered("ArgMax")
        assert not is_registered("LRNGrad")
        ```
    """
    try:
        gradient_registry.lookup(operation)
    except LookupError:
        return False
    return True


def _of_resizing(resize):
    def second_derivative(operation, upstream):
        options = {
            name: operation.get_attr(name) for name in ("align_corners", "half_pixel_centers")
        }
        size = tf.shape(operation.inputs[0])[1:3]
        return [tf.cast(resize(images=upstream, size=size, **options), upstream.dtype), None]

    return second_derivative


def _of_bilinear_resizing(operation, upstream):
    images = operation.inputs[0]
    options = {name: operation.get_attr(name) for name in ("align_corners", "half_pixel_centers")}

    @tf.custom_gradient
    def gradient(upstream):
        def second_derivative(upstream_of_gradient):
            size = tf.shape(upstream)[1:3]
            return tf.raw_ops.ResizeBilinear(images=upstream_of_gradient, size=size, **options)

        pulled = tf.raw_ops.ResizeBilinearGrad(grads=upstream, original_image=images, **options)
        return pulled, second_derivative

    return [gradient(upstream), None]


def _of_scaling(operation, upstream):
    gradients, _, scale, translation = operation.inputs
    scaled = tf.raw_ops.ScaleAndTranslate(
        images=upstream,
        size=tf.shape(gradients)[1:3],
        scale=scale,
        translation=translation,
        kernel_type=operation.get_attr("kernel_type"),
        antialias=operation.get_attr("antialias"),
    )
    return [scaled, None, None, None]


def _of_crops(operation, upstream):
    gradients, boxes, box_indices, _ = operation.inputs
    crops = tf.raw_ops.CropAndResize(
        image=upstream,
        boxes=boxes,
        box_ind=box_indices,
        crop_size=tf.shape(gradients)[1:3],
        method=operation.get_attr("method"),
    )
    return [crops, None, None, None]


def _of_softsign(operation, upstream):
    gradients, features = operation.inputs
    inverse = 1.0 / (1.0 + tf.abs(features))
    in_features = -2.0 * gradients * tf.sign(features) * inverse**3
    return [upstream * inverse**2, upstream * in_features]
