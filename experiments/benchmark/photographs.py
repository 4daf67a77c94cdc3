"""Computes how long crafting ImageNet's training images takes, from the passes of a few images."""

import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from experiments.benchmark.settings import Settings
from experiments.studies.cost import count_operations
from experiments.studies.cost import gradient_of
from experiments.studies.cost import seconds_in_turn

IMAGE_SHAPE = (224, 224, 3)
IMAGENET_IMAGES = 1_281_167
WORKERS = (1, 10, 100)
REPEATS = 3


def measure(settings: Settings) -> dict[str, Any]:
    """Times the passes of PGD through a ResNet50, on one core."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    one_pass = gradient_of(keras.applications.ResNet50(weights=None, classifier_activation=None))
    images = tf.random.uniform((settings.photographs, *IMAGE_SHAPE))
    compiled = functools.partial(tf.function(one_pass, autograph=False), images)
    seconds = np.median(seconds_in_turn({"pass": compiled}, REPEATS)["pass"])
    # A multiplication and an addition count as two operations.
    multiply_adds = count_operations(one_pass, (1, *IMAGE_SHAPE)) / 2
    seconds_of_pass = float(seconds) / settings.photographs
    return {
        "classifier": "ResNet50",
        "steps": settings.steps,
        "billion_multiply_adds_per_image": round(settings.steps * multiply_adds / 1e9, 1),
        "seconds_per_billion_multiply_adds": round(1e9 * seconds_of_pass / multiply_adds, 4),
        "seconds_per_image": round(settings.steps * seconds_of_pass, 2),
    }


def simulate(measured: dict[str, Any], speedup_of_two: float) -> dict[str, Any]:
    """Computes the hours for ImageNet, if many workers keep the efficiency of two."""
    efficiency = min(1.0, speedup_of_two / 2)
    core_hours = IMAGENET_IMAGES * measured["seconds_per_image"] / 3600
    return {
        **measured,
        "images": IMAGENET_IMAGES,
        "efficiency": round(efficiency, 3),
        "hours": {
            str(workers): round(core_hours / workers / (1.0 if workers == 1 else efficiency), 1)
            for workers in WORKERS
        },
    }
