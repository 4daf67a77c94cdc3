"""Long runs, which `test_survival.py` starts in processes of their own, and kills."""

import dataclasses
import json

import keras
import numpy as np

import keras_trn
from keras_trn import attacks
from tests.helpers import in_batches


@dataclasses.dataclass
class Run:
    """Computes something in a folder that holds a classifier, in many small pieces."""

    cluster: keras_trn.Cluster | str | None = None

    def __call__(self, folder):
        """Runs to the end, and continues what is there."""
        raise NotImplementedError

    def progress(self, folder):
        """Returns the number of pieces that will not be computed again."""
        raise NotImplementedError

    def result(self, folder):
        """Returns what must be the same, whether the run was killed or not."""
        raise NotImplementedError


class Crafting(Run):
    """Caches adversarial examples, shard by shard."""

    def __call__(self, folder):
        keras_trn.cache_adversarial_examples(
            load_classifier(folder),
            load_digits(),
            attacks.ProjectedGradientDescent((0.1, 0.2), steps=50),
            folder / "examples",
            shard_size=12,
            verbose=0,
            cluster=self.cluster,
        )

    def progress(self, folder):
        return len(self.result(folder))

    def result(self, folder):
        paths = (folder / "examples").glob("round-*.tfrecord")
        return {path.name: path.read_bytes() for path in paths}


class Training(Run):
    """Trains a restorer with a backup, epoch by epoch."""

    def __call__(self, folder):
        keras.utils.set_random_seed(0)
        protected = keras_trn.ProtectedClassifier(
            load_classifier(folder),
            keras_trn.SingleStreamRestorationNetwork(width=4, depth=1),
        )
        attack = attacks.ProjectedGradientDescent(0.2, steps=5, seed=0)
        protected.compile(keras.optimizers.Adam(3e-3), attack=attack, jit_compile=False)
        backup = keras_trn.callbacks.BackupAndRestore(folder / "backup", delete_checkpoint=False)
        protected.fit(load_digits(), epochs=12, verbose=0, callbacks=[backup])
        np.savez(folder / "weights.npz", *protected.get_weights())

    def progress(self, folder):
        complete = (folder / "backup").glob("complete-*")
        return max((int(path.name.split("-")[1]) for path in complete), default=0)

    def result(self, folder):
        weights = np.load(folder / "weights.npz")
        return [weights[name].tobytes() for name in weights.files]


class Evaluation(Run):
    """Evaluates a classifier with a checkpoint, batch by batch."""

    def __call__(self, folder):
        report = keras_trn.evaluate(
            load_classifier(folder),
            load_digits(),
            attacks.ProjectedGradientDescent(0.2, steps=50),
            ["oblivious"],
            check_examples=2,
            checkpoint=folder / "report.jsonl",
            verbose=0,
            cluster=self.cluster,
        )
        report.to_json(folder / "report.json")

    def progress(self, folder):
        path = folder / "report.jsonl"
        text = path.read_text() if path.exists() else ""
        # The last line may be cut off. A list is of all batches of an attack.
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]
        return sum(30 if isinstance(line["result"], list) else 1 for line in lines)

    def result(self, folder):
        content = json.loads((folder / "report.json").read_text())
        cells = [{**cell, "seconds": None} for cell in content["cells"]]
        return {**content, "cells": cells, "seconds": None}


def load_classifier(folder):
    return keras.models.load_model(folder / "classifier.keras", compile=False)


def load_digits():
    _, _, test = keras_trn.datasets.load("digits")
    return in_batches(12, *keras_trn.datasets.to_arrays(test))
