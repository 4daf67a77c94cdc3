"""Compiled functions that follow the models they were compiled for."""

import functools
import hashlib
import inspect
import types

import keras
import numpy as np
import tensorflow as tf

# Functions of these packages do not change while a program runs.
_LIBRARIES = {"keras", "tensorflow", "numpy", "builtins"}


def compile_function(function, signature=None):
    """Compiles a function that TensorFlow's AutoGraph shall leave as it is.

    Args:
        function: Function of tensors.
        signature: List of `tf.TensorSpec`; without one it is traced for each new type, and
            for each new rank.

    Returns:
        A `tf.function`.
    """
    return tf.function(
        # TensorFlow takes methods of two objects for one function that is traced again and
        # again, and warns, unless each is an object of its own.
        functools.partial(function),
        input_signature=signature,
        autograph=False,
        reduce_retracing=signature is None,
    )


class GraphCache:
    """Compiled functions by name, each made again when its model has changed.

    A compiled function keeps what it was traced with: it follows new weights, but not a new
    activation, another rate of dropout or a layer that was added. So each is kept with the
    state of what it depends on, and is compiled anew where that state is another.

    A copy or a pickle of a cache is empty, so that objects which hold one can be copied
    whether they were used or not.

    Example:
        ```python
        from keras_trn.graphs import GraphCache

        dense = keras.layers.Dense(2, activation="relu", kernel_initializer="ones")
        graphs, ones = GraphCache(), tf.ones((1, 3))
        call = lambda: graphs.get("dense", dense, lambda: dense)(ones).numpy().tolist()
        assert call() == [[3.0, 3.0]]
        dense.activation = lambda x: -x
        assert call() == [[-3.0, -3.0]]
        ```
    """

    def __init__(self):
        self._entries = {}

    def get(self, key, subject, make_function, signature=None):
        """Returns a compiled function, made on the first call and whenever the model has changed.

        Args:
            key: What tells the functions of one subject apart; hashable.
            subject: The model, the function that calls models, or a tuple of these, that
                is compiled.
            make_function: Function without arguments that returns the function to compile.
            signature: As of `compile_function`.

        Returns:
            A `tf.function`.
        """
        return self.remember(key, subject, lambda: compile_function(make_function(), signature))

    def remember(self, key, subject, make):
        """Returns what `make` returned for the subject as it is now.

        Args:
            key: What tells the results for one subject apart; hashable.
            subject: The model, the function that calls models, or a tuple of these, that the
                result depends on.
            make: Function without arguments.

        Returns:
            The result of `make`.
        """
        state = state_of(subject)
        # A state holds on to its subject, so that no other object takes its identity.
        identity = tuple(map(id, subject)) if isinstance(subject, tuple) else id(subject)
        known_state, result = self._entries.get((key, identity), (None, None))
        if known_state != state:
            result = make()
            self._entries[key, identity] = (state, result)
        return result

    def __reduce__(self):
        return GraphCache, ()


def state_of(subject):
    """Describes all that a compiled function would keep of a model, weights left out.

    Args:
        subject: A Keras model or layer, or a function that calls some.

    Returns:
        An object that equals another one exactly if nothing has changed.
    """
    return _describe(subject, set())


class _Identity:
    """Equals only itself, and keeps the object alive so that its identity is not used again."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return isinstance(other, _Identity) and self.value is other.value

    __hash__ = None


def _describe(value, seen):
    if value is None or isinstance(value, (bool, int, float, str, bytes, np.generic, tf.DType)):
        # A NaN differs from itself, and its text does not.
        return type(value).__name__, repr(value)
    parts = None if id(value) in seen else _parts(value)
    seen.add(id(value))
    if parts is None:
        return _Identity(value)
    # Collections and bound methods are made anew wherever they are asked for.
    is_fleeting = isinstance(value, (list, tuple, dict, np.ndarray, types.MethodType))
    identity = type(value).__name__ if is_fleeting else _Identity(value)
    return [identity, *((name, _describe(part, seen)) for name, part in parts)]


def _parts(value):
    """What a compiled function keeps of an object, by name; `None` where nothing can change."""
    if isinstance(value, np.ndarray):
        return [("digest", hashlib.sha256(np.ascontiguousarray(value)).hexdigest())]
    if isinstance(value, (list, tuple)):
        # A list may keep what was seen while it was traced, and that must not start it again.
        return [(place, part) for place, part in enumerate(value) if not tf.is_tensor(part)]
    if isinstance(value, dict):
        return [(str(key), part) for key, part in value.items()]
    if isinstance(value, keras.Operation):
        return _layer_parts(value)
    if isinstance(value, functools.partial):
        return [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
    if isinstance(value, types.MethodType):
        return [("self", value.__self__), ("func", value.__func__)]
    if isinstance(value, types.FunctionType) and _package(value) not in _LIBRARIES:
        return _function_parts(value)
    if isinstance(value, (type, types.ModuleType, GraphCache)):
        return None
    if _package(type(value)) not in _LIBRARIES and hasattr(value, "__dict__"):
        return list(vars(value).items())
    return None


def _layer_parts(layer):
    parts = {
        name: part
        for name, part in vars(layer).items()
        if name not in _bookkeeping() and not name.startswith("_self_")
    }
    if isinstance(layer, keras.Layer):
        parts["dtype_policy"] = layer.dtype_policy.name
    if isinstance(layer, keras.Model):
        parts["layers"] = layer.layers
    return list(parts.items())


def _function_parts(function):
    parts = [("code", function.__code__), ("defaults", function.__defaults__)]
    variables = inspect.getclosurevars(function)
    parts += variables.nonlocals.items()
    if _package(function) != "keras_trn":
        used = variables.globals.items()
        parts += [item for item in used if not isinstance(item[1], types.ModuleType)]
    return parts


def _package(thing):
    return (getattr(thing, "__module__", None) or "builtins").partition(".")[0]


@functools.cache
def _bookkeeping():
    """The attributes by which Keras keeps its own books; they change without any effect."""
    running = {"history", "stop_training", "stop_evaluating", "stop_predicting"}
    running |= {"_eval_epoch_iterator", "_compiled_trainable_state"}
    return {*vars(keras.Layer()), *vars(keras.Model()), *running, "_compiled_state"}
