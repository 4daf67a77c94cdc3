"""Keeps what an evaluation has finished, so that it can be interrupted."""

import hashlib
import json
from pathlib import Path

import numpy as np

from keras_trn.logits import logits_function


class Backup:
    """Results by what they are results of, in a file that only grows.

    Each line of the file is a key and a result in JSON. The key is a digest of
    everything the result depends on, so a result of other weights, data or
    settings is never taken for it.

    Args:
        path: The file; made when the first result comes. `None` keeps the results
            in memory alone.

    Example:
        ```python
        from keras_trn.evaluation.backup import Backup

        backup = Backup("finished.jsonl")
        first = backup.get_or_compute({"attack": "FGSM"}, lambda: {"accuracy": 0.5})
        again = Backup("finished.jsonl").get_or_compute({"attack": "FGSM"}, lambda: None)
        assert again == first
        ```
    """

    def __init__(self, path=None):
        self.path = None if path is None else Path(path)
        self.results = {}
        if self.path is not None and self.path.exists():
            self._read_file()

    def _read_file(self):
        text = self.path.read_text(encoding="utf-8")
        for line in text.splitlines():
            self._read(line)
        if text and not text.endswith("\n"):
            # A line that was cut off must not swallow the next.
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n")

    def _read(self, line):
        try:
            saved = json.loads(line)
        except json.JSONDecodeError:
            # The line that was being written when the evaluation was killed.
            return
        self.results[saved["key"]] = saved["result"]

    def holds(self, description):
        """Tells whether there is a result for a description."""
        return _digest(description) in self.results

    def get_or_compute(self, description, compute):
        """Returns the result for a description, computing and keeping it where it is new.

        Args:
            description: All that the result depends on, as JSON can say it.
            compute: Function without arguments that returns a JSON-able result.

        Returns:
            The result.
        """
        key = _digest(description)
        if key not in self.results:
            self.results[key] = compute()
            self._append({"key": key, "result": self.results[key]})
        return self.results[key]

    def _append(self, saved):
        if self.path is None:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(saved) + "\n")


def fingerprint(model, images):
    """Digests a model: its weights, and what it answers to a few images.

    The answers tell models apart whose weights are alike, such as two settings of
    a filter.

    Args:
        model: A Keras model from images to logits.
        images: A few images of shape `(batch, height, width, channels)`.

    Returns:
        A string, equal for two models exactly when they have the same weights and
        give the same answers.
    """
    digest = hashlib.sha256(type(model).__name__.encode())
    for weight in model.weights:
        digest.update(np.ascontiguousarray(weight).tobytes())
    answering = model.classifier if getattr(model, "needs_labels", False) else model
    digest.update(logits_function(answering)(images).numpy().tobytes())
    return digest.hexdigest()


def _digest(description):
    text = json.dumps(description, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
