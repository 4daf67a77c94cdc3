"""What the package needs of the user's Keras settings.

Nothing here imports Keras before it has to: with a backend that is not installed, the import
alone fails, far from the setting that asked for it.
"""

import contextlib
import json
import os
import sys

_NEEDED = "tensorflow"


def check_backend():
    """Checks that Keras has, or will take, the TensorFlow backend.

    Raises:
        ImportError: If Keras was imported with another backend, or is told to take another
            one by the environment variable `KERAS_BACKEND` or by its file `keras.json`.
    """
    imported = _imported_backend()
    told, source = _told_backend()
    if imported is None and told != _NEEDED:
        raise ImportError(
            f"keras_trn needs the TensorFlow backend of Keras, and {source} asks for the backend "
            f"{told!r}. Write `import os; os.environ['KERAS_BACKEND'] = 'tensorflow'` before the "
            "first import of keras or keras_trn."
        )
    if imported not in (None, _NEEDED):
        asked = f", as {source} asks for it" if told == imported else ""
        raise ImportError(
            "keras_trn needs the TensorFlow backend of Keras, and Keras was imported before with "
            f"the backend {imported!r}{asked}; it cannot change any more. Start Python anew, and "
            "write `import os; os.environ['KERAS_BACKEND'] = 'tensorflow'` before the first "
            "import of keras."
        )


def _imported_backend():
    """The backend of the Keras that is imported already; `None` where none is."""
    config = getattr(sys.modules.get("keras"), "config", None)
    return None if config is None else config.backend()


def _told_backend():
    """The backend that Keras is told to take, and by what; as Keras itself finds it."""
    if backend := os.environ.get("KERAS_BACKEND"):
        return backend, "the environment variable KERAS_BACKEND"
    path = os.path.expanduser(os.path.join(_keras_folder(), "keras.json"))
    return _settings_of(path).get("backend", _NEEDED), f"the file {path}"


def _keras_folder():
    if "KERAS_HOME" in os.environ:
        return os.environ["KERAS_HOME"]
    home = os.path.expanduser("~")
    return os.path.join(home if os.access(home, os.W_OK) else "/tmp", ".keras")


def _settings_of(path):
    """What a `keras.json` says; nothing where it cannot be read, as for Keras."""
    try:
        with open(path, encoding="utf-8") as file:
            settings = json.load(file)
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


@contextlib.contextmanager
def float32_numbers():
    """Makes Keras take float32 for its own numbers for a while, whatever the user's `floatx`.

    `fit`, `evaluate` and `predict` convert the images of arrays to `floatx`: with float16 they
    would round every image, and count images only up to 2,048.

    Yields:
        Nothing.
    """
    import keras

    floatx = keras.config.floatx()
    # Asked for the first time, Keras takes the policy of new layers from `floatx`, for good.
    keras.config.dtype_policy()
    keras.config.set_floatx("float32")
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
