"""Alternatives to the default fusion of streams and estimation of labels."""

from typing import Any

import keras
import tensorflow as tf
from keras import layers
from keras import ops

from keras_trn.gradient_maps import EstimatedLabel

register = keras.saving.register_keras_serializable("experiments")
Shapes = list[tuple[int | None, ...]]


@register
class Concatenation(layers.Layer):
    """Gives each stream a linear mix of both, pixel by pixel."""

    def build(self, features_shape: Shapes) -> None:
        filters = features_shape[0][-1]
        self.exchange = layers.Conv2D(2 * filters, 1)
        self.exchange.build((*features_shape[0][:-1], 2 * filters))

    def call(self, features: list[tf.Tensor]) -> list[tf.Tensor]:
        both = ops.relu(ops.concatenate(features, axis=-1))
        return _add(features, self.exchange(self.weigh(both)))

    def weigh(self, both: tf.Tensor) -> tf.Tensor:
        """Weighs the features of both streams before mixing them."""
        return both


@register
class ChannelAttention(Concatenation):
    """Weighs each channel by the content of the whole image: Hu et al., arXiv 1709.01507."""

    def build(self, features_shape: Shapes) -> None:
        super().build(features_shape)
        filters = features_shape[0][-1]
        self.squeeze = layers.Dense(filters // 2, activation="relu")
        self.squeeze.build((None, 2 * filters))
        self.excite = layers.Dense(2 * filters, activation="sigmoid")
        self.excite.build((None, filters // 2))

    def weigh(self, both: tf.Tensor) -> tf.Tensor:
        weights = self.excite(self.squeeze(ops.mean(both, axis=(1, 2))))
        return both * weights[:, None, None, :]


@register
class CrossAttention(layers.Layer):
    """Lets each stream attend to the other at half the resolution: Vaswani et al., 1706.03762."""

    def build(self, features_shape: Shapes) -> None:
        filters = features_shape[0][-1]
        self.pool = layers.AveragePooling2D(2, padding="same")
        self.upsample = layers.UpSampling2D(2, interpolation="bilinear")
        self.attentions = [layers.MultiHeadAttention(2, filters // 2) for _ in range(2)]
        self.exchange = layers.Conv2D(2 * filters, 1, kernel_initializer="zeros")
        self.exchange.build((*features_shape[0][:-1], 2 * filters))
        for attention in self.attentions:
            attention.build((None, None, filters), (None, None, filters))

    def call(self, features: list[tf.Tensor]) -> list[tf.Tensor]:
        rows, columns, filters = features[0].shape[1:]
        pooled = [self.pool(stream) for stream in features]
        tokens = [
            ops.reshape(stream, (-1, stream.shape[1] * stream.shape[2], filters))
            for stream in pooled
        ]
        answers = [
            attention(*pair)
            for attention, pair in zip(self.attentions, (tokens, tokens[::-1]), strict=True)
        ]
        found = [
            self.upsample(ops.reshape(answer, (-1, *pooled[0].shape[1:])))[:, :rows, :columns]
            for answer in answers
        ]
        return _add(features, self.exchange(ops.concatenate(found, axis=-1)))


def _add(features: list[tf.Tensor], corrections: tf.Tensor) -> list[tf.Tensor]:
    """Adds the corrections to the streams, one part to each."""
    parts = ops.split(corrections, 2, axis=-1)
    return [stream + part for stream, part in zip(features, parts, strict=True)]


@register
class MapZeroed(EstimatedLabel):
    """Replaces the gradient map with zeros, as a control with the same network and noise."""

    def backward_passes(self, num_classes: int) -> int:
        return 0

    def maps_for(self, label_distribution: tf.Tensor, first: Any) -> tf.Tensor:
        nothing = tf.zeros_like(first.images)
        return tf.concat([nothing, nothing, first.images - first.restored], axis=-1)


@register
class LabelKnown(EstimatedLabel):
    """Uses the label that the attack started from, as an upper bound with the same weights."""

    needs_labels = True

    def label_distribution(
        self, label_logits: tf.Tensor, labels: tf.Tensor | None = None
    ) -> tf.Tensor:
        return tf.one_hot(labels, label_logits.shape[-1])


@register
class TaughtWithEstimates(EstimatedLabel):
    """Trains the restorer with maps for estimated labels instead of the known ones."""

    def call_with_loss(
        self,
        images: tf.Tensor,
        classifier: Any,
        labels: tf.Tensor,
        clean_images: tf.Tensor,
        training: bool = True,
        pixel_weight: float = 10.0,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        return super().call_with_loss(images, classifier, labels, clean_images, False, pixel_weight)
