"""An experiment trains and evaluates what its recipe says, and continues after an interruption."""

import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_trn
from experiments.filters import FILTERS
from experiments.filters import best_strength
from experiments.filters import choose_strengths
from experiments.filters import make_filters
from experiments.fused_batch_normalization import FusedBatchNormalization
from experiments.recipe import ClassifierRecipe
from experiments.recipe import Data
from experiments.recipe import Evaluation
from experiments.recipes import color_images
from experiments.recipes import digits as digits_recipe
from experiments.recipes import svhn_cropped
from experiments.run import Experiment
from experiments.training import count_parameters
from experiments.training import load_or_train
from experiments.training import make_single_stream
from experiments.training import train_defence
from keras_trn.evaluation import Report

FAST = keras_trn.attacks.FastGradientMethod(epsilon=0.2)
TINY_MAP = {"width": 4, "depth": 1}
TINY_CLASSIFIER = ClassifierRecipe(digits_recipe.make_surrogate, epochs=(1,))


@pytest.fixture(scope="module")
def tiny(digits):
    """A recipe with 32 training images, 16 for validation, and 24 test images."""
    images, labels = digits
    train, validation, test = (
        (images[part], labels[part]) for part in (slice(32), slice(32, 48), slice(48, 72))
    )
    both = images[:48], labels[:48]

    def pipeline(arrays):
        return lambda size: tf.data.Dataset.from_tensor_slices(arrays).batch(size)

    data = Data(pipeline(both), validation, test, pipeline(train), pipeline(both)(16))
    return dataclasses.replace(
        digits_recipe.RECIPE,
        load=lambda recipe: data,
        classifier=TINY_CLASSIFIER,
        surrogate=dataclasses.replace(TINY_CLASSIFIER),
        restorer=TINY_MAP,
        gradient_map=TINY_MAP,
        attacks=[FAST],
        fresh_attacks=[FAST],
        batch_size=16,
        first_epochs=1,
        epochs=1,
        adversarial_attacks=[FAST],
        adversarial_epochs=1,
        evaluations=[
            Evaluation([FAST], ("oblivious", "transfer"), examples=16, plots=("accuracy",))
        ],
        check_examples=4,
        class_names=tuple("0123456789"),
        classifiers_table=True,
        preset="tiny",
        half_precision=True,
    )


class Recorded(Experiment):
    """An experiment that keeps what it would evaluate."""

    def evaluate(self, protected, surrogate, baselines):
        self.evaluated = {"protected": protected, "surrogate": surrogate, **baselines}


@pytest.mark.slow
def test_run_trains_all_defences_once_and_evaluates_what_it_ships(tiny, tmp_path):
    path, presets = tmp_path / "tiny.json", tmp_path / "presets"
    presets.mkdir()
    experiment = Recorded(tiny, path)
    experiment.run(presets)
    learned = ["single stream", "HGD", "APE-GAN", "adversarial training"]
    assert list(experiment.evaluated) == ["protected", "surrogate", *FILTERS, *learned]
    for ending in ("_classifiers.md", "_filters.md"):
        assert (tmp_path / f"tiny{ending}").read_text().startswith("| ")

    # What is evaluated is what is shipped, rounded to half precision.
    shipped = keras.saving.load_model(presets / "tiny.keras", compile=False)
    for weight, other in zip(
        shipped.get_weights(), experiment.evaluated["protected"].get_weights(), strict=True
    ):
        np.testing.assert_array_equal(weight, other)
    for weight in shipped.restorer.get_weights():
        np.testing.assert_array_equal(weight, weight.astype("float16"))

    # The filters are chosen with the classifier that was trained without the validation images.
    held_out = experiment.folder / "classifier without validation.keras"
    jpeg = keras_trn.baselines.JpegCompression(keras.saving.load_model(held_out), quality=90)
    images, labels = experiment.data.validation
    accuracy = (jpeg.predict(images, verbose=0).argmax(-1) == labels).mean()
    measured = json.loads((tmp_path / "tiny_filters.json").read_text())["accuracies"]
    assert measured["JPEG, quality 90"]["benign"] == pytest.approx(accuracy)

    trained = set(experiment.folder.glob("*.keras")) - {experiment.folder / "shipped.keras"}
    written = {model: model.stat().st_mtime_ns for model in trained}
    Recorded(tiny, path).run(presets)
    assert {model: model.stat().st_mtime_ns for model in trained} == written


