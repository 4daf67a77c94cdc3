"""Where and with what an evaluation was run."""

import os
import platform
from importlib import metadata

import tensorflow as tf

_PACKAGES = (
    "keras_trn",
    "keras",
    "tensorflow",
    "cleverhans",
    "adversarial-robustness-toolbox",
    "numpy",
    "pillow",
    "scikit-image",
    "scikit-learn",
    "scipy",
)


def describe_environment():
    """Returns the versions of the packages, and the hardware, that results may depend on.

    Returns:
        A dictionary with `versions` and `hardware`.

    Example:
        ```python
        from keras_trn.evaluation.environment import describe_environment

        assert describe_environment()["versions"]["tensorflow"]
        ```
    """
    gpus = tf.config.list_physical_devices("GPU")
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
        },
        "hardware": {
            "machine": f"{platform.machine()}, {platform.system()}",
            "cpu_cores": os.cpu_count(),
            "gpus": [
                tf.config.experimental.get_device_details(gpu).get("device_name") for gpu in gpus
            ],
        },
    }


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
