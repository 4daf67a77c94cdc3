"""The report says what the attacks did, with and without the restorer."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import keras_trn
from keras_trn.evaluation.tables import with_tables

ROOT = Path(__file__).parent.parent


@pytest.fixture
def dataset(digits):
    return tf.data.Dataset.from_tensor_slices(digits).batch(100)


@pytest.fixture
def attacks():
    return [
        keras_trn.attacks.FastGradientMethod(epsilon=0.2),
        keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=5, seed=0),
    ]


def test_untrained_protection_changes_nothing(classifier, dataset, attacks, protect):
    report = keras_trn.evaluate(protect(classifier), dataset, attacks, verbose=0)
    assert [row["attack"] for row in report.rows] == ["benign", "FGSM", "PGD-5"]
    for row in report.rows:
        assert row["examples"] == 360
        assert row["bare_accuracy"] == row["protected_accuracy"]
        assert row["attacked_psnr"] == row["restored_psnr"]
    assert report.row("benign")["agreement"] == 1.0
    assert report.row("PGD-5")["bare_accuracy"] < report.row("benign")["bare_accuracy"] - 0.5


def test_accuracies_are_those_of_predict(classifier, digits, dataset, attacks, protect):
    images, labels = digits
    protected = protect(classifier)
    protected.fit(images, labels, epochs=2, verbose=0)
    report = keras_trn.evaluate(protected, dataset, attacks[:1], verbose=0)
    adversarial = attacks[0](classifier, images, labels)
    predicted = protected.predict(np.asarray(adversarial), verbose=0).argmax(-1)
    assert report.row("FGSM")["protected_accuracy"] == np.mean(predicted == labels)
    benign = classifier.predict(images, verbose=0).argmax(-1)
    assert report.row("FGSM")["agreement"] == np.mean(predicted == benign)


def test_bad_data_are_refused(classifier, digits, attacks, protect):
    images, labels = digits
    bad = tf.data.Dataset.from_tensor_slices((images * 255, labels)).batch(100)
    with pytest.raises(ValueError, match="received values from 0 to 255"):
        keras_trn.evaluate(protect(classifier), bad, [], verbose=0)


def test_predicted_labels_give_another_attack(classifier, digits, attacks, protect):
    images, labels = digits
    wrong = tf.data.Dataset.from_tensor_slices((images, (labels + 1) % 10)).batch(120)
    protected = protect(classifier)
    true = keras_trn.evaluate(protected, wrong, attacks[:1], labels="true", verbose=0)
    predicted = keras_trn.evaluate(protected, wrong, attacks[:1], labels="predicted", verbose=0)
    # Leading away from a wrong label leads towards agreement, not away from it.
    assert true.row("FGSM")["agreement"] > predicted.row("FGSM")["agreement"] + 0.3
    with pytest.raises(ValueError, match="'true' or 'predicted'"):
        keras_trn.evaluate(protected, wrong, attacks, labels="guessed")


def test_report_can_be_repeated_read_and_written(classifier, dataset, attacks, protect, tmp_path):
    protected = protect(classifier)
    report = keras_trn.evaluate(protected, dataset, attacks, verbose=0)
    again = keras_trn.evaluate(protected, dataset, attacks, verbose=0)
    assert report.rows == again.rows
    report.to_json(tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["rows"] == report.rows
    assert str(keras_trn.evaluation.Report.from_json(tmp_path / "report.json")) == str(report)
    assert written["threat_model"] == "oblivious"
    assert written["versions"]["keras"]
    assert written["rows"][2]["settings"]["config"]["steps"] == 5
    assert "oblivious" in str(report) and "PGD-5" in str(report)
    assert report.to_markdown().count("\n") == 4
    with pytest.raises(KeyError, match="there are 'benign', 'FGSM', 'PGD-5'"):
        report.row("MIM")


def test_pictures_show_every_image_in_four_ways(classifier, digits, attacks, protect):
    images, labels = digits
    figure = keras_trn.visualization.plot_restorations(
        protect(classifier), images[:3], labels[:3], attacks[0]
    )
    assert len(figure.axes) == 12
    titles = [axis.get_title() for axis in figure.axes[:4]]
    assert titles == ["image", "FGSM", "gradient map", "restored"]


def test_table_goes_to_its_place_and_nowhere_else(tmp_path):
    row = {
        "attack": "FGSM",
        "settings": None,
        "examples": 2,
        "bare_accuracy": 0.0,
        "protected_accuracy": 1.0,
        "agreement": 0.5,
        "attacked_psnr": 14.0,
        "restored_psnr": 20.0,
    }
    report = keras_trn.evaluation.Report([row], labels="true", seconds=1.0)
    report.to_json(tmp_path / "a.json")
    page = "Before.\n<!-- table of a.json -->\nstale\n<!-- end of table -->\nAfter."
    filled = with_tables(page, tmp_path)
    assert "| FGSM | 0.0 | 100.0 | 50.0 | 14.0 | 20.0 |" in filled
    assert "stale" not in filled
    assert filled.startswith("Before.") and filled.endswith("After.")
    assert with_tables(filled, tmp_path) == filled


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/method.md"])
def test_pages_show_the_results_as_they_are(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "<!-- table of results/" in text
    assert with_tables(text, ROOT) == text