@pytest.mark.slow
def test_evaluation_reports_on_all_that_is_planned(tiny, classifier, digits, tmp_path, monkeypatch):
    # The checks are slow, and not part of this.
    monkeypatch.setattr("keras_trn.evaluation.evaluator.run_checks", lambda examination: [])
    plan = dataclasses.replace(tiny.evaluations[0], threat_models=("oblivious", "transfer", "bpda"))
    recipe = dataclasses.replace(tiny, evaluations=[dataclasses.replace(plan, suffix="_all")])
    experiment = Experiment(recipe, tmp_path / "tiny.json")
    experiment.evaluate(tiny.protect(classifier), classifier, {})
    for ending in (".png", "_all_accuracy.png"):
        assert (tmp_path / f"tiny{ending}").stat().st_size > 1000
    report = Report.from_json(tmp_path / "tiny_all.json")
    for threat_model in ("oblivious", "transfer"):
        for labels in ("true", "predicted"):
            assert report.cell("FGSM", threat_model, labels=labels)["examples"] == 16
    assert report.cell("FGSM", "bpda")["examples"] == 16


@pytest.mark.slow
def test_first_restorer_learns_alone_before_the_restorer(tiny, tmp_path):
    experiment = Experiment(tiny, tmp_path / "tiny.json")
    classifier = experiment.train_classifier(tiny.classifier, "classifier", experiment.data.train)
    make_pipeline = experiment.restorer_pipeline(classifier)
    experiment.train_restorer(classifier, make_pipeline)
    (experiment.folder / "restorer.keras").unlink()
    # Where nothing more is learned, the gradient map is still what the first restorer learned.
    still = dataclasses.replace(tiny, learning_rate=0.0, half_precision=False)
    protected = Experiment(still, experiment.path).train_restorer(classifier, make_pipeline)
    first = keras.saving.load_model(experiment.folder / "first restorer.keras", compile=False)
    kept = protected.gradient_map.first_restorer.get_weights()
    for learned, one in zip(first.restorer.get_weights(), kept, strict=True):
        np.testing.assert_array_equal(learned, one)
    # It starts at zero.
    assert np.any(first.restorer.correction.kernel)


@pytest.mark.slow
def test_training_of_a_defence_continues_with_the_epoch_it_had_reached(
    tiny, classifier, digits, tmp_path
):
    drawn = []

    def batches(last):
        for start in (0, 16):
            drawn.append(start)
            if len(drawn) > last:
                raise KeyboardInterrupt("The machine was switched off.")
            # TensorFlow may write over what a generator yields.
            yield tuple(part[start : start + 16].copy() for part in digits)

    def train(last):
        drawn.clear()
        signature = (tf.TensorSpec((None, 8, 8, 1)), tf.TensorSpec((None,), "int64"))
        pipeline = tf.data.Dataset.from_generator(lambda: batches(last), output_signature=signature)
        pipeline = pipeline.apply(tf.data.experimental.assert_cardinality(2))
        return train_defence(
            lambda: tiny.protect(classifier),
            lambda: pipeline,
            3,
            tiny,
            tmp_path / "progress",
            learning_rate=1e-3,
            attack=FAST,
        )

    # A look at the first batch, and two batches in each epoch: in the third, it is over.
    with pytest.raises(Exception, match="switched off"):
        train(last=6)
    train(last=100)
    assert len(drawn) <= 1 + 2
    assert not (tmp_path / "progress").exists()


