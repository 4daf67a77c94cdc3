"""What trains and judges the presets goes on where it was, and judges as it says."""

import itertools
import json

import keras
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import tensorflow as tf

import keras_trn
from experiments import baselines
from experiments import classifiers_color_images
from experiments import color_images
from experiments import cost_color_images
from experiments import fashion_mnist
from experiments import filter_strengths
from experiments import preset
from experiments import preset_color_images
from experiments import preset_fashion_mnist
from experiments import tutorials
from experiments.common_setting import count_parameters
from experiments.fused_batch_normalization import FusedBatchNormalization
from keras_trn.evaluation import Report
from keras_trn.presets import FOLDER

FAST = keras_trn.attacks.FastGradientMethod(epsilon=0.2)


@pytest.fixture
def train():
    pipeline, _, _ = keras_trn.datasets.load("digits", batch_size=64)
    return pipeline.take(2)


@pytest.mark.slow
def test_restorers_are_trained_once_and_have_as_many_parameters(
    classifier, protect, train, tmp_path
):
    protected = protect(classifier)
    protected.build((None, 8, 8, 1))
    asked = []

    def make_optimizer(epochs):
        asked.append(epochs)
        return "adam"

    epochs = {"single stream": 2, "HGD": 1, "APE-GAN": 1}
    restorers = baselines.train_restorers(protected, train, epochs, make_optimizer, FAST, tmp_path)
    assert list(restorers) == list(epochs)
    assert asked == [2, 1, 1]
    for restorer in restorers.values():
        assert restorer.gradient_map is None
        parameters = sum(np.prod(weight.shape) for weight in restorer.restorer.trainable_weights)
        assert parameters == pytest.approx(count_parameters(protected), rel=0.25)
    # Whoever had to train again would stumble over the missing images.
    again = baselines.train_restorers(protected, None, epochs, make_optimizer, FAST, tmp_path)
    for name, restorer in restorers.items():
        for one, other in zip(restorer.get_weights(), again[name].get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_training_of_a_restorer_goes_on_with_the_epoch_it_had_reached(
    classifier, protect, digits, tmp_path
):
    drawn = []

    def batches(last):
        for start in (0, 16):
            drawn.append(start)
            if len(drawn) > last:
                raise KeyboardInterrupt("The machine was switched off.")
            # TensorFlow takes what a generator yields for its own, and may write over it.
            yield tuple(part[start : start + 16].copy() for part in digits)

    def train(last):
        drawn.clear()
        signature = (tf.TensorSpec((None, 8, 8, 1)), tf.TensorSpec((None,), "int64"))
        pipeline = tf.data.Dataset.from_generator(lambda: batches(last), output_signature=signature)
        return preset.train_defence(
            protect, classifier, pipeline, 3, tmp_path / "progress", optimizer="adam", attack=FAST
        )

    # A look at the first batch, and two batches in each epoch: in the third, it is over.
    with pytest.raises(Exception, match="switched off"):
        train(last=6)
    train(last=100)
    assert len(drawn) <= 1 + 2
    assert not (tmp_path / "progress").exists()


@pytest.mark.slow
def test_adversarial_training_leaves_the_classifier_and_is_done_once(classifier, train, tmp_path):
    before = classifier.get_weights()
    trained = baselines.train_adversarially(classifier, train, 1, "adam", FAST, tmp_path)
    again = baselines.train_adversarially(classifier, None, 1, None, None, tmp_path)
    for one, other in zip(trained.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(before, classifier.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_judgement_reports_on_all_attackers_and_all_baselines(
    classifier, protect, digits, tmp_path
):
    judgement = preset.TestEvaluation(
        epsilon=0.2,
        epsilons=(0.1,),
        class_names=tuple("0123456789"),
        oblivious_examples=20,
        worst_examples=10,
        queries=5,
    )
    images, labels = (part[:30] for part in digits)
    path = tmp_path / "digits.json"
    filters = {"JPEG": keras_trn.baselines.JpegCompression(classifier)}
    judgement.run(protect(classifier), classifier, filters, (images, labels), path, tmp_path)
    plt.close("all")
    for picture in ("digits.png", "digits_accuracy.png"):
        assert (tmp_path / picture).stat().st_size > 1000
    examples = {"digits": 20, "digits_worst": 10, "digits_all": 30}
    for name, number in examples.items():
        report = Report.from_json(tmp_path / f"{name}.json")
        assert report.defences == ["bare", "protected", "JPEG"]
        assert report.cell("benign")["examples"] == number
    oblivious = Report.from_json(path)
    for attack in ("FGSM", "BIM-20", "PGD-20", "MIM-20"):
        for threat_model in ("oblivious", "transfer"):
            for labels in ("true", "predicted"):
                assert oblivious.cell(attack, threat_model, labels=labels)["examples"] == 20
    worst = Report.from_json(tmp_path / "digits_worst.json")
    for threat_model in ("bpda", "whitebox_stopgrad", "whitebox_full"):
        assert worst.cell("PGD-20", threat_model)["examples"] == 10
    assert worst.cell("Square", "blackbox", "JPEG")["examples"] == 10


@pytest.mark.slow
def test_classifier_learns_mixed_images_first_and_not_again(tmp_path, monkeypatch):
    images = tf.random.stateless_uniform((8, 32, 32, 3), [0, 0])
    pipeline = tf.data.Dataset.from_tensor_slices((images, tf.range(8))).batch(4)
    make = color_images.make_other_classifier
    monkeypatch.setattr(color_images, "training_pipeline", lambda *arguments: pipeline)
    monkeypatch.setattr(classifiers_color_images, "SMALLEST_NUMBER_OF_STEPS", 0)
    monkeypatch.setitem(classifiers_color_images.EPOCHS, make, (1, 1))
    refined = classifiers_color_images.train(make, "cifar10", tmp_path)
    mixed = tmp_path / "make_other_classifier_mixed.keras"
    written = mixed.stat().st_mtime_ns
    assert not np.array_equal(refined(images), keras.saving.load_model(mixed)(images))
    kinds = {type(layer) for layer in refined.layers}
    assert keras.layers.BatchNormalization in kinds and FusedBatchNormalization not in kinds
    classifiers_color_images.train(make, "cifar10", tmp_path)
    assert mixed.stat().st_mtime_ns == written


@pytest.mark.slow
def test_first_restoration_learns_by_itself_before_the_restorer(tmp_path, monkeypatch):
    images = tf.random.stateless_uniform((8, 32, 32, 3), [0, 0])
    pipeline = tf.data.Dataset.from_tensor_slices((images, tf.range(8))).batch(8)
    classifier = color_images.make_other_classifier()
    fast = [keras_trn.attacks.FastGradientMethod(color_images.EPSILON)]
    examples = keras_trn.cache_adversarial_examples(
        classifier, pipeline, fast, tmp_path / "examples", verbose=0
    )
    monkeypatch.setattr(color_images, "_FEW_IMAGES", 0)
    monkeypatch.setattr(color_images, "fresh_attacks", lambda: fast)
    for name, value in {"FIRST_EPOCHS": 2, "EPOCHS": 1, "SMALLEST_NUMBER_OF_STEPS": 0}.items():
        monkeypatch.setattr(preset_color_images, name, value)
    # What the first restoration has learned is still there where nothing more is learned.
    optimizers = iter([keras.optimizers.Adam(1e-2), keras.optimizers.SGD(0.0)])
    monkeypatch.setattr(preset_color_images, "make_optimizer", lambda *_: next(optimizers))
    protected = preset_color_images.train_restorer(classifier, examples, tmp_path)
    first = keras.saving.load_model(tmp_path / "first_restorer.keras", compile=False)
    kept = protected.gradient_map.first_restorer.get_weights()
    for learned, one in zip(first.restorer.get_weights(), kept, strict=True):
        np.testing.assert_array_equal(learned, one)
    # It starts at zero.
    assert np.any(first.restorer.correction.kernel)


def test_fast_attack_takes_one_step_from_a_random_point(classifier, digits):
    images, labels = (part[:8] for part in digits)
    attack = color_images.fast_attack()
    adversarial = attack(classifier, images, labels).numpy()
    assert 0 < np.abs(adversarial - images).max() <= color_images.EPSILON + 1e-6
    assert not np.array_equal(adversarial, attack(classifier, images, labels))


def test_operations_are_counted_and_costs_relative_to_the_bare_classifier():
    matrix = tf.ones((3, 5))
    operations = cost_color_images.count_operations(lambda images: images @ matrix, (7, 3))
    assert operations == 2 * 7 * 3 * 5
    classifier = color_images.make_classifier()

    def forward_and_backward(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = classifier(images, training=False)
        return tape.gradient(logits, images)

    shape = (2, 32, 32, 3)
    forward = cost_color_images.count_operations(classifier, shape)
    both = cost_color_images.count_operations(forward_and_backward, shape)
    assert 2 <= both / forward <= 2.1
    assert cost_color_images.relative({"bare": 2.0, "restoration": 7.0}) == {
        "bare": 1.0,
        "restoration": 3.5,
    }


def test_executed_tutorial_keeps_what_is_for_readers():
    def cell(source, **metadata):
        output = nbformat.v4.new_output("stream", text="shown")
        return nbformat.v4.new_code_cell(source, metadata=metadata, outputs=[output])

    kernel = {"name": "python3", "display_name": "Python 3"}
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("text", metadata={"papermill": {"duration": 1.0}}),
            cell("parameters", tags=["injected-parameters"]),
            cell("plot", alt="What it shows.", tags=["a"], papermill={"duration": 2.0}),
            cell("noisy", tags=["remove_output"]),
        ],
        metadata={"kernelspec": kernel, "papermill": {"duration": 3.0}},
    )
    cleaned = tutorials.cleaned(notebook)
    assert [c.source for c in cleaned.cells] == ["text", "plot", "noisy"]
    assert [dict(c.metadata) for c in cleaned.cells] == [
        {},
        {"alt": "What it shows.", "tags": ["a"]},
        {"tags": ["remove_output"]},
    ]
    assert [len(c.get("outputs", [])) for c in cleaned.cells] == [0, 1, 0]
    assert dict(cleaned.metadata) == {"kernelspec": kernel}


def test_filters_are_as_strong_as_is_best_for_validation_images(
    classifier, digits, tmp_path, monkeypatch
):
    candidates = {
        "JPEG": (keras_trn.baselines.JpegCompression, "quality", (90, 5)),
        "bit depth": (keras_trn.baselines.BitDepthReduction, "bits", (8, 1)),
    }
    monkeypatch.setattr(filter_strengths, "CANDIDATES", candidates)
    images, labels = validation = [part[:100] for part in digits]
    path, backup = tmp_path / "filters.json", tmp_path / "filters.jsonl"
    chosen = filter_strengths.choose_strengths(classifier, validation, 0.2, path, backup)
    results = json.loads(path.read_text())
    assert results["examples"] == 100
    measured = results["accuracies"]
    assert list(measured) == [
        "JPEG, quality 90",
        "JPEG, quality 5",
        "bit depth, bits 8",
        "bit depth, bits 1",
    ]
    for title, accuracies in measured.items():
        assert list(accuracies) == ["benign", "PGD-20", "FGSM"], title
    for quality in (90, 5):
        jpeg = keras_trn.baselines.JpegCompression(classifier, quality=quality)
        predicted = jpeg.predict(images, verbose=0).argmax(-1)
        assert measured[f"JPEG, quality {quality}"]["benign"] == np.mean(predicted == labels)
    best = max((90, 5), key=lambda quality: sum(measured[f"JPEG, quality {quality}"].values()))
    assert chosen["JPEG"] == best
    filters = filter_strengths.make_filters(classifier, {"JPEG": 30, "bit depth": 3})
    assert filters["JPEG"].quality == 30 and filters["bit depth"].bits == 3
    assert results["chosen"]["JPEG"] == f"JPEG, quality {best}"
    other = 95 - best
    table = path.with_suffix(".md").read_text()
    assert f"| **JPEG, quality {best}** |" in table and f"| JPEG, quality {other} |" in table


def test_of_equal_strengths_the_weakest_filter_is_chosen():
    accuracies = {("bit depth", bits): {"benign": 0.9, "FGSM": 0.1} for bits in (5, 4, 3, 2, 1)}
    assert filter_strengths.best_strength(accuracies, "bit depth") == 5
    accuracies["bit depth", 3] = {"benign": 0.8, "FGSM": 0.3}
    assert filter_strengths.best_strength(accuracies, "bit depth") == 3


@pytest.fixture
def digits_as_house_numbers(digits, monkeypatch):
    """Digits in the size and colours of SVHN, in its place."""

    def load(name, batch_size=128, shuffle=True):
        assert name == "svhn_cropped"
        images, labels = (part[:96] for part in digits)
        images = tf.image.grayscale_to_rgb(tf.image.resize(images, (32, 32)))
        examples = tf.data.Dataset.from_tensor_slices((images, tf.cast(labels, tf.int64)))
        parts = examples.take(64), examples.skip(64).take(16), examples.skip(80)
        return [part.batch(batch_size) for part in parts]

    monkeypatch.setattr(keras_trn.datasets, "load", load)


@pytest.mark.slow
def test_command_for_few_colour_images_trains_and_judges_all_defences(
    digits_as_house_numbers, tmp_path, monkeypatch
):
    for make in classifiers_color_images.EPOCHS:
        monkeypatch.setitem(classifiers_color_images.EPOCHS, make, (1, 1))
    for module in (classifiers_color_images, preset_color_images):
        monkeypatch.setattr(module, "SMALLEST_NUMBER_OF_STEPS", 1)
        monkeypatch.setattr(module, "BATCH_SIZE", 16)
    for name in ("EPOCHS", "ADVERSARIAL_EPOCHS"):
        monkeypatch.setattr(preset_color_images, name, 1)
    epochs = dict.fromkeys(preset_color_images.BASELINE_EPOCHS, 1)
    monkeypatch.setattr(preset_color_images, "BASELINE_EPOCHS", epochs)
    judged = {}

    def judge(self, protected, other, others, test, path, folder):
        judged.update(protected=protected, other=other, **others)

    monkeypatch.setattr(preset.TestEvaluation, "run", judge)
    shipped = (FOLDER / f"{color_images.PRESET}.keras").read_bytes()
    preset_color_images.main("svhn_cropped", tmp_path / "svhn.json")
    filters = ["JPEG", "bit depth", "median", "total variation"]
    learned = ["single stream", "HGD", "APE-GAN", "adversarial training"]
    assert list(judged) == ["protected", "other", *filters, *learned]
    # So few images are not enough to learn from alone: both have started from CIFAR-10.
    trained = keras_trn.ProtectedClassifier.from_preset(color_images.PRESET)
    for part in ("classifier", "restorer"):
        kernels = (getattr(model, part).weights[0] for model in (judged["protected"], trained))
        assert np.corrcoef(*map(np.ravel, kernels))[0, 1] > 0.8
    for name in ("svhn_classifiers.md", "svhn_filters.md"):
        assert (tmp_path / name).read_text().startswith("| ")
    assert (FOLDER / f"{color_images.PRESET}.keras").read_bytes() == shipped


@pytest.mark.slow
def test_command_for_fashion_mnist_chooses_filters_by_images_that_were_not_trained_on(
    digits, tmp_path, monkeypatch
):
    images, labels = (part[:112] for part in digits)
    images = tf.image.resize(images, (28, 28)).numpy()
    bounds = (0, 64, 96, 112)
    arrays = [(images[a:b], labels[a:b]) for a, b in itertools.pairwise(bounds)]
    monkeypatch.setattr(fashion_mnist, "load_arrays", lambda: arrays)
    for name, value in {"BATCH_SIZE": 16, "CLASSIFIER_EPOCHS": 1, "RESTORER_EPOCHS": 1}.items():
        monkeypatch.setattr(preset_fashion_mnist, name, value)
    monkeypatch.setattr(preset_fashion_mnist, "FOLDER", tmp_path / "presets")
    (tmp_path / "presets").mkdir()
    trained_on, judged = [], {}
    train_classifier = fashion_mnist.train_classifier

    def train(classifier, pipeline, *arguments):
        trained_on.append((classifier, len(pipeline) * 16))
        return train_classifier(classifier, pipeline, *arguments)

    def choose(self, classifier, validation, path, folder):
        classifiers = {number: one for one, number in reversed(trained_on)}
        for one, other in zip(classifiers[64].weights, classifier.weights, strict=True):
            np.testing.assert_array_equal(one, other)
        assert validation is arrays[1]
        return {"JPEG": 30, "bit depth": 3, "median": 3, "total variation": 10.0}

    def judge(self, protected, other, others, test, path, folder):
        judged.update(protected=protected, **others)
        assert test is arrays[2]

    monkeypatch.setattr(fashion_mnist, "train_classifier", train)
    monkeypatch.setattr(preset.TestEvaluation, "choose_strengths", choose)
    monkeypatch.setattr(preset.TestEvaluation, "run", judge)
    preset_fashion_mnist.main(tmp_path / "fashion.json")
    assert [number for _, number in trained_on] == [96, 96, 64]
    classifier = trained_on[0][0]
    for name in ("protected", "JPEG", "single stream"):
        for one, other in zip(classifier.weights, judged[name].classifier.weights, strict=True):
            np.testing.assert_array_equal(one, other)
    assert judged["JPEG"].quality == 30
    assert (tmp_path / "presets" / "trn_fashion_mnist.keras").exists()
