"""Computes digests of models, which tell models apart in a checkpoint."""

import json
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_trn.digests import digest_of_arrays
from keras_trn.digests import digest_of_json
from keras_trn.evaluation.randomness import ROUNDING_OF_LOGITS
from keras_trn.evaluation.randomness import largest_distance
from keras_trn.evaluation.randomness import repeated_logits

# A model stays the same when it is frozen or compiled.
_IRRELEVANT_CONFIG = ("trainable", "compile_config")


class Fingerprints:
    """Computes the digest of each model once.

    A digest covers the weights and the logits of a few images. The logits distinguish models
    with the same weights, such as two settings of a filter. The logits of a random model
    change each time, so its digest covers its configuration instead.
    """

    def __init__(self, images: tf.Tensor) -> None:
        self._images = images
        self._known: dict[int, tuple[keras.Model, str]] = {}
        self.random_models: list[keras.Model] = []

    def of(self, model: keras.Model) -> str:
        """Returns the digest of a Keras model from images to logits."""
        if id(model) not in self._known:
            # Keeping the model prevents Python from reusing its `id`.
            self._known[id(model)] = (model, self._digest(model))
        return self._known[id(model)][1]

    def is_random(self, model: keras.Model) -> bool:
        """Tells whether a model gives the same images different answers."""
        self.of(model)
        return any(model is one for one in self.random_models)

    def _digest(self, model: keras.Model) -> str:
        weights = digest_of_arrays(*(np.asarray(weight) for weight in model.weights))
        answering = model.classifier if getattr(model, "needs_labels", False) else model
        first, second = repeated_logits(answering, self._images, runs=2)
        if first.tobytes() == second.tobytes():
            behaviour = digest_of_arrays(first)
        else:
            behaviour = _describe_configuration(model)
            if largest_distance([first, second]) > ROUNDING_OF_LOGITS:
                self.random_models.append(model)
        return digest_of_json([type(model).__name__, weights, behaviour])


def _describe_configuration(model: keras.Model) -> str:
    try:
        config = keras.saving.serialize_keras_object(model)["config"]
    except (NotImplementedError, TypeError, ValueError):
        # A subclassed model may lack a configuration.
        config = [layer.name for layer in model.layers]
    relevant = _without_names(config, {})
    return json.dumps(relevant, sort_keys=True, default=lambda value: type(value).__name__)


def _without_names(config: Any, names: dict[str, str]) -> Any:
    """Replaces the layer names, which Keras counts up for each new model, with numbers."""
    if isinstance(config, dict):
        if isinstance(config.get("name"), str):
            names.setdefault(config["name"], f"layer {len(names)}")
        relevant = {key: value for key, value in config.items() if key not in _IRRELEVANT_CONFIG}
        return {str(key): _without_names(value, names) for key, value in relevant.items()}
    if isinstance(config, (list, tuple)):
        return [_without_names(value, names) for value in config]
    return names.get(config, config) if isinstance(config, str) else config
