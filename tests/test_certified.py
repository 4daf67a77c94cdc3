"""Certificates hold under every attack, training makes more of them, and the study counts them."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_trn
from experiments.interval_bounds import IntervalTraining
from experiments.interval_bounds import certified
from experiments.interval_bounds import worst_logits
from experiments.recipe import Data
from experiments.recipes import digits as digits_recipe
from experiments.studies import certified as study
from keras_trn.evaluation import Report
from keras_trn.evaluation.packing import unpack_bits

EPSILON = 0.1
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SETTINGS = study.Settings(
    convolutions=((16, 1), (32, 2)),
    units=32,
    epochs=12,
    batch_size=64,
    learning_rate=4e-3,
    images=60,
    check_examples=6,
)


@pytest.fixture(scope="module")
def data():
    splits = keras_trn.datasets.load("digits")
    train, validation, test = (keras_trn.datasets.to_arrays(split) for split in splits)
    return Data(train=None, validation=validation, test=test, arrays=train)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    return study.train(data, EPSILON, 10, SETTINGS, tmp_path_factory.mktemp("training"))


@pytest.mark.slow
def test_training_certifies_most_images_and_training_on_clean_images_hardly_any(data, trained):
    images, labels = map(tf.constant, data.test)
    assert np.mean(certified(trained, images, labels, EPSILON)) >= 0.5
    clean = study.make_classifier((8, 8, 1), 10, SETTINGS)
    clean.compile(
        keras.optimizers.Adam(4e-3), CROSS_ENTROPY, metrics=["accuracy"], jit_compile=False
    )
    clean.fit(*data.arrays, batch_size=64, epochs=5, verbose=0)
    assert clean.evaluate(*data.test, verbose=0)[1] >= 0.9
    assert np.mean(certified(clean, images, labels, EPSILON)) <= 0.05


@pytest.mark.slow
def test_no_attack_breaks_a_certified_image(data, trained):
    images, labels = map(tf.constant, data.test)
    is_certified = np.asarray(certified(trained, images, labels, EPSILON))
    for attack in (
        keras_trn.attacks.ProjectedGradientDescent(EPSILON, steps=40),
        keras_trn.attacks.auto_attack("fast", EPSILON),
    ):
        adversarial = attack(trained, images, labels)
        is_correct = trained.predict(np.asarray(adversarial), verbose=0).argmax(-1) == np.asarray(
            labels
        )
        assert np.all(is_correct[is_certified]), attack.name
        assert is_correct.mean() < 1


@pytest.mark.slow
def test_bounds_hold_for_random_changes_and_are_exact_without_any(data, trained):
    images, labels = (tf.constant(part[:20]) for part in data.test)
    bounds = np.asarray(worst_logits(trained, images, labels, EPSILON))
    random = np.random.default_rng(0)
    for _ in range(50):
        change = EPSILON * random.choice([-1, 1], images.shape).astype("float32")
        logits = np.asarray(trained(tf.clip_by_value(images + change, 0, 1)))
        differences = logits - np.take_along_axis(logits, np.asarray(labels)[:, None], axis=1)
        assert np.all(differences <= bounds + 1e-4)
    logits = np.asarray(trained(images))
    differences = logits - np.take_along_axis(logits, np.asarray(labels)[:, None], axis=1)
    np.testing.assert_allclose(worst_logits(trained, images, labels, 0.0), differences, atol=1e-4)


@pytest.mark.parametrize(
    "layer", [layers.MaxPooling2D(), layers.Conv2D(4, 3, activation="relu")], ids=["pool", "relu"]
)
def test_layers_without_bounds_are_refused(layer):
    images = keras.Input((8, 8, 1))
    features = layers.Flatten()(layer(images))
    classifier = keras.Model(images, layers.Dense(10)(features))
    with pytest.raises(TypeError, match="without activation"):
        worst_logits(classifier, tf.zeros((2, 8, 8, 1)), tf.zeros(2, tf.int64), EPSILON)


def test_head_that_returns_probabilities_is_refused():
    images = keras.Input((8, 8, 1))
    head = layers.Dense(10, activation="softmax")
    classifier = keras.Model(images, head(layers.Flatten()(images)))
    with pytest.raises(TypeError, match="returns logits"):
        worst_logits(classifier, tf.zeros((2, 8, 8, 1)), tf.zeros(2, tf.int64), EPSILON)


def test_epsilon_rises_from_zero(data):
    classifier = study.make_classifier((8, 8, 1), 10, SETTINGS)
    training = IntervalTraining(classifier, EPSILON, warmup_steps=1000)
    training.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    images, labels = data.arrays[0][:64], data.arrays[1][:64].astype("int64")
    first, *_ = training.fit(images, labels, batch_size=64, verbose=0).history["loss"]
    assert first == pytest.approx(float(CROSS_ENTROPY(labels, classifier(images))), rel=1e-4)


@pytest.mark.slow
def test_study_counts_certificates_next_to_a_report_of_attacks(data, trained, tmp_path):
    path = tmp_path / "certified.json"
    (tmp_path / "certified.work").mkdir()
    trained.save(tmp_path / "certified.work" / "classifier.keras")
    recipe = dataclasses.replace(digits_recipe.RECIPE, load=lambda recipe: data, epsilon=EPSILON)
    study.run(recipe, path, SETTINGS)
    report = Report.from_json(path)
    proofs = json.loads((tmp_path / "certified_proofs.json").read_text())
    images, labels = (tf.constant(part[:60]) for part in data.test)
    share = np.mean(certified(trained, images, labels, EPSILON))
    assert proofs["test"]["certified_accuracy"] == pytest.approx(share)
    assert unpack_bits(proofs["test"]["certified"], 60).mean() == pytest.approx(share)
    assert share <= report.worst(study.NAME) <= proofs["test"]["accuracy"]
