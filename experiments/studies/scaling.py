"""Measures how crafting scales with the workers of a Ray cluster.

    TF_NUM_INTRAOP_THREADS=1 python -m experiments.studies.scaling results/scaling.json

It crafts 4,000 images of Fashion-MNIST with PGD of 20 steps on one worker of one core, and on two.
A worker's first batch, for which it starts and traces, is left out. It also times the passes of
PGD on images of 224 x 224, and computes from them what ImageNet's training images would take.
"""

import functools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_trn
from experiments.recipes import fashion_mnist
from experiments.studies.cost import gradient_of
from experiments.studies.cost import seconds_in_turn
from keras_trn.cluster import Cluster
from keras_trn.cluster import Job
from keras_trn.cluster import map_jobs
from keras_trn.digests import digest_of_arrays
from keras_trn.digests import digest_of_json
from keras_trn.evaluation.environment import describe_environment

IMAGES, BATCH_SIZE = 4000, 100
ATTACK = keras_trn.attacks.ProjectedGradientDescent(fashion_mnist.EPSILON, steps=20, seed=0)
IMAGENET_IMAGES = 1_281_167
PHOTOGRAPHS = 2


class TimedCrafting:
    """Crafts a batch, and tells who did it, and when it was finished."""

    def __init__(self, classifier: keras.Model) -> None:
        self.classifier = classifier

    def __call__(self, images: np.ndarray) -> dict[str, Any]:
        adversarial = ATTACK(self.classifier, images)
        return {
            "worker": os.getpid(),
            "time": time.time(),
            "digest": digest_of_arrays(adversarial.numpy()),
        }


def measure_workers(classifier: keras.Model, images: np.ndarray, workers: int) -> dict[str, Any]:
    """Crafts all images, and returns the throughput of all workers together."""
    started = time.time()
    starts = range(0, len(images), BATCH_SIZE)
    jobs = (Job(start, (images[start : start + BATCH_SIZE],)) for start in starts)
    cluster = Cluster(workers=workers, cpus_per_worker=1)
    crafted = dict(map_jobs(TimedCrafting(classifier), jobs, cluster))
    of_each: dict[int, list[float]] = {}
    for batch in crafted.values():
        of_each.setdefault(batch["worker"], []).append(batch["time"])
    rates = [
        BATCH_SIZE * (len(times) - 1) / (max(times) - min(times)) for times in of_each.values()
    ]
    return {
        "workers": workers,
        "images_of_each_worker": [BATCH_SIZE * len(times) for times in of_each.values()],
        "images_per_second": round(sum(rates), 2),
        "seconds_with_start": round(time.time() - started, 1),
        "digest": digest_of_json([crafted[start]["digest"] for start in starts]),
    }


def measure_photographs() -> float:
    """Returns the seconds that the passes of PGD take for an image of 224 x 224 on one core."""
    classifier = keras.applications.ResNet50(weights=None, classifier_activation=None)
    one_step = tf.function(gradient_of(classifier), autograph=False)
    images = tf.random.uniform((PHOTOGRAPHS, 224, 224, 3))
    seconds = seconds_in_turn({"step": functools.partial(one_step, images)}, repeats=3)["step"]
    return ATTACK.steps * float(np.median(seconds)) / PHOTOGRAPHS


def main(path: Path) -> None:
    """Measures, and writes the results."""
    _, _, (images, _) = fashion_mnist.load_arrays()
    preset = keras_trn.ProtectedClassifier.from_preset("trn_fashion_mnist")
    alone, shared = (
        measure_workers(preset.classifier, images[:IMAGES], workers) for workers in (1, 2)
    )
    seconds = measure_photographs()
    core_hours = IMAGENET_IMAGES * seconds / 3600
    efficiency = shared["images_per_second"] / (2 * alone["images_per_second"])
    results = {
        "attack": {"name": ATTACK.name, **ATTACK.get_config()},
        "images": IMAGES,
        "batch_size": BATCH_SIZE,
        "one_worker": alone,
        "two_workers": shared,
        "efficiency": round(efficiency, 3),
        "same_images": alone["digest"] == shared["digest"],
        "imagenet": {
            "classifier": "ResNet50",
            "seconds_per_image": round(seconds, 2),
            "images": IMAGENET_IMAGES,
            "core_hours": round(core_hours),
            "hours": {workers: round(core_hours / workers, 1) for workers in (1, 10, 100, 1000)},
        },
        "environment": describe_environment(),
    }
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
