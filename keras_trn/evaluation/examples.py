"""Which images a defence got right, as a short string that JSON can hold."""

import numpy as np


def pack(right):
    """Writes one bit for each image, as hexadecimal digits.

    Args:
        right: Boolean array of shape `(number,)`.

    Returns:
        A string.

    Example:
        ```python
        from keras_trn.evaluation.examples import pack, unpack

        right = np.array([True, False, True])
        assert unpack(pack(right), 3).tolist() == right.tolist()
        ```
    """
    return np.packbits(np.asarray(right, bool)).tobytes().hex()


def unpack(digits, number):
    """Reads what `pack` wrote.

    Args:
        digits: The string.
        number: Number of images.

    Returns:
        A boolean array of shape `(number,)`.
    """
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8), count=number).astype(bool)
