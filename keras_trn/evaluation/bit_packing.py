"""Packs one bit for each image into a short string that JSON can hold."""

import numpy as np

from keras_trn.types import ArrayLike


def pack_bits(bits: ArrayLike) -> str:
    """Packs booleans of shape `(number,)` into hexadecimal digits."""
    return np.packbits(np.asarray(bits, bool)).tobytes().hex()


def unpack_bits(digits: str, number: int) -> np.ndarray:
    """Unpacks the first `number` booleans of what `pack_bits` returned."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8), count=number).astype(bool)
