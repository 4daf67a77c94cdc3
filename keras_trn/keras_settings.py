"""Checks and adapts the user's Keras settings.

This module must not import Keras at the top. If the configured backend is not installed, that
import fails with an error that does not name the setting.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

_NEEDED = "tensorflow"


def check_backend() -> None:
    """Raises an `ImportError` if Keras does not use the TensorFlow backend."""
    imported = _imported_backend()
    backend, source = _configured_backend()
    if imported is None and backend != _NEEDED:
        raise ImportError(
            f"keras_trn needs the TensorFlow backend of Keras, but {source} asks for the backend "
            f"{backend!r}. Write `import os; os.environ['KERAS_BACKEND'] = 'tensorflow'` before "
            "the first import of keras or keras_trn."
        )
    if imported not in (None, _NEEDED):
        asked = f", as {source} asks for it" if backend == imported else ""
        raise ImportError(
            "keras_trn needs the TensorFlow backend of Keras, and Keras was already imported with "
            f"the backend {imported!r}{asked}; it cannot change any more. Restart Python, and "
            "write `import os; os.environ['KERAS_BACKEND'] = 'tensorflow'` before the first "
            "import of keras."
        )


def _imported_backend() -> str | None:
    """Returns the backend of the imported Keras; `None` if it is not imported."""
    config = getattr(sys.modules.get("keras"), "config", None)
    return None if config is None else config.backend()


def _configured_backend() -> tuple[str, str]:
    """Returns the configured backend and the place of the setting, as Keras finds them."""
    if backend := os.environ.get("KERAS_BACKEND"):
        return backend, "the environment variable KERAS_BACKEND"
    home = os.path.expanduser("~")
    default = os.path.join(home if os.access(home, os.W_OK) else "/tmp", ".keras")
    path = os.path.expanduser(os.path.join(os.environ.get("KERAS_HOME", default), "keras.json"))
    return _read_settings(path).get("backend", _NEEDED), f"the file {path}"


def _read_settings(path: str) -> dict[str, Any]:
    """Reads a `keras.json`; ignores an unreadable one, as Keras does."""
    try:
        with open(path, encoding="utf-8") as file:
            settings = json.load(file)
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


@contextlib.contextmanager
def float32_numbers() -> Iterator[None]:
    """Sets Keras' `floatx` to float32 temporarily.

    `fit`, `evaluate` and `predict` convert arrays to `floatx`. With float16 they would round
    every image, and count images only up to 2,048.
    """
    import keras

    floatx = keras.config.floatx()
    # Keras derives the policy of new layers from `floatx` at the first call, and then keeps it.
    keras.config.dtype_policy()
    keras.config.set_floatx("float32")
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
