"""Digests that tell arrays and settings apart, and the JSON they are taken of."""

import hashlib
import json
from typing import Any

import numpy as np

from keras_trn.types import ArrayLike


def digest_of_arrays(*arrays: ArrayLike) -> str:
    """Returns the SHA-256 digest of the values of arrays, in hexadecimal digits."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def digest_of_json(value: Any) -> str:
    """Returns the SHA-256 digest of a value that JSON can hold, in hexadecimal digits."""
    return hashlib.sha256(to_json(value, sort_keys=True).encode()).hexdigest()


def to_json(value: Any, **options: Any) -> str:
    """Writes JSON as `json.dumps`, with NumPy's numbers and arrays as Python's."""
    return json.dumps(value, default=to_json_value, **options)


def to_json_value(value: Any) -> Any:
    """Converts a number or an array of NumPy to what JSON can hold."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"JSON cannot hold {value!r}, which is of type {type(value).__name__}.")
