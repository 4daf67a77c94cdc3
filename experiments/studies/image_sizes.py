"""Measures what protecting costs at larger image sizes: operations, memory and time of training.

`python -m experiments.studies.image_sizes results/image_sizes.json`

The classifier is MobileNetV3Small with 1,000 classes and random weights: the cost does not depend
on their values. Each row is measured in a process of its own, so that its memory is its own.
"""

import functools
import multiprocessing
import resource
import sys
import time
from pathlib import Path
from typing import Any

import keras
import pandas as pd
import tensorflow as tf

import keras_trn
from experiments.studies.cost import count_operations
from experiments.writing import write_results
from keras_trn.evaluation.environment import describe_environment
from keras_trn.evaluation.tables import to_markdown

# Side of the image in pixels, and side of the blocks that the networks fold into the channels.
SIZES = [(32, 2), (64, 2), (128, 4), (224, 4), (224, 8)]
WIDTH, DEPTH, BATCH_SIZE, STEPS = 16, 2, 8, 2
TIMED_STEPS, EPOCH = 10, 10_000


def protect(size: int, block_size: int) -> keras_trn.ProtectedClassifier:
    """Puts an untrained restorer in front of an untrained classifier."""
    classifier = keras.applications.MobileNetV3Small(
        input_shape=(size, size, 3),
        weights=None,
        classes=1000,
        classifier_activation=None,
        include_preprocessing=False,
    )
    settings = {"width": WIDTH, "depth": DEPTH, "block_size": block_size}
    return keras_trn.ProtectedClassifier(
        classifier,
        keras_trn.TwoStreamRestorationNetwork(**settings),
        keras_trn.gradient_maps.EstimatedLabel(**settings),
    )


def peak_memory() -> float:
    """Returns the largest memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(size: int, block_size: int) -> dict[str, Any]:
    """Counts operations, and measures the memory that a training step adds and its time."""
    protected = protect(size, block_size)
    shape = (1, size, size, 3)
    protected.restore(tf.zeros(shape))
    before = peak_memory()
    protected.compile(
        "adam", attack=keras_trn.attacks.ProjectedGradientDescent(8 / 255, steps=STEPS)
    )
    images, labels = tf.random.uniform((BATCH_SIZE, size, size, 3)), tf.zeros(BATCH_SIZE, "int64")
    # The first step also compiles.
    protected.train_on_batch(images, labels)
    memory = peak_memory() - before
    started = time.perf_counter()
    for _ in range(TIMED_STEPS):
        protected.train_on_batch(images, labels)
    seconds = (time.perf_counter() - started) / TIMED_STEPS
    return {
        "size": size,
        "block_size": block_size,
        "classifier_operations": count_operations(
            functools.partial(protected.classifier, training=False), shape
        ),
        "restoration_operations": count_operations(protected.restore_batch, shape),
        "training_step_mebibytes": round(memory),
        "training_step_seconds": round(seconds, 4),
    }


def table(results: dict[str, Any]) -> str:
    """Writes the rows as a table in Markdown."""
    rows, settings = results["rows"], results["settings"]
    frame = pd.DataFrame(
        {
            "image": [f"{row['size']} x {row['size']}" for row in rows],
            "block size": [row["block_size"] for row in rows],
            "width": settings["width"],
            "million operations to classify": [row["classifier_operations"] / 1e6 for row in rows],
            "to restore": [row["restoration_operations"] / 1e6 for row in rows],
            "MiB for a training step": [row["training_step_mebibytes"] for row in rows],
            "minutes for an epoch of 10,000 images": [
                row["training_step_seconds"] / settings["batch_size"] * EPOCH / 60 for row in rows
            ],
        }
    )
    return to_markdown(frame, {name: 0 for name in frame.columns})


def main(path: Path) -> None:
    """Writes the results and the table."""
    context = multiprocessing.get_context("spawn")
    rows = []
    for size in SIZES:
        with context.Pool(1) as pool:
            rows.append(pool.apply(measure, size))
    settings = {
        "width": WIDTH,
        "depth": DEPTH,
        "batch_size": BATCH_SIZE,
        "attack_steps": STEPS,
        "timed_steps": TIMED_STEPS,
    }
    results = {"settings": settings, "rows": rows, "environment": describe_environment()}
    write_results(path, results, table(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
