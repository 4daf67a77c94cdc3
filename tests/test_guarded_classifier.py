"""The hardened restorer decides the class, and the second one restores the image."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_trn
from experiments.studies import guard
from tests.helpers import predictions
from tests.helpers import random_images
from tests.helpers import randomize


@pytest.fixture(scope="module")
def parts(classifier):
    """A hardened restorer and a second one with a gradient map; neither is trained."""
    hardened = keras_trn.ProtectedClassifier(
        classifier, keras_trn.RestorationAutoencoder(width=8, depth=1, block_size=2)
    )
    randomize(hardened.restorer, scale=0.5)
    second = keras_trn.ProtectedClassifier(
        classifier,
        keras_trn.TwoStreamRestorationNetwork(width=4, depth=1),
        keras_trn.gradient_maps.EstimatedLabel(width=4, depth=1),
    )
    randomize(second.restorer)
    return hardened, second


@pytest.fixture(scope="module")
def guarded(parts):
    hardened, second = parts
    return keras_trn.GuardedClassifier(hardened, second.restorer, second.gradient_map)


def test_class_is_that_of_the_hardened_restorer(parts, guarded, digits):
    images, _ = digits
    hardened, _ = parts
    np.testing.assert_array_equal(guarded(images), hardened(images))


@pytest.mark.slow
def test_restored_image_has_the_class_that_was_decided(guarded, classifier, digits):
    images, _ = digits
    restored = guarded.restore(images)
    np.testing.assert_array_equal(predictions(classifier, restored), predictions(guarded, images))


@pytest.mark.slow
def test_image_is_the_second_one_exactly_where_it_keeps_the_class(
    parts, guarded, classifier, digits
):
    images, _ = digits
    hardened, second = parts
    decided = predictions(hardened, images)
    detailed = second.restore(images)
    keeps_class = predictions(classifier, detailed) == decided
    is_untouched = (predictions(classifier, images) == decided) & ~keeps_class
    others = ~keeps_class & ~is_untouched
    assert keeps_class.any() and others.any()
    restored = guarded.restore(images)
    np.testing.assert_allclose(restored[keeps_class], detailed[keeps_class], atol=1e-6)
    np.testing.assert_array_equal(restored[is_untouched], images[is_untouched])
    np.testing.assert_allclose(restored[others], hardened.restore(images)[others], atol=1e-6)


def test_attacks_see_the_decision_and_not_the_second_restorer(parts, guarded, digits):
    images, labels = digits[0][:20], digits[1][:20]
    attack = keras_trn.attacks.ProjectedGradientDescent(0.2, steps=3, seed=0)
    full = keras_trn.threat_models.WhiteboxFull()
    on_guarded, on_hardened = (
        attack(full.target(model), images, labels).numpy() for model in (guarded, parts[0])
    )
    np.testing.assert_allclose(on_guarded, on_hardened, atol=1e-5)


def test_mixing_adds_the_belief_about_the_unrestored_image(parts, classifier, digits):
    images, _ = digits
    hardened, second = parts
    mixed = keras_trn.GuardedClassifier(hardened, second.restorer, second.gradient_map, mixing=0.3)
    probabilities = [keras.ops.softmax(model(images)) for model in (hardened, classifier)]
    expected = 0.7 * probabilities[0] + 0.3 * probabilities[1]
    np.testing.assert_allclose(np.exp(mixed(images)), expected, atol=1e-5)
    benign = [np.mean(predictions(model, images) == digits[1]) for model in (hardened, mixed)]
    assert benign[1] > benign[0]
    assert mixed.forward_passes == 2


def test_mixing_of_large_logits_stays_finite(classifier, digits):
    certain = keras.Sequential([classifier, keras.layers.Rescaling(30.0)])
    identity = keras_trn.ProtectedClassifier(
        certain, keras_trn.SingleStreamRestorationNetwork(width=4, depth=1)
    )
    mixed = keras_trn.GuardedClassifier(identity, identity.restorer, mixing=0.1)
    images = digits[0][:40]
    logits = certain.predict(images, verbose=0)
    assert np.ptp(logits, axis=-1).min() > 120
    # Both parts see the same image, so the mixture is the classifier's own belief.
    np.testing.assert_allclose(mixed(images), keras.ops.log_softmax(logits), rtol=1e-4, atol=1e-4)


def test_report_measures_the_class_that_is_decided(parts, digits):
    class Decider(keras_trn.GuardedClassifier):
        def call(self, images, labels=None):
            return tf.roll(super().call(images, labels), 1, axis=-1)

    hardened, second = parts
    decider = Decider(hardened, second.restorer, second.gradient_map)
    images, labels = digits[0][:40], digits[1][:40]
    cells = keras_trn.evaluation.measure({"decider": decider}, (images, labels), [], [])
    expected = np.mean(predictions(decider, images) == labels)
    assert [cell["accuracy"] for cell in cells] == [pytest.approx(expected)]
    assert expected != np.mean(predictions(hardened, images) == labels)


@pytest.mark.slow
def test_fresh_process_loads_the_very_same_model(parts, tmp_path):
    hardened, second = parts
    guarded = keras_trn.GuardedClassifier(
        hardened, second.restorer, second.gradient_map, mixing=0.1
    )
    images = random_images(4, 8, 8, 1)
    guarded.save(tmp_path / "guarded.keras")
    program = (
        "import keras, numpy, keras_trn;"
        "guarded = keras.models.load_model('guarded.keras');"
        "assert guarded.classifier is guarded.hardened.classifier;"
        "assert guarded.classifier is guarded.second.classifier;"
        "images = numpy.random.default_rng(0).random((4, 8, 8, 1), dtype='float32');"
        "numpy.savez('outputs.npz', logits=guarded(images), restored=guarded.restore(images))"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    outputs = np.load(tmp_path / "outputs.npz")
    np.testing.assert_array_equal(outputs["logits"], guarded(images))
    np.testing.assert_array_equal(outputs["restored"], guarded.restore(images))


def test_malformed_parts_are_refused(parts, classifier):
    hardened, second = parts
    with pytest.raises(ValueError, match=r"hardened must be a `keras_trn\.ProtectedClassifier`"):
        keras_trn.GuardedClassifier(classifier, second.restorer, second.gradient_map)
    with pytest.raises(ValueError, match="mixing"):
        keras_trn.GuardedClassifier(hardened, second.restorer, second.gradient_map, mixing=0.5)
    with pytest.raises(ValueError, match="does not use the gradient map"):
        keras_trn.GuardedClassifier(hardened, hardened.restorer, second.gradient_map)
    with pytest.raises(ValueError, match="pass the map that it was trained with"):
        keras_trn.GuardedClassifier(hardened, second.restorer)


@pytest.mark.slow
def test_study_measures_all_images_on_the_same_attack(parts, digits, tmp_path):
    settings = guard.Settings(images=16)
    attack = keras_trn.attacks.FastGradientMethod(0.2)
    cells = guard.measure_images(*parts, digits, attack, settings, tmp_path / "cells.jsonl")
    hit = {cell["defence"]: cell for cell in cells if cell["threat_model"] == guard.KNOWS_ALL}
    assert hit["both"]["accuracy"] == hit["hardened restorer"]["accuracy"]
    assert len({cell["attacked_psnr"] for cell in hit.values()}) == 1
    table = guard.images_table(cells)
    assert table.count("| both |") == 3 and "| bare |" not in table


@pytest.mark.slow
def test_study_evaluates_each_mixing(parts, digits, tmp_path):
    settings = guard.Settings(mixing_images=40, mixings=(0.4,), batch_size=20, check_examples=2)
    attack = keras_trn.attacks.FastGradientMethod(0.2)
    (row,) = guard.measure_mixing(*parts, digits, [attack], settings, tmp_path / "report.jsonl")
    mixed = keras_trn.GuardedClassifier(
        parts[0], parts[1].restorer, parts[1].gradient_map, mixing=0.4
    )
    assert row["benign"] == np.mean(predictions(mixed, digits[0][:40]) == digits[1][:40])
    assert row["worst"] < row["benign"]
    assert guard.mixing_table([row]).endswith(
        f"| 0.4 | {100 * row['benign']:.1f} | {100 * row['worst']:.1f} |"
    )
