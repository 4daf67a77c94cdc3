"""Type aliases that the annotations share."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Height and width may be unknown, the number of channels may not.
ImageShape = tuple[int | None, int | None, int]
# NumPy arrays, tensors and nested lists.
ArrayLike = np.ndarray | tf.Tensor | Sequence[Any]
# Batches of images and labels, or arrays of both.
LabelledImages = tf.data.Dataset | keras.utils.PyDataset | tuple[ArrayLike, ArrayLike]
# From images of shape (batch, height, width, channels) to logits of shape (batch, num_classes).
Logits = Callable[[tf.Tensor], tf.Tensor]
Classifier = keras.Model | Logits
Config = dict[str, Any]
