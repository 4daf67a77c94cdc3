"""Type aliases for annotations."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import TypeAlias

import keras
import numpy as np
import tensorflow as tf

# Height and width may be unknown, but not the number of channels.
ImageShape: TypeAlias = tuple[int | None, int | None, int]
# The shape of a tensor, with None for unknown dimensions.
Shape: TypeAlias = tuple[Any, ...]
# NumPy arrays, tensors and nested lists.
ArrayLike: TypeAlias = np.ndarray | tf.Tensor | Sequence[Any]
# Batches of images and labels, or arrays of both.
LabelledImages: TypeAlias = tf.data.Dataset | keras.utils.PyDataset | tuple[ArrayLike, ArrayLike]
# From images of shape (batch, height, width, channels) to logits of shape (batch, num_classes).
Logits: TypeAlias = Callable[[tf.Tensor], tf.Tensor]
Classifier: TypeAlias = keras.Model | Logits
Config: TypeAlias = dict[str, Any]
