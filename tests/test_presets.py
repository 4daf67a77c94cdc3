"""The trained models that come with the package load, and are what their cards say."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_trn
from keras_trn.evaluation import Report
from keras_trn.presets import preset_path

LARGEST_FILE = 2 * 1024**2
RESULTS = Path(__file__).parent.parent / "results"


def test_there_is_a_preset_for_fashion_mnist():
    assert "trn_fashion_mnist" in keras_trn.list_presets()


@pytest.mark.parametrize("name", keras_trn.list_presets())
def test_preset_is_small_and_has_a_card(name):
    assert preset_path(name).stat().st_size < LARGEST_FILE
    card = keras_trn.list_presets()[name]
    for heading in ("### Data", "### Settings", "### Results", "### Limits"):
        assert heading in card


@pytest.mark.parametrize("name", keras_trn.list_presets())
def test_preset_loads_in_a_fresh_process_with_identical_outputs(name, tmp_path):
    protected = keras_trn.ProtectedClassifier.from_preset(name)
    assert not protected.classifier.trainable
    images = np.random.default_rng(0).random((4, *protected.image_shape), dtype="float32")
    program = (
        "import numpy, keras_trn;"
        f"protected = keras_trn.ProtectedClassifier.from_preset({name!r});"
        "shape = (4, *protected.image_shape);"
        "images = numpy.random.default_rng(0).random(shape, dtype='float32');"
        "numpy.save('logits.npy', protected(images))"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), protected(images))


def test_unknown_preset_is_refused_with_the_names_of_those_there_are():
    with pytest.raises(ValueError, match=r"Unknown preset 'trn_mnist'; there are .*trn_fashion"):
        keras_trn.ProtectedClassifier.from_preset("trn_mnist")


def test_preset_can_be_trained_further():
    protected = keras_trn.ProtectedClassifier.from_preset("trn_fashion_mnist")
    images = np.random.default_rng(0).random((4, 28, 28, 1), dtype="float32")
    protected.compile(attack=keras_trn.attacks.FastGradientMethod(0.1))
    parts = [protected.restorer, protected.classifier]
    before = [[weight.numpy() for weight in part.weights] for part in parts]
    protected.fit(images, np.arange(4), epochs=1, verbose=0)
    moved, frozen = (
        [not np.array_equal(*pair) for pair in zip(part.weights, weights, strict=True)]
        for part, weights in zip(parts, before, strict=True)
    )
    assert all(moved) and not any(frozen)


def test_report_of_the_preset_says_what_it_promises():
    report = Report.from_json(RESULTS / "trn_fashion_mnist.json")
    benign, bare = report.cell("benign"), report.cell("benign", defence="bare")
    assert benign["examples"] >= 2000
    assert bare["accuracy"] >= 0.92
    assert benign["accuracy"] >= bare["accuracy"] - 0.005
    assert report.cell("PGD-20", "oblivious", "bare")["accuracy"] <= 0.01
    for attack in ("FGSM", "BIM-20", "PGD-20", "MIM-20"):
        assert report.cell(attack, "oblivious", labels="predicted")["agreement"] >= 0.92


@pytest.mark.real_data
def test_preset_reaches_the_accuracy_of_its_report():
    _, _, test = keras_trn.datasets.load("fashion_mnist", batch_size=500)
    protected = keras_trn.ProtectedClassifier.from_preset("trn_fashion_mnist")
    images, _ = keras_trn.datasets.to_arrays(test.take(2))
    attack = keras_trn.attacks.ProjectedGradientDescent(0.1, seed=0)
    adversarial = attack(protected.classifier, images).numpy()
    benign = protected.classifier.predict(images, verbose=0).argmax(-1)
    agreement = np.mean(protected.predict(adversarial, verbose=0).argmax(-1) == benign)
    assert agreement >= 0.92
    bare = protected.classifier.predict(adversarial, verbose=0).argmax(-1)
    assert np.mean(bare == benign) < 0.05
