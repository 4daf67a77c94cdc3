"""Other ways to fuse the two streams, which `FusionBlock` has to beat."""

from keras import layers
from keras import ops

import keras_trn


class Concatenation(layers.Layer):
    """Each stream gets a linear mix of both: no pixel of one is compared with one of the other."""

    def build(self, features_shape):
        filters = features_shape[0][-1]
        self.exchange = layers.Conv2D(2 * filters, 1)
        self.exchange.build((*features_shape[0][:-1], 2 * filters))

    def call(self, features):
        seen = ops.relu(ops.concatenate(features, axis=-1))
        return _add(features, self.exchange(self.weighed(seen)))

    def weighed(self, seen):
        """Weighs the features of both streams before they are mixed; here not at all."""
        return seen


class ChannelAttention(Concatenation):
    """The mix is weighed by what is in the whole image, channel by channel.

    Source: Hu et al., "Squeeze-and-Excitation Networks", arXiv 1709.01507.
    """

    def build(self, features_shape):
        super().build(features_shape)
        filters = features_shape[0][-1]
        self.squeeze = layers.Dense(filters // 2, activation="relu")
        self.squeeze.build((None, 2 * filters))
        self.excite = layers.Dense(2 * filters, activation="sigmoid")
        self.excite.build((None, filters // 2))

    def weighed(self, seen):
        weights = self.excite(self.squeeze(ops.mean(seen, axis=(1, 2))))
        return seen * weights[:, None, None, :]


class CrossAttention(layers.Layer):
    """Each stream asks the other, at half the resolution, where it finds what.

    Source: Vaswani et al., "Attention Is All You Need", arXiv 1706.03762.
    """

    def build(self, features_shape):
        filters = features_shape[0][-1]
        self.pool = layers.AveragePooling2D(2, padding="same")
        self.upsample = layers.UpSampling2D(2, interpolation="bilinear")
        self.attentions = [layers.MultiHeadAttention(2, filters // 2) for _ in range(2)]
        self.exchange = layers.Conv2D(2 * filters, 1, kernel_initializer="zeros")
        self.exchange.build((*features_shape[0][:-1], 2 * filters))
        for attention in self.attentions:
            attention.build((None, None, filters), (None, None, filters))

    def call(self, features):
        rows, columns = features[0].shape[1:3]
        pooled = [self.pool(stream) for stream in features]
        tokens = [
            ops.reshape(stream, (-1, stream.shape[1] * stream.shape[2], stream.shape[3]))
            for stream in pooled
        ]
        found = [
            self.attentions[0](tokens[0], tokens[1]),
            self.attentions[1](tokens[1], tokens[0]),
        ]
        found = [
            self.upsample(ops.reshape(answer, (-1, *stream.shape[1:])))[:, :rows, :columns]
            for answer, stream in zip(found, pooled, strict=True)
        ]
        return _add(features, self.exchange(ops.concatenate(found, axis=-1)))


def _add(features, corrections):
    """Adds its part of the corrections to each stream."""
    parts = ops.split(corrections, 2, axis=-1)
    return [stream + part for stream, part in zip(features, parts, strict=True)]


def make_restorer(fusion_block, **sizes):
    """Makes a two-stream network that fuses its streams in another way.

    Args:
        fusion_block: One of the layers of this module: the class.
        **sizes: The arguments of `TwoStreamRestorationNetwork`.

    Returns:
        A `TwoStreamRestorationNetwork`.
    """

    class Restorer(keras_trn.TwoStreamRestorationNetwork):
        def make_fusion_block(self, **kwargs):
            return fusion_block(**kwargs)

    return Restorer(**sizes)
