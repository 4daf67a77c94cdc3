"""Copies the architecture of a classifier without its learned weights."""

from typing import Any

import keras
import numpy as np

from keras_trn.types import Config

_States = list[tuple[keras.Layer, dict[str, Any]]]


def nested_layers(model: keras.Layer) -> list[keras.Layer]:
    """Returns a model and all layers inside it, at every depth.

    Keras has no public method for this: `Model.layers` omits the sublayers of custom layers.
    """
    return model._flatten_layers()


def architecture_config(classifier: keras.Model) -> Config:
    """Returns the configuration of a classifier without any `compile_config`.

    With it, reading the configuration would need the custom losses of nested models.
    """
    return _edited(keras.saving.serialize_keras_object(classifier), leave_out="compile_config")


def clone_with_new_weights(classifier: keras.Model) -> keras.Model:
    """Makes an independent classifier of the same architecture with new, trainable weights.

    Unlike `keras.models.clone_model`, it also copies subclassed models. It keeps weights that
    training never changes, such as the mean of an adapted `keras.layers.Normalization`, but
    resets the statistics of batch normalization. It raises a `ValueError` if the configuration
    of the classifier is incomplete.
    """
    # Some layers stay frozen for good if they are built frozen.
    config = _edited(architecture_config(classifier), trainable=True)
    clone = keras.saving.deserialize_keras_object(config)
    states, clone_states = _states(classifier), _states(clone)
    if _shapes(states) != _shapes(clone_states):
        raise ValueError(
            f"The classifier '{classifier.name}' cannot be made anew from its configuration: its "
            f"weights have the shapes {_shapes(states)}, but the weights of the copy have "
            f"{_shapes(clone_states)}. Keras forgets that two nested models share a layer: build "
            "them as one functional model. In a subclassed model, `__init__` and `build` must "
            "make all layers from the result of `get_config`."
        )
    for (_, state), (layer, _) in zip(states, clone_states, strict=True):
        # The statistics of batch normalization belong to the old weights.
        if not isinstance(layer, keras.layers.BatchNormalization):
            _load_untrained_state(layer, state)
    return clone


def _states(model: keras.Model) -> _States:
    """Returns all layers that own variables, with these variables."""
    states: _States = []
    for layer in nested_layers(model):
        state: dict[str, Any] = {}
        layer.save_own_variables(state)
        if state:
            states.append((layer, state))
    return states


def _shapes(states: _States) -> list[list[tuple[int, ...]]]:
    return [[tuple(np.shape(variable)) for variable in state.values()] for _, state in states]


def _load_untrained_state(layer: keras.Layer, state: dict[str, Any]) -> None:
    """Loads a state into a layer, but keeps the layer's trainable weights."""
    new_weights = [weight.numpy() for weight in layer.trainable_weights]
    layer.load_own_variables(state)
    for weight, new in zip(layer.trainable_weights, new_weights, strict=True):
        weight.assign(new)


def _edited(config: Any, leave_out: str | None = None, **changes: Any) -> Any:
    """Removes one key from a configuration and changes others, at every depth."""
    if isinstance(config, dict):
        return {
            key: changes[key] if key in changes else _edited(value, leave_out, **changes)
            for key, value in config.items()
            if key != leave_out
        }
    if isinstance(config, (list, tuple)):
        return type(config)(_edited(value, leave_out, **changes) for value in config)
    return config
