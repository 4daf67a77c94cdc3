"""Keeps trained models in files, so that an interrupted experiment goes on where it was."""

import keras


def load_or_train(path, train):
    """Loads a model, or trains it and keeps it.

    Args:
        path: Path of a `.keras` file.
        train: Function that makes and trains the model.

    Returns:
        The model as it was loaded from the file, not compiled.
    """
    if not path.exists():
        _write(path, train().save)
    return keras.saving.load_model(path, compile=False)


def load_weights_or_train(model, path, train):
    """Loads the weights of a model, or trains it and keeps them.

    Args:
        model: The model, as it is before it is trained.
        path: Path of a `.weights.h5` file.
        train: Function that trains a model.

    Returns:
        The model.
    """
    if path.exists():
        model.load_weights(path)
    else:
        train(model)
        _write(path, model.save_weights)
    return model


def _write(path, save):
    # A file that was only half written must not be loaded by the next run.
    unfinished = path.with_name(f"unfinished_{path.name}")
    save(unfinished)
    unfinished.rename(path)
