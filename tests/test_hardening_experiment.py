"""A hardened preset continues after an interruption, and is what is evaluated."""

import dataclasses
import io
import zipfile

import h5py
import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import keras_trn
from experiments.harden import HardeningExperiment
from experiments.hardening import harden
from experiments.recipe import ClassifierRecipe
from experiments.recipe import Data
from experiments.recipe import Evaluation
from experiments.recipe import Hardening
from experiments.recipe import HardeningRecipe
from experiments.recipes import digits as digits_recipe
from experiments.reports import overview
from experiments.reports import read_report
from keras_trn.evaluation import Report

pytestmark = pytest.mark.slow

FAST = keras_trn.attacks.FastGradientMethod(epsilon=0.2)
SETTINGS = Hardening(epochs=2, batch_size=16, validation_images=8)


@pytest.fixture(scope="module")
def data(digits):
    images, labels = digits
    train, validation, test = (
        (images[part], labels[part]) for part in (slice(32), slice(32, 48), slice(48, 72))
    )

    def pipeline(size):
        return tf.data.Dataset.from_tensor_slices(train).batch(size)

    return Data(pipeline, validation, test, arrays=train)


def test_preset_keeps_the_classifier_and_is_what_is_evaluated(
    data, classifier, tmp_path, monkeypatch
):
    # The checks are slow, and not part of this.
    monkeypatch.setattr("keras_trn.evaluation.evaluator.run_checks", lambda examination: [])
    plain = tmp_path / "plain.keras"
    keras_trn.ProtectedClassifier(classifier, keras_trn.SingleStreamRestorationNetwork(4, 1)).save(
        plain
    )
    monkeypatch.setattr("experiments.harden.preset_path", lambda name: plain)
    surrogate = ClassifierRecipe(digits_recipe.make_surrogate, epochs=(1,))
    recipe = HardeningRecipe(
        plain=dataclasses.replace(digits_recipe.RECIPE, surrogate=surrogate, preset="plain"),
        settings=SETTINGS,
        restorer={"width": 4, "depth": 1},
        make_large_classifier=digits_recipe.make_classifier,
        filters={"bit depth": 1},
        evaluations=[Evaluation([FAST], ("oblivious", "transfer", "whitebox_full"), examples=16)],
        preset="hardened",
    )
    path = tmp_path / "hardened.json"
    HardeningExperiment(recipe, path, data).run(tmp_path)
    assert Report.from_json(path).defences == [
        "bare",
        "protected",
        "plain restorer",
        "bit depth",
        "adversarial training",
        "adversarial training, larger network",
    ]
    table = overview(read_report(path))
    assert list(table.columns) == [
        "defence",
        "benign",
        "worst",
        "full knowledge",
        "transfer",
        "no knowledge",
    ]
    assert list(table["defence"]) == Report.from_json(path).defences
    assert (table["worst"] <= table.drop(columns=["defence", "worst"]).min(axis=1)).all()
    # All but the classifier is stored in half precision; Keras files the restorer under layers.
    assert stored_dtypes(tmp_path / "hardened.keras") == {
        ("layers", "float16"),
        ("classifier", "float32"),
    }
    shipped = keras.saving.load_model(tmp_path / "hardened.keras", compile=False)
    evaluated = keras.saving.load_model(tmp_path / "hardened.work/restorer.keras", compile=False)
    for weight, other in zip(shipped.get_weights(), evaluated.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)
    for weight, other in zip(shipped.classifier.weights, classifier.weights, strict=True):
        np.testing.assert_array_equal(weight, other)


def stored_dtypes(path):
    """Returns the parts of a `.keras` file, each with the type of its weights."""
    found = set()

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            found.add((name.split("/")[0], str(item.dtype)))

    with zipfile.ZipFile(path) as archive:
        h5py.File(io.BytesIO(archive.read("model.weights.h5"))).visititems(visit)
    return found


def test_interrupted_training_continues(data, tmp_path, monkeypatch):
    first_epochs = []
    for name in ("interrupted", "whole"):
        keras.utils.set_random_seed(0)
        model = digits_recipe.make_surrogate()
        arguments = (model, data.arrays, data.validation, 0.2, SETTINGS, tmp_path / name)
        if name == "interrupted":
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(keras.callbacks.CSVLogger, "on_epoch_begin", interrupt_second_epoch)
                harden(*arguments)
        harden(*arguments)
        log = pd.read_csv(tmp_path / name / "log.csv")
        assert log["epoch"].tolist() == [0, 1]
        first_epochs.append(log.loc[0, "val_robust_accuracy"])
    assert first_epochs[0] == first_epochs[1]


def interrupt_second_epoch(callback, epoch, logs=None):
    if epoch == 1:
        raise KeyboardInterrupt


def test_hardening_withstands_more_than_clean_training(digits, tmp_path):
    images, labels = digits
    train, validation = (images[:-128], labels[:-128]), (images[-128:], labels[-128:])
    keras.utils.set_random_seed(0)
    settings = Hardening(epochs=30, momentum=0.9, learning_rate=5e-3, mirrored_share=0.0)
    model = harden(digits_recipe.make_classifier(), train, validation, 0.15, settings, tmp_path)
    attack = keras_trn.attacks.ProjectedGradientDescent(0.15, seed=0)
    adversarial = attack(model, *validation)
    robust = np.mean(model.predict(adversarial, verbose=0).argmax(-1) == validation[1])
    plain = digits_recipe.make_classifier()
    plain.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    plain.fit(*train, epochs=30, verbose=0)
    adversarial = attack(plain, *validation)
    undefended = np.mean(plain.predict(adversarial, verbose=0).argmax(-1) == validation[1])
    assert robust > undefended + 0.2
