"""Restoration networks from an image, with or without its gradient map, to a restored image."""

import bisect
import math
from typing import Any
from typing import Self

import keras
import tensorflow as tf
from keras import ops

from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_range
from keras_trn.layers import AttackGate
from keras_trn.layers import Downsample
from keras_trn.layers import FusionBlock
from keras_trn.layers import PixelShuffle
from keras_trn.layers import PixelUnshuffle
from keras_trn.layers import ResidualBlock
from keras_trn.layers import Upsample
from keras_trn.restorer import Restorer
from keras_trn.types import Config


class RestorationNetwork(Restorer):
    """Adds a gated correction to images; the base class of both restoration networks.

    A subclass defines `build_streams` and `stream_features`, and documents the arguments. The
    last convolution starts at zero, so an untrained network returns its input unchanged.
    """

    streams = 1

    def __init__(
        self,
        width: int = 32,
        depth: int = 4,
        block_size: int = 2,
        gate_threshold: float = 0.0,
        levels: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check_precision(self.dtype_policy)
        # The output is the image plus a correction, and float16 would round it.
        self.autocast = False
        self.width = check_count("width", width)
        self.depth = check_count("depth", depth)
        self.block_size = check_count("block_size", block_size)
        self.levels = check_count("levels", levels)
        self.gate_threshold = check_range("gate_threshold", gate_threshold, -math.inf, math.inf)

    @property
    def stages(self) -> list[int]:
        """Returns the level of each stage, down to the coarsest resolution and up again."""
        down = list(range(self.levels))
        return [level for level in down + down[-2::-1] for _ in range(self.depth)]

    def build(self, images_shape: tuple, gradient_maps_shape: tuple | None = None) -> None:
        self._check_maps(gradient_maps_shape)
        self.unshuffle = PixelUnshuffle(self.block_size, dtype=self.dtype_policy, name="unshuffle")
        self.unshuffle.build(images_shape)
        self.build_streams(images_shape, gradient_maps_shape)

        folded_shape = self.unshuffle.compute_output_shape(images_shape)
        features_shape = (*folded_shape[:-1], self.streams * self.width)
        self.correction = self._convolution("correction", folded_shape[-1], "zeros")
        self.correction.build(features_shape)
        self.attack_gate = AttackGate(dtype=self.dtype_policy, name="attack_gate")
        self.attack_gate.build(features_shape)
        self.shuffle = PixelShuffle(self.block_size, dtype=self.dtype_policy, name="shuffle")
        self.shuffle.build(folded_shape)
        self.built = True

    def build_streams(self, images_shape: tuple, gradient_maps_shape: tuple | None) -> None:
        """Creates the layers of the streams."""
        raise NotImplementedError

    def stream_features(self, images: tf.Tensor, gradient_maps: tf.Tensor | None) -> tf.Tensor:
        """Computes the features of all streams, concatenated along the channels."""
        raise NotImplementedError

    def _stream(
        self, name: str, inputs_shape: Any
    ) -> tuple[keras.Layer, list[keras.Layer], list[keras.Layer]]:
        """Builds the stem, the residual blocks and the resampling layers of one stream."""
        folded_shape = self.unshuffle.compute_output_shape(inputs_shape)
        stem = self._convolution(f"{name}_stem", self.width, "glorot_uniform")
        stem.build(folded_shape)
        resamplings: list[keras.Layer] = []
        shapes = [stem.compute_output_shape(folded_shape)]
        for level in range(1, self.levels):
            layer = Downsample(
                self.width * 2**level, dtype=self.dtype_policy, name=f"{name}_down_{level}"
            )
            layer.build(shapes[-1])
            resamplings.append(layer)
            shapes.append(layer.compute_output_shape(shapes[-1]))
        for level in reversed(range(1, self.levels)):
            layer = Upsample(dtype=self.dtype_policy, name=f"{name}_up_{level}")
            layer.build([shapes[level], shapes[level - 1]])
            resamplings.append(layer)
        blocks = [
            ResidualBlock(dtype=self.dtype_policy, name=f"{name}_block_{stage}")
            for stage in range(len(self.stages))
        ]
        for block, level in zip(blocks, self.stages, strict=True):
            block.build(shapes[level])
        return stem, blocks, resamplings

    def _at_resolution(
        self, stage: int, features: Any, skipped: list[Any], resamplings: list[keras.Layer]
    ) -> Any:
        """Brings the features of a stream to the resolution of a stage."""
        level, previous = self.stages[stage], self.stages[max(stage - 1, 0)]
        if level > previous:
            skipped.append(features)
            return resamplings[previous](features)
        if level < previous:
            return resamplings[-level - 1]([features, skipped.pop()])
        return features

    def _convolution(self, name: str, filters: int, kernel_initializer: str) -> keras.Layer:
        return keras.layers.Conv2D(
            filters,
            3,
            padding="same",
            data_format="channels_last",
            kernel_initializer=kernel_initializer,
            dtype=self.dtype_policy,
            name=name,
        )

    def call(self, images: tf.Tensor, gradient_maps: tf.Tensor | None = None) -> tf.Tensor:
        return self.restore_with_gate(images, gradient_maps)[0]

    def restore_with_gate(
        self,
        images: tf.Tensor,
        gradient_maps: tf.Tensor | None = None,
        gate_threshold: float | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Restores images, and returns the logits of the attack gate.

        The gate learns from the restoration alone, unless you give its logits their own loss, as
        `keras_trn.gradient_maps.EstimatedLabel` does.

        Args:
            images: Shape `(batch, height, width, channels)`, in [0, 1].
            gradient_maps: As in a call.
            gate_threshold: Overrides the threshold of the network.

        Returns:
            The restored images, and the logits of the gate before the threshold, of
            shape `(batch, 1)`. Both are float32.
        """
        self._check_maps(gradient_maps)
        images = ops.cast(images, "float32")
        features = ops.relu(self.stream_features(images, gradient_maps))
        correction = ops.cast(self.shuffle(self.correction(features)), images.dtype)
        height, width = ops.shape(images)[1], ops.shape(images)[2]
        attack_logits = ops.cast(self.attack_gate(features), images.dtype)
        threshold = self.gate_threshold if gate_threshold is None else gate_threshold
        gate = ops.sigmoid(attack_logits - threshold)[:, :, None, None]
        restored = images + gate * correction[:, :height, :width, :]
        return ops.clip(restored, 0.0, 1.0), attack_logits

    def _check_maps(self, gradient_maps: Any) -> None:
        """Checks that gradient maps, or their shape, are present exactly when needed."""
        if self.takes_gradient_maps and gradient_maps is None:
            raise ValueError(
                f"{type(self).__name__} expects gradient maps: call it as `restorer(images, "
                "gradient_maps=maps)`, or use `keras_trn.SingleStreamRestorationNetwork`."
            )
        if not self.takes_gradient_maps and gradient_maps is not None:
            raise ValueError(
                f"{type(self).__name__} takes no gradient maps: call it as `restorer(images)`, "
                "or use `keras_trn.TwoStreamRestorationNetwork`."
            )

    def compute_output_shape(
        self, images_shape: tuple, gradient_maps_shape: tuple | None = None
    ) -> tuple:
        return images_shape

    def compute_output_spec(
        self, images: keras.KerasTensor, gradient_maps: keras.KerasTensor | None = None
    ) -> keras.KerasTensor:
        self._check_maps(gradient_maps)
        return keras.KerasTensor(images.shape, dtype="float32")

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "width": self.width,
            "depth": self.depth,
            "block_size": self.block_size,
            "gate_threshold": self.gate_threshold,
            "levels": self.levels,
        }


@keras.saving.register_keras_serializable(package="keras_trn")
class SingleStreamRestorationNetwork(RestorationNetwork):
    """Restores images without gradient maps.

    It is the baseline for the second stream, with the same blocks as
    `TwoStreamRestorationNetwork`. `EstimatedLabel` makes its first restoration with it.

    Args:
        width: Number of filters; at least 1.
        depth: Number of residual blocks at each resolution; at least 1.
        block_size: Side of the blocks that `PixelUnshuffle` folds into the channels. 1 works
            at full resolution; 2 costs a quarter.
        gate_threshold: Amount to subtract from the logit of the attack gate. A higher value
            changes fewer images. `ProtectedClassifier.calibrate` sets it.
        levels: Number of resolutions, each half the one before, with twice the filters. 1 works
            at one resolution. With more, the network is a U-Net that sees the whole image.
        **kwargs: The usual arguments of a Keras model (`name`, `dtype`).

    Call arguments:
        images: Shape `(batch, height, width, channels)`, in [0, 1]; any size.

    Returns:
        The restored images: a float32 tensor of the shape of `images`, in [0, 1].

    Raises:
        ValueError: If an argument is malformed, or you pass gradient maps.

    Example:
        ```python
        restorer = keras_trn.SingleStreamRestorationNetwork(width=16, depth=2)
        assert restorer(images).shape == images.shape
        ```
    """

    def build_streams(self, images_shape: tuple, gradient_maps_shape: tuple | None) -> None:
        self.image_stem, self.image_blocks, self.image_resamplings = self._stream(
            "image", images_shape
        )

    def stream_features(self, images: tf.Tensor, gradient_maps: tf.Tensor | None) -> tf.Tensor:
        features = self.image_stem(self.unshuffle(images))
        skipped: list[Any] = []
        for stage, block in enumerate(self.image_blocks):
            features = self._at_resolution(stage, features, skipped, self.image_resamplings)
            features = block(features)
        return features

    @classmethod
    def with_parameters(cls, parameters: int, images_shape: tuple, **kwargs: Any) -> Self:
        """Makes a network with a given number of parameters, for fair comparisons.

        A second stream and a learned gradient map add parameters, so a single stream of the
        same width would be a weak baseline. This method picks the width that comes nearest.

        Args:
            parameters: Number of parameters, such as `protected.restorer.count_params() +
                protected.gradient_map.count_params()`.
            images_shape: `(batch, height, width, channels)`; all but the channels may be `None`.
            **kwargs: The arguments of the network, except `width`.

        Returns:
            An unbuilt network.

        Example:
            ```python
            baseline = keras_trn.SingleStreamRestorationNetwork.with_parameters(
                50_000, (None, 28, 28, 1), depth=2
            )
            baseline.build((None, 28, 28, 1))
            assert 45_000 < baseline.count_params() < 55_000
            ```
        """

        def size(width: int) -> int:
            network = cls(width=width, **kwargs)
            network.build(images_shape)
            return network.count_params()

        widest = 1
        while size(widest) < parameters:
            widest *= 2
        reached = bisect.bisect_left(range(widest), parameters, lo=1, key=size)
        candidates = [max(reached - 1, 1), reached]
        nearest = min(candidates, key=lambda width: abs(size(width) - parameters))
        return cls(width=nearest, **kwargs)


@keras.saving.register_keras_serializable(package="keras_trn")
class TwoStreamRestorationNetwork(RestorationNetwork):
    """Restores images from the images and their gradient maps.

    One stream reads the image, the other its gradient map. After each pair of residual
    blocks, a Fusion Block exchanges information between the streams. An `AttackGate` scales
    the resulting correction, and learns to close for benign images. The last convolution
    starts at zero, so an untrained network returns its input unchanged.

    Source: the two streams and the Fusion Block of Hong et al., arXiv 2202.01117. The sizes,
    the blocks and the residual output are choices of this project.

    Args:
        width: Number of filters in each stream; at least 1.
        depth: Number of stages at each resolution: a residual block in each stream, then a
            Fusion Block.
        block_size: Side of the blocks that `PixelUnshuffle` folds into the channels. 1 works
            at full resolution; 2 costs a quarter.
        fusion: `"product"` for `keras_trn.layers.FusionBlock`, or a Keras layer from a pair of
            feature tensors to a pair of the same shape. Each stage gets a new layer with its
            configuration.
        gate_threshold: Amount to subtract from the logit of the attack gate. A higher value
            changes fewer images. `ProtectedClassifier.calibrate` sets it.
        levels: Number of resolutions, each half the one before, with twice the filters. 1 works
            at one resolution. With more, the network is a U-Net that sees the whole image.
        **kwargs: The usual arguments of a Keras model (`name`, `dtype`). With
            `dtype="mixed_float16"` the streams run in float16; restored images are float32.

    Call arguments:
        images: Shape `(batch, height, width, channels)`, in [0, 1]; any size.
        gradient_maps: Shape `(batch, height, width, map_channels)`, as an estimator of
            `keras_trn.gradient_maps` returns them.

    Returns:
        The restored images: a float32 tensor of the shape of `images`, in [0, 1].

    Raises:
        ValueError: If an argument is malformed, the weights would be float16 or bfloat16, or
            the gradient maps are missing.

    Example:
        ```python
        maps = keras.random.normal((8, 8, 8, 1))
        restorer = keras_trn.TwoStreamRestorationNetwork(width=16, depth=2)
        assert restorer(images, gradient_maps=maps).shape == images.shape
        ```
    """

    takes_gradient_maps = True
    streams = 2

    def __init__(
        self,
        width: int = 32,
        depth: int = 4,
        block_size: int = 2,
        fusion: Any = "product",
        gate_threshold: float = 0.0,
        levels: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(width, depth, block_size, gate_threshold, levels, **kwargs)
        if fusion != "product" and not isinstance(fusion, keras.Layer):
            raise ValueError(f"fusion must be 'product' or a Keras layer, received {fusion!r}.")
        # Not the layer itself, because Keras would treat it as a part of the network.
        self._fusion_class: Any = FusionBlock if fusion == "product" else type(fusion)
        self._fusion_config = None if fusion == "product" else fusion.get_config()

    def build_streams(self, images_shape: tuple, gradient_maps_shape: tuple | None) -> None:
        self.image_stem, self.image_blocks, self.image_resamplings = self._stream(
            "image", images_shape
        )
        self.gradient_stem, self.gradient_blocks, self.gradient_resamplings = self._stream(
            "gradient", gradient_maps_shape
        )
        self.fusion_blocks = [self._fusion_block(stage) for stage in range(len(self.stages))]
        for fusion_block, level in zip(self.fusion_blocks, self.stages, strict=True):
            features_shape = (None, None, None, self.width * 2**level)
            fusion_block.build([features_shape, features_shape])

    def _fusion_block(self, stage: int) -> keras.Layer:
        config = self._fusion_config or {"dtype": self.dtype_policy}
        return self._fusion_class.from_config({**config, "name": f"fusion_block_{stage}"})

    def stream_features(self, images: tf.Tensor, gradient_maps: tf.Tensor | None) -> tf.Tensor:
        image_features = self.image_stem(self.unshuffle(images))
        gradient_features = self.gradient_stem(self.unshuffle(gradient_maps))
        skipped: tuple[list[Any], list[Any]] = ([], [])
        for stage, fusion_block in enumerate(self.fusion_blocks):
            image_features = self._at_resolution(
                stage, image_features, skipped[0], self.image_resamplings
            )
            gradient_features = self._at_resolution(
                stage, gradient_features, skipped[1], self.gradient_resamplings
            )
            image_features = self.image_blocks[stage](image_features)
            gradient_features = self.gradient_blocks[stage](gradient_features)
            image_features, gradient_features = fusion_block([image_features, gradient_features])
        return ops.concatenate([image_features, gradient_features], axis=-1)

    def get_config(self) -> Config:
        fusion: str | Config = "product"
        if self._fusion_config is not None:
            layer = self._fusion_class.from_config(dict(self._fusion_config))
            fusion = keras.saving.serialize_keras_object(layer)
        return {**super().get_config(), "fusion": fusion}

    @classmethod
    def from_config(cls, config: Config) -> RestorationNetwork:
        config = dict(config)
        # Models saved by version 0.1 have one class for both networks.
        if not config.pop("gradient_stream", True):
            return SingleStreamRestorationNetwork.from_config(config)
        if isinstance(config.get("fusion"), dict):
            config["fusion"] = keras.saving.deserialize_keras_object(config["fusion"])
        return cls(**config)


def _check_precision(policy: keras.DTypePolicy) -> None:
    """Refuses half-precision weights, with which training ends in NaN or stalls."""
    kept_in = policy.variable_dtype
    if kept_in in ("float16", "bfloat16"):
        raise ValueError(
            f"The restorer would keep its weights in {kept_in}, which is too coarse to train. "
            f"Give it dtype='mixed_{kept_in}', with float32 weights, or dtype='float32'. Without "
            "a dtype it follows Keras' global policy from `keras.config.set_dtype_policy` or "
            "'floatx' in keras.json."
        )
