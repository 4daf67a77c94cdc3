"""Stores the weights of a saved model as float16, in half the space."""

import io
import os
import zipfile
from pathlib import Path

import h5py
import numpy as np

from keras_trn.files import unfinished_file

_WEIGHTS = "model.weights.h5"


def store_as_float16(path: Path, except_for: str | None = None) -> None:
    """Rewrites a `.keras` file with its float32 weights in float16.

    The loaded model still computes in float32, with weights rounded to three digits.

    Args:
        path: The file.
        except_for: An attribute of the model whose weights stay float32.
    """
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content[_WEIGHTS] = _halved(content[_WEIGHTS], except_for)
    with unfinished_file(path) as unfinished:
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in content.items():
                archive.writestr(name, data)
        os.replace(unfinished, path)


def _halved(weights: bytes, except_for: str | None) -> bytes:
    target = io.BytesIO()
    with h5py.File(io.BytesIO(weights)) as source, h5py.File(target, "w") as halved:

        def copy(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Group):
                copied = halved.require_group(name)
            else:
                is_rounded = item.dtype == np.float32 and name.split("/")[0] != except_for
                dtype = "float16" if is_rounded else None
                copied = halved.create_dataset(name, data=item[()], dtype=dtype)
            copied.attrs.update(item.attrs)

        halved.attrs.update(source.attrs)
        source.visititems(copy)
    return target.getvalue()
