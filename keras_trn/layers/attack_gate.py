"""The gate that opens a restorer for images that look attacked."""

from typing import Any

import keras
from keras import ops

from keras_trn.types import Shape

_HIDDEN_UNITS = 8


@keras.saving.register_keras_serializable(package="keras_trn")
class AttackGate(keras.layers.Layer):
    """Predicts from the features of a whole image whether it was attacked.

    Within the small window of a convolution, a faint perturbation looks like a texture. So the
    gate pools the features over the image, by mean and by maximum, and two dense layers compute
    one logit. A correction multiplied by its sigmoid vanishes on benign images.

    Source: the pooling and gating of Hu et al., "Squeeze-and-Excitation Networks",
    arXiv 1709.01507. One gate per image, in a restorer, is this project's choice.

    Args:
        **kwargs: The usual arguments of a Keras layer (`name`, `dtype`).

    Call arguments:
        features: Tensor of shape `(batch, height, width, filters)`.

    Returns:
        The logit of the image being attacked: a tensor of shape `(batch, 1)`.

    Example:
        ```python
        features = keras.random.normal((2, 8, 8, 16))
        logits = keras_trn.layers.AttackGate()(features)
        assert logits.shape == (2, 1)
        ```
    """

    def build(self, features_shape: Shape) -> None:
        policy = self.dtype_policy
        self.hidden = keras.layers.Dense(
            _HIDDEN_UNITS, activation="relu", dtype=policy, name="hidden"
        )
        self.hidden.build((None, 2 * features_shape[-1]))
        # The gate starts open, because behind a closed gate a restorer cannot learn. Saved models
        # refer to the attribute `judgement` and to the names of both layers.
        self.judgement = keras.layers.Dense(
            1, bias_initializer="ones", dtype=policy, name="judgement"
        )
        self.judgement.build((None, _HIDDEN_UNITS))

    def call(self, features: Any) -> Any:
        pooled = [ops.mean(features, axis=(1, 2)), ops.max(features, axis=(1, 2))]
        return self.judgement(self.hidden(ops.concatenate(pooled, axis=-1)))

    def compute_output_shape(self, features_shape: Shape) -> Shape:
        return features_shape[0], 1
