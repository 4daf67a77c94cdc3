"""The Two-stream Restoration Network: image and gradient map in, image out."""

import bisect
import math

import keras
from keras import ops

from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_range
from keras_trn.layers import AttackGate
from keras_trn.layers import FusionBlock
from keras_trn.layers import PixelShuffle
from keras_trn.layers import PixelUnshuffle
from keras_trn.layers import ResidualBlock


@keras.saving.register_keras_serializable(package="keras_trn")
class TwoStreamRestorationNetwork(keras.Model):
    """Restores images from the images themselves and their gradient maps.

    One stream reads the image, the other its gradient map. After each stage of
    residual blocks a `FusionBlock` lets the streams enrich each other. What
    they find in the end is multiplied by an `AttackGate`, which learns to close where
    nothing is to be restored, added to the image, and the sum clipped to [0, 1].
    The last convolution starts at zero, so an untrained network returns its
    input unchanged: protection can only be learned, never lost at the start.

    Source: the two streams and the Fusion Block of Hong et al., arXiv
    2202.01117. Sizes, blocks and the residual output are this project's own.

    Args:
        width: Number of filters in each stream.
        depth: Number of stages: one residual block in each stream, then one
            `FusionBlock`.
        block_size: The network works on images folded by `PixelUnshuffle` with
            blocks of this side. 1 works at full resolution; 2 costs a quarter.
        gradient_stream: Whether there is a second stream. Without it the network
            is an ordinary residual network that takes images alone: the baseline
            that the second stream has to beat. `single_stream_baseline` makes one
            of equal size.
        gate_threshold: What is subtracted from the logit of the attack gate: the higher,
            the surer the network has to be before it changes an image.
            `ProtectedClassifier.calibrate` sets it.
        **kwargs: The usual arguments of a Keras model (`name`, `dtype`). With
            `dtype="mixed_float16"` the streams run in float16; the restored
            images are float32 all the same.

    Call arguments:
        images: Tensor of shape `(batch, height, width, channels)` in [0, 1]. Any
            size and number of channels.
        gradient_maps: Tensor of shape `(batch, height, width, map_channels)`, as
            an estimator of `keras_trn.gradient_maps` returns. Left out exactly
            when `gradient_stream=False`.

    Returns:
        The restored images: a float32 tensor of the shape of `images`, in [0, 1].

    Raises:
        ValueError: If width, depth or block size is not a positive whole number,
            the weights would be float16 or bfloat16, or a gradient map is missing or not
            wanted.

    Example:
        ```python
        images = keras.random.uniform((2, 28, 28, 1))
        maps = keras.random.normal((2, 28, 28, 1))
        restorer = keras_trn.TwoStreamRestorationNetwork(width=16, depth=2)
        restored = restorer(images, gradient_maps=maps)
        assert restored.shape == images.shape
        ```
    """

    def __init__(
        self,
        width=32,
        depth=4,
        block_size=2,
        gradient_stream=True,
        gate_threshold=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        _check_precision(self.dtype_policy)
        # The inputs stay float32 whatever the streams compute in: the output is
        # the image plus a correction, and float16 would round the image.
        self.autocast = False
        self.width = check_count("width", width)
        self.depth = check_count("depth", depth)
        self.block_size = check_count("block_size", block_size)
        self.gradient_stream = gradient_stream
        self.gate_threshold = check_range("gate_threshold", gate_threshold, -math.inf, math.inf)

    def build(self, images_shape, gradient_maps_shape=None):
        self._check_streams(gradient_maps_shape)
        policy = self.dtype_policy
        self.unshuffle = PixelUnshuffle(self.block_size, dtype=policy, name="unshuffle")
        self.unshuffle.build(images_shape)
        folded_shape = self.unshuffle.compute_output_shape(images_shape)
        features_shape = (*folded_shape[:-1], self.width)

        self.image_stem = self._stem("image_stem", folded_shape)
        self.image_blocks = self._blocks("image_block", features_shape)
        if self.gradient_stream:
            folded_maps_shape = self.unshuffle.compute_output_shape(gradient_maps_shape)
            self.gradient_stem = self._stem("gradient_stem", folded_maps_shape)
            self.gradient_blocks = self._blocks("gradient_block", features_shape)
            self.fusion_blocks = [
                self.make_fusion_block(dtype=policy, name=f"fusion_block_{stage}")
                for stage in range(self.depth)
            ]
            for fusion_block in self.fusion_blocks:
                fusion_block.build([features_shape, features_shape])

        streams = 2 if self.gradient_stream else 1
        self.correction = keras.layers.Conv2D(
            folded_shape[-1],
            3,
            padding="same",
            data_format="channels_last",
            kernel_initializer="zeros",
            dtype=policy,
            name="correction",
        )
        all_features_shape = (*features_shape[:-1], streams * self.width)
        self.correction.build(all_features_shape)
        self.attack_gate = AttackGate(dtype=policy, name="attack_gate")
        self.attack_gate.build(all_features_shape)
        self.shuffle = PixelShuffle(self.block_size, dtype=policy, name="shuffle")
        self.shuffle.build(folded_shape)
        self.built = True

    def _stem(self, name, folded_shape):
        stem = keras.layers.Conv2D(
            self.width,
            3,
            padding="same",
            data_format="channels_last",
            dtype=self.dtype_policy,
            name=name,
        )
        stem.build(folded_shape)
        return stem

    def _blocks(self, name, features_shape):
        blocks = [
            ResidualBlock(dtype=self.dtype_policy, name=f"{name}_{stage}")
            for stage in range(self.depth)
        ]
        for block in blocks:
            block.build(features_shape)
        return blocks

    def make_fusion_block(self, **kwargs):
        """Makes the layer that joins the streams of one stage; a subclass may make another.

        Args:
            **kwargs: The usual arguments of a Keras layer (`name`, `dtype`).

        Returns:
            A Keras layer from a pair of feature tensors to a pair of the same shape.
        """
        return FusionBlock(**kwargs)

    def call(self, images, gradient_maps=None):
        restored, _ = self.restore_with_gate(images, gradient_maps)
        return restored

    def restore_with_gate(self, images, gradient_maps=None, gate_threshold=None):
        """Restores images, and tells how far the attack gate opened.

        The gate learns from the restoration alone, unless its logits get a loss of
        their own, as in `keras_trn.gradient_maps.EstimatedLabel`.

        Args:
            images: Tensor of shape `(batch, height, width, channels)` in [0, 1].
            gradient_maps: As in a call.
            gate_threshold: Overrides the network's own.

        Returns:
            The restored images, and the logits of the gate before the threshold, of
            shape `(batch, 1)`, both float32.
        """
        self._check_streams(gradient_maps)
        images = ops.cast(images, "float32")
        if self.gradient_stream:
            features = self._two_stream_features(images, gradient_maps)
        else:
            features = self._single_stream_features(images)
        features = ops.relu(features)
        attack_logits = ops.cast(self.attack_gate(features), images.dtype)
        correction = ops.cast(self.shuffle(self.correction(features)), images.dtype)
        height, width = ops.shape(images)[1], ops.shape(images)[2]
        correction = correction[:, :height, :width, :]
        threshold = self.gate_threshold if gate_threshold is None else gate_threshold
        gate = ops.sigmoid(attack_logits - threshold)[:, :, None, None]
        return ops.clip(images + gate * correction, 0.0, 1.0), attack_logits

    def _single_stream_features(self, images):
        features = self.image_stem(self.unshuffle(images))
        for block in self.image_blocks:
            features = block(features)
        return features

    def _two_stream_features(self, images, gradient_maps):
        image_features = self.image_stem(self.unshuffle(images))
        gradient_features = self.gradient_stem(self.unshuffle(gradient_maps))
        for image_block, gradient_block, fusion_block in zip(
            self.image_blocks, self.gradient_blocks, self.fusion_blocks, strict=True
        ):
            image_features = image_block(image_features)
            gradient_features = gradient_block(gradient_features)
            image_features, gradient_features = fusion_block([image_features, gradient_features])
        return ops.concatenate([image_features, gradient_features], axis=-1)

    def _check_streams(self, gradient_maps):
        if self.gradient_stream and gradient_maps is None:
            raise ValueError(
                "This restoration network has a gradient stream and expects gradient maps: "
                "call it as `restorer(images, gradient_maps=maps)`, or build it with "
                "`gradient_stream=False`."
            )
        if not self.gradient_stream and gradient_maps is not None:
            raise ValueError(
                "This restoration network was built with `gradient_stream=False` and takes "
                "no gradient maps: call it as `restorer(images)`."
            )

    def compute_output_shape(self, images_shape, gradient_maps_shape=None):
        return images_shape

    def compute_output_spec(self, images, gradient_maps=None):
        self._check_streams(gradient_maps)
        return keras.KerasTensor(images.shape, dtype="float32")

    def single_stream_baseline(self, images_shape, parameters):
        """Makes the single-stream network of a given size, for fair comparisons.

        A second stream and a gradient map that learns bring parameters with them,
        so a single stream of the same width would be a straw man. This one has
        the depth and block size of this network, and the width whose number of
        parameters comes nearest to the one given.

        Args:
            images_shape: Shape of the images, `(batch, height, width, channels)`;
                batch, height and width may be `None`.
            parameters: Number of parameters that it is to have: those of
                the two-stream network and of its gradient map.

        Returns:
            An unbuilt `TwoStreamRestorationNetwork` with `gradient_stream=False`.

        Example:
            ```python
            two_streams = keras_trn.TwoStreamRestorationNetwork(width=16, depth=2)
            shape = (None, 28, 28, 1)
            two_streams.build(shape, shape)
            baseline = two_streams.single_stream_baseline(shape, two_streams.count_params())
            assert not baseline.gradient_stream and baseline.width > two_streams.width
            ```
        """

        def baseline(width):
            config = {**self.get_config(), "width": width, "gradient_stream": False}
            return TwoStreamRestorationNetwork.from_config(
                {**config, "name": f"{self.name}_baseline"}
            )

        def size(width):
            network = baseline(width)
            network.build(images_shape)
            return network.count_params()

        # The size grows with the width: the first width that reaches it, or the one before.
        widest = 1
        while size(widest) < parameters:
            widest *= 2
        reached = bisect.bisect_left(range(widest), parameters, lo=1, key=size)
        nearest = min([max(reached - 1, 1), reached], key=lambda w: abs(size(w) - parameters))
        return baseline(nearest)

    def get_config(self):
        return {
            **super().get_config(),
            "name": self.name,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "width": self.width,
            "depth": self.depth,
            "block_size": self.block_size,
            "gradient_stream": self.gradient_stream,
            "gate_threshold": self.gate_threshold,
        }


def _check_precision(policy):
    """Refuses weights of half precision, in which training ends in NaN or does not move."""
    kept_in = policy.variable_dtype
    if kept_in in ("float16", "bfloat16"):
        raise ValueError(
            f"The restorer would keep its weights in {kept_in}, which is too coarse to train them. "
            f"Give it dtype='mixed_{kept_in}', with float32 weights, or dtype='float32'. Without "
            "a dtype it follows Keras' global policy, as `keras.config.set_dtype_policy` or the "
            "entry 'floatx' of keras.json has set it."
        )
