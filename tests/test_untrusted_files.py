"""Loading a file from a stranger never runs code, and writes nothing outside of its folder."""

import io
import json
import pickle
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

CONFIG, WEIGHTS = "config.json", "model.weights.h5"


@pytest.fixture(scope="module")
def members(classifier, tmp_path_factory):
    """The members of the file of a protected classifier."""
    import keras_trn

    path = tmp_path_factory.mktemp("saved") / "protected.keras"
    restorer = keras_trn.TwoStreamRestorationNetwork(width=4, depth=1)
    keras_trn.ProtectedClassifier(classifier, restorer).save(path)
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


class RunsCode:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def with_lambda(members, marker):
    """Puts a Lambda layer, whose code makes a file, into the classifier."""
    text = str(marker)
    lambda_ = keras.layers.Lambda(lambda x: (x, open(text, "w"))[0])  # noqa: SIM115
    config = json.loads(members[CONFIG])
    layers = config["config"]["classifier"]["config"]["layers"]
    layers.insert(1, keras.saving.serialize_keras_object(lambda_))
    return {**members, CONFIG: json.dumps(config).encode()}


def with_pickle(members, marker):
    """Puts a pickled object in the place of the weights."""
    weights = io.BytesIO()
    np.savez(weights, layers=np.array([RunsCode(marker)], dtype=object), allow_pickle=True)
    others = {name: content for name, content in members.items() if name != WEIGHTS}
    return {**others, "model.weights.npz": weights.getvalue()}


def with_pickled_config(members, marker):
    return {**members, CONFIG: pickle.dumps(RunsCode(marker))}


def with_path_outside(members, marker):
    """Adds an asset that would be written to the marker."""
    return {**members, "assets/" + "../" * 30 + str(marker)[1:]: b"content"}


def with_unknown_function(members, marker):
    """Names a function of Python in the place of a class of Keras."""
    config = json.loads(members[CONFIG])
    call = {"module": "builtins", "class_name": "open", "registered_name": None}
    config["config"]["restorer"] = {**call, "config": {"file": str(marker), "mode": "w"}}
    return {**members, CONFIG: json.dumps(config).encode()}


def with_width(width, members):
    """Claims another width of the restorer than its weights have."""
    config = json.loads(members[CONFIG])
    config["config"]["restorer"]["config"]["width"] = width
    return {**members, CONFIG: json.dumps(config).encode()}


def with_other_shapes(members, marker):
    return with_width(5, members)


def with_absurd_shapes(members, marker):
    """Asks for more memory than any machine has."""
    return with_width(10**9, members)


def with_bomb(members, marker):
    """Adds a gigabyte of zeros, which takes a megabyte in the file, among the assets."""
    return {**members, "assets/zeros": bytes(1 << 30)}


def write(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, content in members.items():
            file.writestr(name, content)


@pytest.mark.parametrize(
    "make",
    [
        with_lambda,
        with_pickle,
        with_pickled_config,
        with_unknown_function,
        with_other_shapes,
        pytest.param(with_absurd_shapes, marks=pytest.mark.slow),
        pytest.param(with_bomb, marks=pytest.mark.slow),
    ],
)
def test_file_of_a_stranger_is_refused(make, members, tmp_path):
    marker = tmp_path / "marker"
    write(tmp_path / "stranger.keras", make(members, marker))
    is_absurd = make is with_absurd_shapes
    expected = tf.errors.ResourceExhaustedError if is_absurd else (ValueError, TypeError)
    with pytest.raises(expected) as refused:
        keras.saving.load_model(tmp_path / "stranger.keras")
    assert str(refused.value) and not marker.exists()


def test_nothing_is_written_outside_of_the_folder(members, tmp_path):
    marker = tmp_path / "marker"
    write(tmp_path / "stranger.keras", with_path_outside(members, marker))
    with pytest.warns(UserWarning, match="Skipping invalid path"):
        keras.saving.load_model(tmp_path / "stranger.keras")
    assert not marker.exists()
