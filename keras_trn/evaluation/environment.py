"""Describes the software and hardware that results may depend on."""

import os
import platform
from importlib import metadata
from typing import Any

import tensorflow as tf

_PACKAGES = (
    "keras_trn",
    "keras",
    "tensorflow",
    "cleverhans",
    "numpy",
    "pillow",
    "scikit-image",
    "scikit-learn",
    "scipy",
)


def describe_environment() -> dict[str, Any]:
    """Returns the `versions` of the packages and the `hardware`."""
    details = tf.config.experimental.get_device_details
    gpus = [details(gpu).get("device_name") for gpu in tf.config.list_physical_devices("GPU")]
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
        },
        "hardware": {
            "machine": f"{platform.machine()}, {platform.system()}",
            "cpu_cores": os.cpu_count(),
            "gpus": gpus,
        },
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
