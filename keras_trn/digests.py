"""Computes digests that tell arrays, settings and files apart, and the JSON behind them."""

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_trn.types import ArrayLike

_READ_TOGETHER = 1 << 20


def digest_of_arrays(*arrays: ArrayLike) -> str:
    """Returns the SHA-256 digest of the values of arrays as hexadecimal digits."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def digest_of_json(value: Any) -> str:
    """Returns the SHA-256 digest of a JSON-compatible value as hexadecimal digits."""
    return hashlib.sha256(to_json(value, sort_keys=True).encode()).hexdigest()


def digest_of_file(path: str | Path) -> str:
    """Returns the SHA-256 digest of a file that TensorFlow can read, as hexadecimal digits."""
    digest = hashlib.sha256()
    with tf.io.gfile.GFile(os.fspath(path), "rb") as file:
        for part in iter(functools.partial(file.read, _READ_TOGETHER), b""):
            digest.update(part)
    return digest.hexdigest()


def to_json(value: Any, **options: Any) -> str:
    """Writes JSON like `json.dumps`, and accepts NumPy numbers and arrays."""
    return json.dumps(value, default=to_json_value, **options)


def to_json_value(value: Any) -> Any:
    """Converts a NumPy number or array to Python numbers or lists."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"JSON cannot hold {value!r}, which is of type {type(value).__name__}.")
