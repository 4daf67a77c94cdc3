r"""Measures what restoring an image costs beside classifying it, for images of 32 by 32 pixels.

`python -m experiments.cost_color_images results/cost_color_images.json`

Times batches of 128 images: the bare classifier, one forward and one backward pass of it,
and the restoration with its gradient map, one after the other, several times over, as a
TensorFlow graph and compiled by XLA; all of it with the convolutions of oneDNN and without,
as TensorFlow chooses by itself between them. Beside the times stands the floor: the same
ratio in floating-point operations, as TensorFlow's profiler counts them. Random weights will
do, as they take as long as trained ones.
"""

import functools
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from experiments import color_images
from keras_trn.evaluation.environment import describe_environment

BATCH_SIZE = 128
REPEATS = 100


def make_passes():
    """The functions that are timed, by name, from images to a tensor."""
    classifier = color_images.make_classifier()
    protected = color_images.protect(classifier)
    protected.build((None, *color_images.IMAGE_SHAPE))
    bare = functools.partial(classifier, training=False)

    def forward_and_backward(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = bare(images)
        return tape.gradient(logits, images)

    return {
        "bare": bare,
        "forward_and_backward": forward_and_backward,
        "restoration": protected.restore_batch,
    }


def count_operations(function, shape):
    """Counts the floating-point operations of a function of a tensor of this shape."""
    graph = tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec(shape)).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options = tf.compat.v1.profiler.ProfileOptionBuilder(options).with_empty_output().build()
    node = tf.compat.v1.profiler.profile(graph, cmd="op", options=options)
    operations = node.total_float_ops
    # Each type of operation is the child of the one before.
    while node.children:
        (node,) = node.children
        # The graph holds the gradients of the filters, too, which are never computed.
        if node.name == "Conv2DBackpropFilter":
            operations -= node.float_ops
    return operations


def time_all(functions, images):
    """Times functions in turn, and returns the median of the milliseconds for an image."""
    for function in functions.values():
        function(images)
    seconds = {name: [] for name in functions}
    for _ in range(REPEATS):
        for name, function in functions.items():
            started = time.perf_counter()
            function(images)
            seconds[name].append(time.perf_counter() - started)
    return {
        name: round(1000 * float(np.median(values)) / len(images), 4)
        for name, values in seconds.items()
    }


def relative(values):
    """Divides all by the cost of the bare classifier."""
    return {name: round(value / values["bare"], 2) for name, value in values.items()}


def measure():
    """Counts the operations, and takes the times."""
    keras.utils.set_random_seed(0)
    passes = make_passes()
    images = tf.random.uniform((BATCH_SIZE, *color_images.IMAGE_SHAPE))
    operations = {
        name: count_operations(function, images.shape) for name, function in passes.items()
    }
    compiled = {
        mode: {
            name: tf.function(function, autograph=False, jit_compile=mode == "xla")
            for name, function in passes.items()
        }
        for mode in ("graph", "xla")
    }
    milliseconds = {mode: time_all(functions, images) for mode, functions in compiled.items()}
    return {
        "operations_per_image": {name: count // BATCH_SIZE for name, count in operations.items()},
        "milliseconds_per_image": milliseconds,
        "relative_to_bare": {
            "operations": relative(operations),
            **{mode: relative(times) for mode, times in milliseconds.items()},
        },
    }


def measure_with(onednn):
    """Measures in a fresh process, as TensorFlow reads the setting when it is imported."""
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1" if onednn else "0"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure)


def main(path):
    """Runs the measurement and writes it to `path`."""
    results = {
        "batch_size": BATCH_SIZE,
        "repeats": REPEATS,
        "with_onednn": measure_with(onednn=True),
        "without_onednn": measure_with(onednn=False),
        "environment": describe_environment(),
    }
    path = Path(path)
    path.write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(to_markdown(results))
    print(to_markdown(results))


def to_markdown(results):
    """Makes a table of the costs, each beside that of the bare classifier."""
    lines = [
        "| | operations | with oneDNN | | without oneDNN | |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
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
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(sys.argv[1])
