"""The architecture of a classifier, without what it has learned: to be saved, or made anew."""

import keras
import numpy as np


def architecture_config(classifier):
    """Describes a classifier without how it, or a model inside of it, was trained.

    A loss of the user's own, which a nested model was compiled with, would have to be there
    whenever the description is read.

    Args:
        classifier: A Keras model.

    Returns:
        A configuration for `keras.saving.deserialize_keras_object`.

    Example:
        ```python
        from keras_trn.architecture import architecture_config

        classifier = keras.Sequential([keras.Input((4,)), keras.layers.Dense(10)])
        classifier.compile(loss="mse")
        assert "compile_config" not in architecture_config(classifier)
        ```
    """
    return _edited(keras.saving.serialize_keras_object(classifier), leave_out="compile_config")


def clone_with_new_weights(classifier):
    """Makes a classifier of the same architecture, with fresh weights that can all be trained.

    Unlike `keras.models.clone_model` it copies subclassed models too, and what no training
    changes: weights that were made with `trainable=False`, such as the mean of an adapted
    `keras.layers.Normalization`. The statistics of batch normalization start afresh.

    Args:
        classifier: A built Keras model; it stays as it is.

    Returns:
        A Keras model that shares nothing with it.

    Raises:
        ValueError: If the configuration of the classifier does not hold all of it.

    Example:
        ```python
        from keras_trn.architecture import clone_with_new_weights

        dense = keras.layers.Dense(10)
        classifier = keras.Sequential([keras.Input((4,)), dense])
        other = clone_with_new_weights(classifier)
        assert keras.ops.any(other.layers[0].kernel != dense.kernel)
        ```
    """
    # A layer that is built frozen may stay so for good.
    config = _edited(architecture_config(classifier), trainable=True)
    fresh = keras.saving.deserialize_keras_object(config)
    given_states, fresh_states = _states(classifier), _states(fresh)
    if _shapes(given_states) != _shapes(fresh_states):
        raise ValueError(
            f"The classifier '{classifier.name}' cannot be made anew from its configuration: its "
            f"weights have the shapes {_shapes(given_states)}, and the weights of the new "
            f"classifier {_shapes(fresh_states)}. Keras forgets that two nested models share a "
            "layer: build them as one functional model. In a subclassed model, `__init__` and "
            "`build` must make all layers from what `get_config` returns."
        )
    for (_, state), (layer, _) in zip(given_states, fresh_states, strict=True):
        # These statistics belong to the weights that they were taken with.
        if not isinstance(layer, keras.layers.BatchNormalization):
            _load_what_is_not_trained(layer, state)
    return fresh


def _states(model):
    """The layers that have variables of their own, and these variables."""
    states = []
    for layer in model._flatten_layers():
        state = {}
        layer.save_own_variables(state)
        if state:
            states.append((layer, state))
    return states


def _shapes(states):
    return [[tuple(np.shape(variable)) for variable in state.values()] for _, state in states]


def _load_what_is_not_trained(layer, state):
    """Gives a layer the state of another one, but for its trainable weights."""
    fresh_weights = [weight.numpy() for weight in layer.trainable_weights]
    layer.load_own_variables(state)
    for weight, fresh in zip(layer.trainable_weights, fresh_weights, strict=True):
        weight.assign(fresh)


def _edited(config, leave_out=None, **changes):
    """A configuration without one entry and with others changed, at every depth."""
    if isinstance(config, dict):
        return {
            key: changes[key] if key in changes else _edited(value, leave_out, **changes)
            for key, value in config.items()
            if key != leave_out
        }
    if isinstance(config, (list, tuple)):
        return type(config)(_edited(value, leave_out, **changes) for value in config)
    return config
