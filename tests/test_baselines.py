"""The baselines restore images as documented, and work like a protected classifier."""

import keras
import numpy as np
import pytest
from defences import LEARNED
from defences import learned
from defences import single_stream
from test_saving import run_python

import keras_trn
from keras_trn.baselines.image_filter import ImageFilter

BASELINES = keras_trn.baselines
ATTACKS = keras_trn.attacks
FILTERS = [
    value
    for value in vars(BASELINES).values()
    if isinstance(value, type) and issubclass(value, ImageFilter)
]

LOAD_AND_PREDICT = """
import sys
from pathlib import Path
import keras, numpy as np
import keras_trn

folder = Path(sys.argv[1])
images = np.load(folder / "images.npy")
for path in folder.glob("*.keras"):
    model = keras.models.load_model(path)
    np.save(path.with_suffix(".npy"), model.predict(images, verbose=0))
"""


def untrained_classifier(shape):
    return keras.Sequential(
        [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(10, name="logits")]
    )


def accuracy(model, images, labels):
    return np.mean(model.predict(images, verbose=0).argmax(-1) == labels)


# --- Adversarial training -------------------------------------------------------------


@pytest.mark.slow
def test_adversarial_training_withstands_attacks_on_itself(classifier, digits):
    keras.utils.set_random_seed(0)
    images, labels = digits
    train, _, _ = keras_trn.datasets.load("digits", batch_size=64)
    weights = [weight.numpy() for weight in classifier.weights]
    trained = BASELINES.AdversariallyTrainedClassifier(classifier)
    attack = ATTACKS.ProjectedGradientDescent(epsilon=0.15, steps=3)
    trained.compile(keras.optimizers.Adam(3e-3), attack=attack, jit_compile=False)
    history = trained.fit(train, validation_data=digits, epochs=8, verbose=0).history
    names = {"loss", "benign_accuracy", "adversarial_accuracy"}
    assert set(history) == names | {f"val_{name}" for name in names}
    assert history["loss"][-1] < 0.5 * history["loss"][0]

    attack = ATTACKS.ProjectedGradientDescent(epsilon=0.1, steps=10, seed=0)
    robust = accuracy(trained, attack(trained, images, labels), labels)
    assert robust > accuracy(classifier, attack(classifier, images, labels), labels) + 0.2
    assert accuracy(trained, images, labels) > 0.85
    for weight, old in zip(classifier.weights, weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), old)


def test_adversarially_trained_classifier_starts_afresh_and_unfrozen():
    classifier = untrained_classifier((8, 8, 1))
    classifier.trainable = False
    trained = BASELINES.AdversariallyTrainedClassifier(classifier)
    assert len(trained.trainable_weights) == 2
    assert not classifier.trainable_weights
    fresh, given = trained.classifier.get_layer("logits"), classifier.get_layer("logits")
    assert not np.array_equal(fresh.kernel, given.kernel)


def adapted(**kwargs):
    """A normalization of images to what it was adapted to."""
    normalization = keras.layers.Normalization(**kwargs)
    normalization.adapt(np.random.default_rng(1).normal(5.0, 3.0, (64, 8, 8, 1)))
    return normalization


def dense_layers(*sizes):
    return [layer for size in sizes for layer in (keras.layers.Flatten(), keras.layers.Dense(size))]


def sequential_classifier():
    return keras.Sequential([keras.Input((8, 8, 1)), adapted(), *dense_layers(10)])


def nested_classifier():
    backbone = keras.Sequential([keras.Input((8, 8, 1)), adapted(), *dense_layers(6)])
    return keras.Sequential([keras.Input((8, 8, 1)), backbone, keras.layers.Dense(10)])


def classifier_with_reused_layers():
    convolution = keras.layers.Conv2D(1, 3, padding="same", activation="tanh")
    inputs = keras.Input((8, 8, 1))
    features = convolution(convolution(adapted()(inputs)))
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(features)))


def classifier_that_shares_layers():
    other = sequential_classifier()
    features = other.layers[-2].output
    return keras.Model(other.inputs, keras.layers.Dense(10)(features + 1.0))


