"""Compiles functions, and compiles them again when the models that they call change."""

import functools
import inspect
import types
import weakref
from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_trn.digests import digest_of_arrays

# Functions of these packages do not change while a program runs.
_LIBRARIES = {"keras", "tensorflow", "numpy", "builtins"}
# Caches `tf.is_tensor` by type, because its protocol check is slow for layers.
_IS_TENSOR: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()


def compile_function(
    function: Callable[..., Any], signature: Sequence[tf.TensorSpec] | None = None
) -> tf.types.experimental.PolymorphicFunction:
    """Compiles a function without AutoGraph; without a signature, retraces it for new types."""
    return tf.function(
        # TensorFlow treats the methods of two objects as one function, so it would retrace it
        # repeatedly and warn. A partial function is distinct for each object.
        functools.partial(function),
        input_signature=signature,
        autograph=False,
        reduce_retracing=signature is None,
    )


class GraphCache:
    """Caches compiled functions by name, and recompiles them when their model changes.

    A compiled function follows new weights, but not a new activation, another dropout rate or an
    added layer. So each entry keeps the state of its subject: the model, the function that calls
    models, or a tuple of these. Copies and pickles of a cache are empty, which makes its owner
    copyable.
    """

    def __init__(self) -> None:
        self._entries: dict[Hashable, tuple[object, Any]] = {}

    def get(
        self,
        key: Hashable,
        subject: Any,
        make_function: Callable[[], Callable[..., Any]],
        signature: Sequence[tf.TensorSpec] | None = None,
    ) -> Callable[..., Any]:
        """Returns the compiled result of `make_function` for the current subject."""
        return self.remember(key, subject, lambda: compile_function(make_function(), signature))

    def remember(self, key: Hashable, subject: Any, make: Callable[[], Any]) -> Any:
        """Returns the result of `make` for the current state of the subject."""
        state = state_of(subject)
        # The state keeps its subject alive, so another object cannot get the same id.
        identity = tuple(map(id, subject)) if isinstance(subject, tuple) else id(subject)
        known_state, result = self._entries.get((key, identity), (None, None))
        if known_state != state:
            result = make()
            self._entries[key, identity] = (state, result)
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        return GraphCache, ()


class SharedGraph:
    """Traces a function once for all graphs that call it; eager calls stay eager."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._graphs = GraphCache()

    def __call__(self, *inputs: Any) -> Any:
        if tf.executing_eagerly():
            return self.function(*inputs)
        return self._graphs.get("graph", self.function, lambda: self.function)(*inputs)


def state_of(subject: Any) -> object:
    """Describes everything but weights that a compiled function keeps of a model or function.

    Two descriptions are equal if and only if nothing has changed.
    """
    return _describe(subject, {})


class _Identity:
    """Equals only itself, and keeps the object alive so that its id is not reused."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    __hash__ = None  # type: ignore[assignment]


def _describe(value: Any, seen: dict[int, Any]) -> object:
    if value is None or isinstance(value, (bool, int, float, str, bytes, np.generic, tf.DType)):
        # NaN differs from itself, but its text does not.
        return type(value).__name__, repr(value)
    parts = None if id(value) in seen else _parts(value)
    # Keeps the value alive: Keras recreates some lists, and ids of freed objects are reused.
    seen[id(value)] = value
    if parts is None:
        return _Identity(value)
    # Every access creates new collections and bound methods.
    is_fleeting = isinstance(value, (list, tuple, dict, np.ndarray, types.MethodType))
    identity = type(value).__name__ if is_fleeting else _Identity(value)
    return [identity, *((name, _describe(part, seen)) for name, part in parts)]


def _parts(value: Any) -> Iterable[tuple[object, Any]] | None:
    """Returns the parts of an object that can change; `None` if there are none."""
    if isinstance(value, np.ndarray):
        return [("digest", digest_of_arrays(value))]
    if isinstance(value, (list, tuple)):
        # A list may collect tensors during tracing, which must not cause another tracing.
        return [(place, part) for place, part in enumerate(value) if not _is_tensor(part)]
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
        return vars(value).items()
    return None


def _is_tensor(value: Any) -> bool:
    kind = type(value)
    if kind not in _IS_TENSOR:
        _IS_TENSOR[kind] = tf.is_tensor(value)
    return _IS_TENSOR[kind]


def _layer_parts(layer: keras.Operation) -> Iterable[tuple[object, Any]]:
    bookkeeping = _bookkeeping()
    parts = {
        name: part
        for name, part in vars(layer).items()
        if name not in bookkeeping and not name.startswith("_self_")
    }
    if isinstance(layer, keras.Layer):
        parts["dtype_policy"] = layer.dtype_policy.name
    if isinstance(layer, keras.Model):
        parts["layers"] = layer.layers
    return parts.items()


def _function_parts(function: types.FunctionType) -> Iterable[tuple[object, Any]]:
    variables = inspect.getclosurevars(function)
    parts: list[tuple[object, Any]] = [("code", function.__code__)]
    parts.append(("defaults", function.__defaults__))
    parts += variables.nonlocals.items()
    if _package(function) != "keras_trn":
        used = variables.globals.items()
        parts += [item for item in used if not isinstance(item[1], types.ModuleType)]
    return parts


def _package(thing: object) -> str:
    return (getattr(thing, "__module__", None) or "builtins").partition(".")[0]


@functools.cache
def _bookkeeping() -> set[str]:
    """Lists Keras' internal attributes, whose changes have no effect on a graph."""
    running = {"history", "stop_training", "stop_evaluating", "stop_predicting"}
    running |= {"_eval_epoch_iterator", "_compiled_trainable_state", "_compiled_state"}
    return running | set(vars(keras.Layer())) | set(vars(keras.Model()))
