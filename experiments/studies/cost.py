"""Compares restoring an image with classifying it, for the models of CIFAR-10.

`python -m experiments.studies.cost results/cost_color_images.json`

It counts operations with TensorFlow's profiler, and takes times as a graph and under XLA, with and
without the convolutions of oneDNN. The weights are random, which does not change times.
"""

import functools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from experiments.recipes import cifar10
from experiments.writing import write_results
from keras_trn.evaluation.environment import describe_environment
from keras_trn.evaluation.tables import markdown_table

Functions = Mapping[str, Callable[..., Any]]


def seconds_in_turn(functions: Functions, repeats: int) -> dict[str, list[float]]:
    """Times functions in turn, after a first call; a returned float replaces the time."""
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            started = time.perf_counter()
            took = function()
            if not isinstance(took, float):
                took = time.perf_counter() - started
            seconds[name].append(took)
    return seconds


def gradient_of(classifier: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """Makes a function of one forward and one backward pass."""

    def forward_and_backward(images: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = classifier(images, training=False)
        return tape.gradient(logits, images)

    return forward_and_backward


def count_operations(function: Callable[..., Any], shape: tuple[int, ...]) -> int:
    """Counts the floating-point operations of a function of a tensor of this shape."""
    graph = tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec(shape)).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options = tf.compat.v1.profiler.ProfileOptionBuilder(options).with_empty_output().build()
    node = tf.compat.v1.profiler.profile(graph, cmd="op", options=options)
    operations = node.total_float_ops
    # Each type of operation is the child of the previous one.
    while node.children:
        (node,) = node.children
        # TensorFlow never computes the gradients of the filters in the graph.
        if node.name == "Conv2DBackpropFilter":
            operations -= node.float_ops
    return operations


def relative(costs: Mapping[str, float]) -> dict[str, float]:
    """Divides all costs by the bare classifier's."""
    return {name: round(value / costs["bare"], 2) for name, value in costs.items()}


def measure_restoration(onednn: bool, batch_size: int, repeats: int) -> dict[str, Any]:
    """Counts operations and takes times in a new process, which imports TensorFlow itself."""
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1" if onednn else "0"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure_restoration, (batch_size, repeats))


def _measure_restoration(batch_size: int, repeats: int) -> dict[str, Any]:
    keras.utils.set_random_seed(0)
    classifier = cifar10.RECIPE.classifier.make()
    passes = {
        "bare": functools.partial(classifier, training=False),
        "forward_and_backward": gradient_of(classifier),
        "restoration": cifar10.RECIPE.protect(classifier).restore_batch,
    }
    images = tf.random.uniform((batch_size, 32, 32, 3))
    operations = {name: count_operations(one, images.shape) for name, one in passes.items()}
    milliseconds = {}
    for mode in ("graph", "xla"):
        compiled = {
            name: functools.partial(
                tf.function(function, autograph=False, jit_compile=mode == "xla"), images
            )
            for name, function in passes.items()
        }
        milliseconds[mode] = {
            name: round(1000 * float(np.median(values)) / batch_size, 4)
            for name, values in seconds_in_turn(compiled, repeats).items()
        }
    return {
        "operations_per_image": {name: count // batch_size for name, count in operations.items()},
        "milliseconds_per_image": milliseconds,
        "relative_to_bare": {
            "operations": relative(operations),
            **{mode: relative(times) for mode, times in milliseconds.items()},
        },
    }


def main(path: Path, batch_size: int = 128, repeats: int = 100) -> None:
    """Measures the cost of restoring, and writes the results and a table."""
    results = {
        "batch_size": batch_size,
        "repeats": repeats,
        "with_onednn": measure_restoration(True, batch_size, repeats),
        "without_onednn": measure_restoration(False, batch_size, repeats),
        "environment": describe_environment(),
    }
    write_results(path, results, to_markdown(results))


def to_markdown(results: Mapping[str, Any]) -> str:
    """Makes a table of the costs as multiples of the bare classifier's."""
    rows = []
    names = {
        "bare": "the classifier alone",
        "forward_and_backward": "its forward and backward pass",
        "restoration": "restoring an image",
    }
    for key, name in names.items():
        row = [name, f"{results['with_onednn']['relative_to_bare']['operations'][key]:.2f}"]
        for setting in ("with_onednn", "without_onednn"):
            milliseconds = results[setting]["milliseconds_per_image"]["graph"][key]
            ratio = results[setting]["relative_to_bare"]["graph"][key]
            row += [f"{milliseconds:.2f} ms", f"{ratio:.2f}"]
        rows.append(row)
    header = ["", "operations", "with oneDNN", "", "without oneDNN", ""]
    return markdown_table(header, rows, "lrrrrr")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