def classifier_that_bins():
    bins = keras.layers.Discretization(num_bins=4, output_mode="one_hot")
    bins.adapt(np.random.default_rng(1).random((64, 8, 8, 1)))
    return keras.Sequential([keras.Input((8, 8, 1)), bins, *dense_layers(10)])


@keras.saving.register_keras_serializable(package="test_baselines")
class Whitening(keras.layers.Layer):
    """Turns pixels by a matrix that is computed, not trained."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")
        self.matrix = self.add_weight(
            shape=(shape[-1], shape[-1]), initializer="zeros", trainable=False, name="matrix"
        )

    def call(self, features):
        return keras.ops.matmul(features, self.matrix) * self.scale


@keras.saving.register_keras_serializable(package="test_baselines")
class SubclassedClassifier(keras.Model):
    """Holds its layers in a list, and a matrix that was computed."""

    def __init__(self, size=6, **kwargs):
        super().__init__(**kwargs)
        self.size = size
        self.parts = [keras.layers.Normalization(), *dense_layers(size), Whitening()]
        self.head = keras.layers.Dense(10)

    def call(self, images):
        for part in self.parts:
            images = part(images)
        return self.head(images)

    def get_config(self):
        return {**super().get_config(), "size": self.size}


def subclassed_classifier():
    classifier = SubclassedClassifier()
    classifier.parts[0].adapt(np.random.default_rng(1).normal(5.0, 3.0, (64, 8, 8, 1)))
    classifier(np.zeros((1, 8, 8, 1), "float32"))
    classifier.parts[-1].matrix.assign(np.random.default_rng(2).normal(size=(6, 6)))
    return classifier


def own_loss(labels, logits):
    return keras.ops.mean(logits)


def classifier_of_a_model_with_a_loss_of_its_own():
    backbone = keras.Sequential([keras.Input((8, 8, 1)), *dense_layers(6)])
    backbone.compile("adam", own_loss)
    classifier = keras.Sequential([keras.Input((8, 8, 1)), backbone, keras.layers.Dense(10)])
    classifier.compile("adam", own_loss)
    return classifier


KINDS_OF_CLASSIFIERS = [
    classifier_of_a_model_with_a_loss_of_its_own,
    sequential_classifier,
    nested_classifier,
    classifier_with_reused_layers,
    classifier_that_shares_layers,
    classifier_that_bins,
    subclassed_classifier,
]


@pytest.mark.slow
@pytest.mark.parametrize("make_classifier", KINDS_OF_CLASSIFIERS)
def test_new_classifier_differs_in_its_trainable_weights_alone(make_classifier, digits, tmp_path):
    classifier, images = make_classifier(), digits[0][:8]
    classifier.trainable = False
    trained = BASELINES.AdversariallyTrainedClassifier(classifier)
    classifier.trainable = True
    new_weights, weights = trained.trainable_weights, classifier.trainable_weights
    assert len(new_weights) == len(weights)
    assert any(not np.array_equal(*pair) for pair in zip(new_weights, weights, strict=True))
    for new, old in zip(new_weights, weights, strict=True):
        assert new is not old
        new.assign(old)
    expected = classifier(images)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(trained(images), expected, rtol=1e-5, atol=1e-5)
    trained.save(tmp_path / "trained.keras")
    loaded = keras.models.load_model(tmp_path / "trained.keras")
    np.testing.assert_array_equal(loaded(images), trained(images))


@pytest.mark.slow
@pytest.mark.parametrize("make_classifier", [nested_classifier, subclassed_classifier])
def test_training_the_new_classifier_leaves_the_given_one_alone(make_classifier, digits):
    classifier = make_classifier()
    given = [weight.numpy() for weight in classifier.weights]
    expected = classifier(digits[0][:8]).numpy()
    trained = BASELINES.AdversariallyTrainedClassifier(classifier)
    trained.compile("adam", attack=ATTACKS.FastGradientMethod(0.1), jit_compile=False)
    before = [weight.numpy() for weight in trained.trainable_weights]
    trained.fit(digits[0][:32], digits[1][:32], verbose=0)
    after = [weight.numpy() for weight in trained.trainable_weights]
    assert not any(map(np.array_equal, before, after))
    assert all(map(np.array_equal, given, classifier.weights))
    np.testing.assert_array_equal(classifier(digits[0][:8]), expected)


def test_new_classifier_starts_batch_normalization_afresh():
    normalization = keras.layers.BatchNormalization()
    classifier = keras.Sequential([keras.Input((8, 8, 1)), normalization, *dense_layers(10)])
    normalization.moving_mean.assign([3.0])
    trained = BASELINES.AdversariallyTrainedClassifier(classifier)
    np.testing.assert_array_equal(trained.classifier.layers[0].moving_mean, [0.0])


def test_classifier_that_keras_cannot_copy_is_refused():
    shared = keras.layers.Conv2D(2, 3, name="shared")
    inputs = keras.Input((8, 8, 1))
    models = [
        keras.Sequential([keras.Input((8, 8, 1)), shared, *dense_layers(10)], name=name)
        for name in ("first", "second")
    ]
    classifier = keras.Model(inputs, models[0](inputs) + models[1](inputs), name="twins")
    with pytest.raises(ValueError, match=r"'twins' cannot be made anew .* share a layer"):
        BASELINES.AdversariallyTrainedClassifier(classifier)


def test_custom_objects_make_the_new_classifier_when_it_is_loaded(digits, tmp_path):
    class Doubled(keras.layers.Layer):
        def call(self, features):
            return 2 * features

    custom_objects = {"Doubled": Doubled}
    classifier = keras.Sequential([keras.Input((8, 8, 1)), Doubled(), *dense_layers(10)])
    with keras.saving.custom_object_scope(custom_objects):
        trained = BASELINES.AdversariallyTrainedClassifier(classifier)
    trained.save(tmp_path / "trained.keras")
    loaded = keras.models.load_model(tmp_path / "trained.keras", custom_objects=custom_objects)
    np.testing.assert_array_equal(loaded(digits[0][:4]), trained(digits[0][:4]))


@pytest.mark.slow
def test_adversarially_trained_classifier_takes_a_restorer_and_all_checks(digits):
    images, labels = digits[0][:8], digits[1][:8]
    trained = BASELINES.AdversariallyTrainedClassifier(untrained_classifier((8, 8, 1)))
    restored = keras_trn.ProtectedClassifier(trained, single_stream())
    np.testing.assert_array_equal(restored(images), trained(images))
    attack = ATTACKS.ProjectedGradientDescent(epsilon=0.5, steps=4, seed=0)
    checks = keras_trn.evaluation.checks
    examination = checks.Examination(trained, images, labels, attack)
    for result in checks.run_checks(examination):
        assert "could not be made" not in result.finding, result


@pytest.mark.slow
def test_adversarial_training_counts_the_weight_decay(digits):
    def trained_kernel(kernel_regularizer):
        keras.utils.set_random_seed(0)
        logits = keras.layers.Dense(10, name="logits", kernel_regularizer=kernel_regularizer)
        classifier = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), logits])
        trained = BASELINES.AdversariallyTrainedClassifier(classifier)
        attack = ATTACKS.FastGradientMethod(epsilon=0.1)
        trained.compile(keras.optimizers.SGD(0.5), attack=attack, jit_compile=False)
        trained.fit(*digits, verbose=0)
        return trained.classifier.get_layer("logits").kernel.numpy()

    decayed = trained_kernel(keras.regularizers.L2(0.1))
    assert np.abs(decayed).mean() < 0.8 * np.abs(trained_kernel(None)).mean()


@pytest.mark.slow
def test_figures_of_weighted_images_and_weight_decay_are_the_figures_of_keras(digits):
    kernel_regularizer = keras.regularizers.L2(0.1)
    logits = keras.layers.Dense(10, kernel_regularizer=kernel_regularizer)
    classifier = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), logits])
    trained = BASELINES.AdversariallyTrainedClassifier(classifier)
    trained.classifier.set_weights(classifier.get_weights())
    attack = ATTACKS.FastGradientMethod(epsilon=0.0)
    trained.compile(
        keras.optimizers.SGD(0.1),
        attack=attack,
        metrics=["accuracy"],
        benign_share=0.0,
        jit_compile=False,
    )
    classifier.trainable = True
    classifier.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    weights = np.random.default_rng(0).uniform(0.0, 3.0, 40)
    data = digits[0][:40], digits[1][:40], weights
    # The last batch is smaller than the others.
    found, expected = (
        model.fit(
            *data[:2],
            sample_weight=weights,
            validation_data=data,
            batch_size=16,
            epochs=2,
            shuffle=False,
            verbose=0,
        ).history
        for model in (trained, classifier)
    )
    for name, figures in expected.items():
        assert found[name] == pytest.approx(figures, rel=1e-4), name
    assert found["val_benign_accuracy"] == found["val_adversarial_accuracy"]
    assert found["val_adversarial_accuracy"] == found["val_accuracy"]


@pytest.mark.parametrize("make_baseline", [BASELINES.AdversariallyTrainedClassifier])
def test_compile_and_fit_say_what_is_wrong(make_baseline, digits):
    baseline = make_baseline(untrained_classifier((8, 8, 1)))
    with pytest.raises(ValueError, match="needs the attack to train against"):
        baseline.compile()
    attack = ATTACKS.FastGradientMethod(epsilon=0.1)
    with pytest.raises(ValueError, match="benign_share"):
        baseline.compile(attack=attack, benign_share=2)
    baseline.compile(attack=attack)
    with pytest.raises(ValueError, match="must lie in"):
        baseline.fit(255 * digits[0], digits[1])


# --- All ------------------------------------------------------------------------------


@pytest.mark.slow
def test_fresh_process_loads_every_baseline(classifier, digits, tmp_path):
    images = digits[0][:64]
    baselines = [
        BASELINES.JpegCompression(classifier, quality=20),
        BASELINES.BitDepthReduction(classifier, bits=1),
        BASELINES.MedianSmoothing(classifier, size=5),
        BASELINES.TotalVariationMinimization(classifier, weight=1.0),
    ]
    for name in LEARNED:
        defence = learned(name, classifier)
        if hasattr(defence, "restorer"):
            # An untrained one would restore nothing.
            kernel = defence.restorer.correction.kernel
            kernel.assign_add(keras.random.normal(kernel.shape))
        baselines.append(defence)
    for index, baseline in enumerate(baselines):
        baseline.save(tmp_path / f"{index}.keras")
    np.save(tmp_path / "images.npy", images)
    run_python(LOAD_AND_PREDICT, tmp_path)
    for index, baseline in enumerate(baselines):
        logits = np.load(tmp_path / f"{index}.npy")
        np.testing.assert_array_equal(logits, baseline.predict(images, verbose=0))


@pytest.mark.slow
@pytest.mark.parametrize("make_classifier", KINDS_OF_CLASSIFIERS)
def test_every_kind_of_classifier_survives_saving_behind_a_filter(
    make_classifier, digits, tmp_path
):
    rounded = BASELINES.BitDepthReduction(make_classifier())
    rounded.save(tmp_path / "rounded.keras")
    loaded = keras.models.load_model(tmp_path / "rounded.keras")
    images = digits[0][:8]
    np.testing.assert_array_equal(
        loaded.predict(images, verbose=0), rounded.predict(images, verbose=0)
    )


@pytest.mark.parametrize("make_baseline", FILTERS)
def test_baseline_freezes_the_classifier_and_is_a_restored_classifier(make_baseline):
    classifier = untrained_classifier((8, 8, 1))
    baseline = make_baseline(classifier)
    assert isinstance(baseline, keras_trn.RestoredClassifier)
    assert not classifier.trainable_weights
    assert baseline.classifier is classifier
