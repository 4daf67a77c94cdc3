"""Keeps what an evaluation has finished, so that it can be interrupted."""

import hashlib
import json
from pathlib import Path

import keras
import numpy as np

from keras_trn.evaluation.randomness import ROUNDING_OF_LOGITS
from keras_trn.evaluation.randomness import largest_distance
from keras_trn.evaluation.randomness import repeated_logits


class Checkpoint:
    """Results by what they are results of, in a file that only grows.

    Each line of the file is a key and a result in JSON. The key is a digest of
    everything the result depends on, so a result of other weights, data or
    settings is never taken for it.

    Args:
        path: The file; made when the first result comes. `None` keeps the results
            in memory alone.

    Example:
        ```python
        from keras_trn.evaluation.checkpoint import Checkpoint

        checkpoint = Checkpoint("finished.jsonl")
        first = checkpoint.get_or_compute({"attack": "FGSM"}, lambda: {"accuracy": 0.5})
        again = Checkpoint("finished.jsonl").get_or_compute({"attack": "FGSM"}, lambda: None)
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
            file.write(json.dumps(saved, default=plain) + "\n")


class Fingerprints:
    """Digests of models, each taken once.

    A digest is of the weights, and of what the model answers to a few images: the answers tell
    models apart whose weights are alike, such as two settings of a filter. A model that answers
    at random is known by its weights and its configuration instead.

    Args:
        images: A few images of shape `(batch, height, width, channels)`.

    Example:
        ```python
        from keras_trn.evaluation.checkpoint import Fingerprints

        fingerprints = Fingerprints(keras.random.uniform((2, 8, 8, 1)))
        first = fingerprints.of(classifier)
        assert fingerprints.of(keras.models.clone_model(classifier)) != first
        assert not fingerprints.random_models
        ```
    """

    def __init__(self, images):
        self._images = images
        self._known = {}
        self.random_models = []

    def of(self, model):
        """Returns the digest of a model.

        Args:
            model: A Keras model from images to logits.

        Returns:
            A string, equal for two models exactly when they have the same weights and give the
            same answers; or, of random models, when they have the same configuration.
        """
        if id(model) not in self._known:
            # The model is kept, so that no other one takes its identity.
            self._known[id(model)] = (model, self._digest(model))
        return self._known[id(model)][1]

    def _digest(self, model):
        digest = hashlib.sha256(type(model).__name__.encode())
        for weight in model.weights:
            digest.update(np.ascontiguousarray(weight).tobytes())
        answering = model.classifier if getattr(model, "needs_labels", False) else model
        first, second = repeated_logits(answering, self._images, runs=2)
        if first.tobytes() == second.tobytes():
            digest.update(first.tobytes())
        else:
            digest.update(_configuration(model).encode())
            if largest_distance([first, second]) > ROUNDING_OF_LOGITS:
                self.random_models.append(model)
        return digest.hexdigest()


def _configuration(model):
    """What a model says of itself, whether it is frozen or not."""
    try:
        config = keras.saving.serialize_keras_object(model)["config"]
    except (NotImplementedError, TypeError, ValueError):
        # A model of its own class may not be able to say anything.
        config = [layer.name for layer in model.layers]
    return json.dumps(_essence(config, {}), sort_keys=True, default=_class_name)


def _essence(config, names):
    """A configuration with numbers for names, whether the model is frozen and compiled or not."""
    if isinstance(config, dict):
        if isinstance(config.get("name"), str):
            # Keras counts its names up whenever a model is made.
            names.setdefault(config["name"], f"layer {len(names)}")
        left_out = ("trainable", "compile_config")
        kept = [item for item in config.items() if item[0] not in left_out]
        return {str(key): _essence(value, names) for key, value in kept}
    if isinstance(config, (list, tuple)):
        return [_essence(value, names) for value in config]
    return names.get(config, config) if isinstance(config, str) else config


def _class_name(value):
    return type(value).__name__


def plain(value):
    """Turns what JSON cannot hold into what it can, for `json.dumps(..., default=plain)`.

    Args:
        value: A number or an array of NumPy.

    Returns:
        A Python number, or a list of them.

    Raises:
        TypeError: If it is anything else.

    Example:
        ```python
        import json
        from keras_trn.evaluation.checkpoint import plain

        assert json.dumps({"epsilon": np.float32(0.5)}, default=plain) == '{"epsilon": 0.5}'
        ```
    """
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"JSON cannot hold {value!r}, which is of type {type(value).__name__}.")


def _digest(description):
    text = json.dumps(description, sort_keys=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()
