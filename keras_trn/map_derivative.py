"""Tells whether TensorFlow can differentiate a gradient map, and differentiates it."""

import re
from typing import Any

import tensorflow as tf

from keras_trn.graphs import compile_function
from keras_trn.input_validation import with_known_shape
from keras_trn.second_derivatives import is_registered

# TensorFlow declares the gradients of these operations constant, although they are not.
_DECLARED_CONSTANT = {
    "FakeQuantWithMinMaxArgsGradient",
    "FakeQuantWithMinMaxVarsGradient",
    "FakeQuantWithMinMaxVarsPerChannelGradient",
}
# Function calls and operations that only reserve space need no derivative.
_NEEDS_NO_DERIVATIVE = {
    "EmptyTensorList",
    "NoOp",
    "PartitionedCall",
    "StatefulPartitionedCall",
    "TensorListReserve",
}
# Replaces an unknown height or width.
_ANY_SIDE = 32


class MapDerivative:
    """Computes the gradient map of a defence and its derivative, each compiled once.

    Args:
        defence: A `RestoredClassifier` with a `gradient_map` that needs no labels.
    """

    def __init__(self, defence: Any) -> None:
        self._defence = defence
        self.maps = compile_function(self._maps)
        self.vjp = compile_function(self._vjp)
        # Its completeness, which `keras_trn.evaluation.map_gradient` measures once.
        self.measured: Any = None

    def unsupported_reason(self) -> str | None:
        """Tells why TensorFlow cannot differentiate the map, without a full stop.

        Returns `None` if it can. It traces the derivative, without computing it, only if the map
        has an operation without a registered gradient.
        """
        shape = [None, *(_ANY_SIDE if side is None else side for side in self._defence.image_shape)]
        images = tf.TensorSpec(shape, tf.float32)
        try:
            maps = self.maps.get_concrete_function(images)
            operations = _operations(maps.graph.as_graph_def())
            for operation in sorted(operations & _DECLARED_CONSTANT):
                return f"TensorFlow treats {operation}, which its gradient map needs, as constant"
            if not all(map(is_registered, operations - _NEEDS_NO_DERIVATIVE)):
                weights = tf.TensorSpec(maps.output_shapes, tf.float32)
                self.vjp.get_concrete_function(images, weights)
        except Exception as error:
            return _missing_derivative(error)
        return None

    def _maps(self, images: tf.Tensor) -> tf.Tensor:
        images = with_known_shape(images)
        return self._defence.gradient_map(images, classifier=self._defence.classifier)

    def _vjp(self, images: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """Returns the gradient of the map's weighted sum with respect to the images."""
        with tf.GradientTape() as tape:
            tape.watch(images)
            total = tf.reduce_sum(self._maps(images) * weights)
        return tape.gradient(total, images, None, tf.UnconnectedGradients.ZERO)


def short_message(error: Exception) -> str:
    """Returns an error's type and the core of its message in one line, without a full stop."""
    # Keras prints a layer's own error in bold, and TensorFlow puts the error last.
    of_layer = re.search(r"\x1b\[1m(.+?)\x1b\[0m", str(error), re.DOTALL)
    text = of_layer[1] if of_layer else str(error)
    message = text.strip().rpartition("\n")[2]
    return f"{type(error).__name__}, {message.strip().rstrip('.')}"


def _operations(graph: Any) -> set[str]:
    """Returns the types of all operations on tensors in a graph and in called functions."""
    nodes = [*graph.node, *(node for body in graph.library.function for node in body.node_def)]
    return {node.op for node in nodes if node.input}


def _missing_derivative(error: Exception) -> str:
    """Names the operation that TensorFlow could not differentiate, if the error does."""
    named = re.search(r"no entry for: (\w+)|op type: (\w+)", str(error))
    if named:
        operation = named[1] or named[2]
        return f"TensorFlow has no derivative of {operation}, which its gradient map needs"
    return f"TensorFlow cannot differentiate its gradient map: {short_message(error)}"
