"""Packs the measurements of each image into short strings for JSON."""

import base64
import io

import numpy as np

from keras_trn.types import ArrayLike


def pack_bits(bits: ArrayLike) -> str:
    """Packs booleans of shape `(number,)` into hexadecimal digits."""
    return np.packbits(np.asarray(bits, bool)).tobytes().hex()


def unpack_bits(digits: str, number: int) -> np.ndarray:
    """Unpacks the first `number` booleans that `pack_bits` packed."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8), count=number).astype(bool)


def pack(values: np.ndarray) -> str:
    """Packs an array with its type, without loss."""
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return base64.b64encode(file.getvalue()).decode()


def unpack(text: str) -> np.ndarray:
    """Unpacks an array that `pack` packed."""
    return np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False)
