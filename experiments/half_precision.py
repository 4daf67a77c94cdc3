"""Stores the weights of a saved model as float16, in half the space."""

import io
import zipfile

import h5py
import numpy as np

_WEIGHTS = "model.weights.h5"


def store_as_float16(path):
    """Rewrites a `.keras` file with its weights in float16.

    The model that is loaded from it computes in float32 as before. Its weights are
    rounded to three digits, so judge it as it is loaded, not as it was trained.

    Args:
        path: Path of a `.keras` file.

    Example:
        ```python
        import tempfile
        from pathlib import Path
        import keras
        from experiments.half_precision import store_as_float16

        model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            model.save(path)
            before = path.stat().st_size
            store_as_float16(path)
            loaded = keras.saving.load_model(path)
            assert path.stat().st_size < 0.7 * before
        assert loaded.weights[0].dtype == "float32"
        ```
    """
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content[_WEIGHTS] = _halved(content[_WEIGHTS])
    unfinished = path.with_name(f"unfinished_{path.name}")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    unfinished.rename(path)


def _halved(weights):
    target = io.BytesIO()
    with h5py.File(io.BytesIO(weights)) as source, h5py.File(target, "w") as halved:

        def copy(name, item):
            if isinstance(item, h5py.Group):
                copied = halved.require_group(name)
            else:
                is_single = item.dtype == np.float32
                copied = halved.create_dataset(
                    name, data=item[()], dtype="float16" if is_single else None
                )
            copied.attrs.update(item.attrs)

        halved.attrs.update(source.attrs)
        source.visititems(copy)
    return target.getvalue()
