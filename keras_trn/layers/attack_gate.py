"""The attack gate: whether an image looks attacked at all."""

import keras
from keras import ops

_HIDDEN_UNITS = 8


@keras.saving.register_keras_serializable(package="keras_trn")
class AttackGate(keras.layers.Layer):
    """Judges from the features of a whole image whether it was attacked.

    A convolution sees a neighbourhood; whether a faint pattern is a perturbation or
    a texture shows in the whole image. So the features are pooled, their means and
    their largest values, and two dense layers turn them into one number. A
    correction that is multiplied by its sigmoid is left out where the image is
    benign.

    Source: the pooling and the gate of Hu et al., "Squeeze-and-Excitation
    Networks", arXiv 1709.01507, with one gate for the whole image; that a
    restorer has one is this project's own choice.

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

    def build(self, features_shape):
        filters = features_shape[-1]
        self.hidden = keras.layers.Dense(
            _HIDDEN_UNITS, activation="relu", dtype=self.dtype_policy, name="hidden"
        )
        self.hidden.build((None, 2 * filters))
        # Rather open than closed at the start, as a closed gate keeps a restorer from learning.
        self.judgement = keras.layers.Dense(
            1, bias_initializer="ones", dtype=self.dtype_policy, name="judgement"
        )
        self.judgement.build((None, _HIDDEN_UNITS))

    def call(self, features):
        pooled = ops.concatenate(
            [ops.mean(features, axis=(1, 2)), ops.max(features, axis=(1, 2))], axis=-1
        )
        return self.judgement(self.hidden(pooled))

    def compute_output_shape(self, features_shape):
        return features_shape[0], 1