def test_half_written_model_is_trained_again(tmp_path, monkeypatch):
    made = []

    def train():
        made.append(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
        return made[-1]

    def write_half(model, path):
        Path(path).write_bytes(b"half a model")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(keras.Model, "save", write_half)
        load_or_train(tmp_path / "model.keras", train)
    assert not list(tmp_path.iterdir())
    first, second = (load_or_train(tmp_path / "model.keras", train) for _ in "12")
    assert len(made) == 2
    np.testing.assert_array_equal(first.get_weights()[0], second.get_weights()[0])


def test_single_stream_has_as_many_parameters_as_restorer_and_gradient_map(tiny, classifier):
    protected = tiny.protect(classifier)
    baseline = make_single_stream(protected)
    baseline.build((None, 8, 8, 1))
    assert baseline.count_params() == pytest.approx(count_parameters(protected), rel=0.25)


# --- Filters --------------------------------------------------------------------------


@pytest.mark.slow
def test_filters_are_as_strong_as_is_best_for_validation_images(classifier, digits, tmp_path):
    filters = {
        "JPEG": FILTERS["JPEG"]._replace(strengths=(90, 5)),
        "bit depth": FILTERS["bit depth"]._replace(strengths=(8, 1)),
    }
    images, labels = validation = tuple(part[:50] for part in digits)
    path = tmp_path / "filters.json"
    checkpoint = tmp_path / "filters.jsonl"
    chosen = choose_strengths(classifier, validation, 0.2, path, checkpoint, filters)
    results = json.loads(path.read_text())
    assert results["examples"] == 50
    measured = results["accuracies"]
    for title, accuracies in measured.items():
        assert list(accuracies) == ["benign", "PGD-20", "FGSM"], title
    jpeg = keras_trn.baselines.JpegCompression(classifier, quality=5)
    accuracy = np.mean(jpeg.predict(images, verbose=0).argmax(-1) == labels)
    assert measured["JPEG, quality 5"]["benign"] == pytest.approx(accuracy)
    best = max((90, 5), key=lambda quality: sum(measured[f"JPEG, quality {quality}"].values()))
    assert chosen["JPEG"] == best
    assert results["chosen"]["JPEG"] == f"JPEG, quality {best}"
    table = path.with_suffix(".md").read_text()
    assert f"| **JPEG, quality {best}** |" in table and f"| JPEG, quality {95 - best} |" in table
    made = make_filters(classifier, {"JPEG": 30, "bit depth": 3})
    assert made["JPEG"].quality == 30 and made["bit depth"].bits == 3


def test_of_equal_strengths_the_weakest_filter_is_chosen():
    accuracies = {("bit depth", bits): {"benign": 0.9, "FGSM": 0.1} for bits in (5, 4, 3, 2, 1)}
    assert best_strength(accuracies, "bit depth") == 5
    accuracies["bit depth", 3] = {"benign": 0.8, "FGSM": 0.3}
    assert best_strength(accuracies, "bit depth") == 3


# --- Color images ---------------------------------------------------------------------


@pytest.fixture
def house_numbers():
    """The recipe for SVHN, with a few random images."""
    images = tf.random.stateless_uniform((8, 32, 32, 3), [0, 0])
    pipeline = tf.data.Dataset.from_tensor_slices((images, tf.range(8)))
    arrays = images.numpy(), np.arange(8)
    data = Data(pipeline.batch, arrays, arrays, ordered=pipeline.batch(8))
    return dataclasses.replace(
        svhn_cropped.RECIPE,
        load=lambda recipe: data,
        classifier=ClassifierRecipe(color_images.make_classifier, (1, 1)),
        surrogate=ClassifierRecipe(color_images.make_surrogate, (1, 1)),
        classifier_batch_size=8,
        batch_size=8,
        smallest_classifier_steps=0,
        smallest_steps=0,
        attacks=[FAST],
        fresh_attacks=[FAST],
        epochs=1,
        half_precision=False,
    )


@pytest.mark.slow
def test_few_color_images_start_from_the_preset(house_numbers, tmp_path):
    experiment = Experiment(house_numbers, tmp_path / "svhn.json")
    classifier = experiment.train_classifier(
        house_numbers.classifier, "classifier", experiment.data.train
    )
    protected = experiment.train_restorer(classifier, experiment.restorer_pipeline(classifier))
    preset = keras_trn.ProtectedClassifier.from_preset("trn_cifar10")
    for part in ("classifier", "restorer"):
        kernels = (getattr(model, part).weights[0] for model in (protected, preset))
        assert np.corrcoef(*map(np.ravel, kernels))[0, 1] > 0.8


@pytest.mark.slow
def test_color_classifier_learns_mixed_images_first_and_not_again(house_numbers, tmp_path):
    train = house_numbers.load(house_numbers).train(4)
    folder = tmp_path / "surrogate"
    refined = color_images.train_classifier(house_numbers, house_numbers.surrogate, train, folder)
    path = tmp_path / "surrogate mixed.keras"
    written = path.stat().st_mtime_ns
    images, _ = next(iter(train))
    assert not np.array_equal(refined(images), keras.saving.load_model(path)(images))
    kinds = {type(layer) for layer in refined.layers}
    assert keras.layers.BatchNormalization in kinds and FusedBatchNormalization not in kinds
    color_images.train_classifier(house_numbers, house_numbers.surrogate, train, folder)
    assert path.stat().st_mtime_ns == written


@pytest.mark.parametrize("make", [color_images.make_classifier, color_images.make_surrogate])
def test_classifiers_of_color_images_can_be_protected_and_are_small(make):
    classifier = make()
    protected = keras_trn.ProtectedClassifier(classifier)
    assert protected.image_shape == (32, 32, 3) and protected.num_classes == 10
    # In half precision, together with a restorer, a preset stays under two megabytes.
    assert classifier.count_params() < 750_000


def test_fused_normalization_is_that_of_keras():
    images = keras.random.normal((8, 4, 4, 3), mean=2.0, stddev=3.0, seed=0)
    layers = [keras.layers.BatchNormalization(), FusedBatchNormalization()]
    for layer in layers:
        layer.build(images.shape)
        layer.gamma.assign([1.0, 2.0, 3.0])
    trained, fused_trained = (layer(images, training=True) for layer in layers)
    np.testing.assert_allclose(trained, fused_trained, atol=1e-5)
    assert not np.allclose(layers[1].moving_mean, 0)
    for weight, fused_weight in zip(*(layer.get_weights() for layer in layers), strict=True):
        # Its variance is that of a sample.
        np.testing.assert_allclose(weight, fused_weight, rtol=1e-3)
    layers[1].set_weights(layers[0].get_weights())
    used, fused_used = (layer(images, training=False) for layer in layers)
    np.testing.assert_array_equal(used, fused_used)


@pytest.mark.parametrize("mirrored", [False, True])
def test_varied_images_are_shifted_and_mirrored_where_it_fits(mirrored):
    image = np.zeros((32, 32, 3), "float32")
    image[8:24, 8:12] = 1.0
    varied = [color_images.shift(image, tf.constant([0, seed])) for seed in range(40)]
    if mirrored:
        varied = [color_images.mirror(v, tf.constant([1, s])) for s, v in enumerate(varied)]
    varied = [one.numpy() for one in varied]
    assert all(v.shape == image.shape and v.sum() == image.sum() for v in varied)
    columns = {int(np.argmax(v.sum(axis=(0, 2)))) for v in varied}
    assert {column for column in columns if column < 16} <= set(range(4, 13))
    assert len(columns) > 5
    assert any(column >= 16 for column in columns) == mirrored


def test_mixed_images_stay_images_and_their_labels_distributions():
    images = tf.random.stateless_uniform((16, 32, 32, 3), [0, 0])
    labels = tf.range(16) % 10
    pipeline = tf.data.Dataset.from_tensors((images, labels)).repeat(3)
    mixed_images, mixed_labels = keras_trn.datasets.to_arrays(color_images.mixed(pipeline))
    assert mixed_images.min() >= 0 and mixed_images.max() <= 1
    np.testing.assert_allclose(mixed_labels.sum(axis=-1), 1, atol=1e-6)
    assert not np.array_equal(mixed_images[:16], mixed_images[16:32])


def test_recolored_images_stay_images_and_some_are_inverted():
    image = np.full((32, 32, 3), 0.2, "float32")
    image[8:24, 8:12] = 0.8
    recolored = [color_images.recolor(image, tf.constant([0, s])).numpy() for s in range(40)]
    assert all(v.min() >= 0 and v.max() <= 1 for v in recolored)
    darker_inside = [v[10, 10, 0] < v[0, 0, 0] for v in recolored]
    assert 5 < sum(darker_inside) < 35


def test_training_pipeline_of_color_images_differs_in_each_epoch():
    images = tf.random.stateless_uniform((10, 32, 32, 3), [0, 0])
    ordered = tf.data.Dataset.from_tensor_slices((images, tf.range(10))).batch(4)
    pipeline = color_images.training_pipeline(ordered, color_images.recolor, batch_size=4)
    epochs = [keras_trn.datasets.to_arrays(pipeline) for _ in range(2)]
    assert len(epochs[0][0]) == 4 * len(pipeline) == 8
    assert not np.array_equal(epochs[0][0], epochs[1][0])
