"""The trained models that come with the package load, and are what their cards say."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_trn
from keras_trn.evaluation import Report
from keras_trn.presets import preset_path

LARGEST_FILE = 4 * 1024**2
RESULTS = Path(__file__).parent.parent / "results"


HARDENED = [name for name in keras_trn.list_presets() if "hardened" in name]


def test_there_are_presets_of_each_data_set():
    plain = {"trn_digits", "trn_fashion_mnist", "trn_cifar10"}
    hardened = {"trn_hardened_fashion_mnist", "trn_hardened_cifar10"}
    assert plain | hardened <= set(keras_trn.list_presets())


@pytest.mark.slow
@pytest.mark.parametrize("name", HARDENED)
def test_hardened_preset_protects_the_classifier_of_the_plain_one(name):
    hardened, plain = (
        keras_trn.ProtectedClassifier.from_preset(preset)
        for preset in (name, name.replace("hardened_", ""))
    )
    weights, expected = (model.classifier.get_weights() for model in (hardened, plain))
    for own, other in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize("name", keras_trn.list_presets())
def test_preset_is_small_and_has_a_card(name):
    assert preset_path(name).stat().st_size < LARGEST_FILE
    card = keras_trn.list_presets()[name]
    for heading in ("### Data", "### Settings", "### Results", "### Limits"):
        assert heading in card


PREDICT_WITH_ALL = """
import numpy as np
import keras_trn

for name in keras_trn.list_presets():
    protected = keras_trn.ProtectedClassifier.from_preset(name)
    images = np.random.default_rng(0).random((4, *protected.image_shape), dtype="float32")
    np.save(f"{name}.npy", protected(images))
"""


@pytest.fixture(scope="module")
def outputs_of_a_fresh_process(tmp_path_factory):
    """The folder with the logits of each preset; one process, as each imports TensorFlow."""
    folder = tmp_path_factory.mktemp("outputs")
    command = [sys.executable, "-c", PREDICT_WITH_ALL]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", keras_trn.list_presets())
def test_preset_loads_in_a_fresh_process_with_identical_outputs(name, outputs_of_a_fresh_process):
    protected = keras_trn.ProtectedClassifier.from_preset(name)
    assert not protected.classifier.trainable
    images = np.random.default_rng(0).random((4, *protected.image_shape), dtype="float32")
    logits = np.load(outputs_of_a_fresh_process / f"{name}.npy")
    np.testing.assert_array_equal(logits, protected(images))


def test_unknown_preset_is_refused_with_the_names_of_those_there_are():
    with pytest.raises(ValueError, match=r"Unknown preset 'trn_mnist'; there are .*trn_fashion"):
        keras_trn.ProtectedClassifier.from_preset("trn_mnist")


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "report", "epsilon"),
    [
        ("trn_digits", "defences_digits", 0.2),
        pytest.param("trn_fashion_mnist", "trn_fashion_mnist", 0.1, marks=pytest.mark.real_data),
        pytest.param("trn_cifar10", "trn_cifar10", 8 / 255, marks=pytest.mark.real_data),
    ],
)
def test_preset_keeps_as_many_classes_as_its_report_says(name, report, epsilon):
    _, _, test = keras_trn.datasets.load(name.removeprefix("trn_"), batch_size=500)
    protected = keras_trn.ProtectedClassifier.from_preset(name)
    images, _ = keras_trn.datasets.to_arrays(test.take(2))
    attack = keras_trn.attacks.ProjectedGradientDescent(epsilon, seed=0)
    adversarial = attack(protected.classifier, images).numpy()
    benign = protected.classifier.predict(images, verbose=0).argmax(-1)
    agreement = np.mean(protected.predict(adversarial, verbose=0).argmax(-1) == benign)
    cell = Report.from_json(RESULTS / f"{report}.json").cell(
        "PGD-20", "oblivious", labels="predicted"
    )
    assert agreement == pytest.approx(cell["agreement"], abs=0.02)


@pytest.mark.slow
def test_preset_is_of_the_class_that_loads_it():
    class Custom(keras_trn.ProtectedClassifier):
        pass

    custom = Custom.from_preset("trn_fashion_mnist")
    assert type(custom) is Custom and custom.class_names[0] == "T-shirt"
    images = np.random.default_rng(0).random((4, 28, 28, 1), dtype="float32")
    preset = keras_trn.ProtectedClassifier.from_preset("trn_fashion_mnist")
    np.testing.assert_array_equal(custom(images), preset(images))


@pytest.mark.real_data
@pytest.mark.parametrize("name", HARDENED)
def test_hardened_preset_withstands_as_much_as_its_report_says(name):
    data = name.removeprefix("trn_hardened_")
    _, _, test = keras_trn.datasets.load(data, batch_size=250)
    images, labels = keras_trn.datasets.to_arrays(test.take(1))
    hardened = keras_trn.ProtectedClassifier.from_preset(name)
    report = Report.from_json(RESULTS / f"{name}.json")
    cell = report.cell("PGD-20", "whitebox_full")
    attack = keras_trn.attacks.ProjectedGradientDescent(cell["epsilon"], seed=0)
    target = keras_trn.threat_models.WhiteboxFull().target(hardened)
    adversarial = attack(target, images, labels).numpy()
    left = np.mean(hardened.predict(adversarial, verbose=0).argmax(-1) == labels)
    # Of the images of the report, the first.
    assert left == pytest.approx(report.correct(cell)[:250].mean(), abs=0.02)
