"""Compares predicting behind the restorer with predicting without it, in time and operations."""

import functools
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

import keras_trn
from experiments.benchmark.ratios import medians
from experiments.benchmark.ratios import ratio
from experiments.benchmark.settings import Settings
from experiments.benchmark.settings import load_preset
from experiments.recipes.fashion_mnist import IMAGE_SHAPE
from experiments.studies.cost import count_operations
from experiments.studies.cost import gradient_of
from experiments.studies.cost import seconds_in_turn

# A function of a tensor, and the shape of the tensor for one image.
Part = tuple[Callable[[tf.Tensor], Any], tuple[int, ...]]


def measure(settings: Settings) -> dict[str, Any]:
    """Counts the operations of each part, and times it on one image and on a batch."""
    parts = parts_of(load_preset())
    operations = {
        name: count_operations(part, (1, *shape)) for name, (part, shape) in parts.items()
    }
    sizes = {"one_image": 1, "batch": settings.batch_size}
    return {
        # A multiplication and an addition count as two operations.
        "operations_per_image": operations,
        "operations_over_bare": {
            name: round(count / operations["bare"], 3) for name, count in operations.items()
        },
        **{name: _time(parts, size, settings.quick_repeats) for name, size in sizes.items()},
    }


def parts_of(protected: keras_trn.ProtectedClassifier) -> dict[str, Part]:
    """Returns the bare and the protected classifier, and the parts of the latter."""
    classifier, restorer, gradient_map = (
        protected.classifier,
        protected.restorer,
        protected.gradient_map,
    )
    folded_shape = restorer.unshuffle.compute_output_shape((None, *IMAGE_SHAPE))
    features_shape = (*folded_shape[1:-1], restorer.width)
    map_channels = gradient_map.map_channels(IMAGE_SHAPE[-1], protected.num_classes)
    maps_shape = (*IMAGE_SHAPE[:-1], map_channels)

    def classifier_passes(images: tf.Tensor) -> list[tf.Tensor]:
        # Of other images each time, lest TensorFlow takes equal passes for one.
        others = range(1, gradient_map.forward_passes(protected.num_classes))
        return [
            gradient_of(classifier)(images),
            *(classifier(images / (1 + number), training=False) for number in others),
        ]

    def restore(maps: tf.Tensor) -> tf.Tensor:
        return restorer(maps[..., : IMAGE_SHAPE[-1]], gradient_maps=maps)

    def residual_blocks(features: tf.Tensor) -> tf.Tensor:
        for block in (*restorer.image_blocks, *restorer.gradient_blocks):
            features = block(features)
        return features

    def fusion_blocks(features: tf.Tensor) -> list[tf.Tensor]:
        streams = [features, -features]
        for block in restorer.fusion_blocks:
            streams = block(streams)
        return streams

    def pixel_shuffles(maps: tf.Tensor) -> list[tf.Tensor]:
        images = restorer.unshuffle(maps[..., : IMAGE_SHAPE[-1]])
        # Both the first restoration and the restorer unfold a correction.
        return [restorer.unshuffle(maps), restorer.shuffle(images), restorer.shuffle(-images)]

    return {
        "bare": (functools.partial(classifier, training=False), IMAGE_SHAPE),
        "protected": (functools.partial(protected, training=False), IMAGE_SHAPE),
        "classifier_passes": (classifier_passes, IMAGE_SHAPE),
        "gradient": (gradient_of(classifier), IMAGE_SHAPE),
        "first_restoration": (gradient_map.restore_first, IMAGE_SHAPE),
        "two_streams": (restore, maps_shape),
        "residual_blocks": (residual_blocks, features_shape),
        "fusion_blocks": (fusion_blocks, features_shape),
        "pixel_shuffles": (pixel_shuffles, maps_shape),
    }


def _time(parts: Mapping[str, Part], batch_size: int, repeats: int) -> dict[str, Any]:
    functions = {
        name: functools.partial(
            tf.function(part, autograph=False), tf.random.uniform((batch_size, *shape))
        )
        for name, (part, shape) in parts.items()
    }
    seconds = seconds_in_turn(functions, repeats)
    return {
        "images": batch_size,
        "seconds": medians(seconds),
        "over_bare": {name: ratio(seconds, name, "bare") for name in parts},
    }
