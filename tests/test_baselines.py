"""The baselines restore what they say, and can be used and judged like our own defence."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_saving import run_python

import keras_trn

BASELINES = keras_trn.baselines
ATTACKS = keras_trn.attacks
FILTERS = [
    BASELINES.JpegCompression,
    BASELINES.BitDepthReduction,
    BASELINES.MedianSmoothing,
    BASELINES.TotalVariationMinimization,
]
DENOISERS = [BASELINES.RepresentationGuidedDenoiser, BASELINES.AdversarialPerturbationElimination]

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


def single_stream():
    return keras_trn.TwoStreamRestorationNetwork(width=8, depth=1, gradient_stream=False)


def accuracy(model, images, labels):
    return np.mean(model.predict(images, verbose=0).argmax(-1) == labels)


# --- Learned restorers ----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("make_denoiser", DENOISERS)
def test_denoiser_learns_and_leaves_the_classifier_alone(make_denoiser, classifier, digits):
    keras.utils.set_random_seed(0)
    weights = [weight.numpy() for weight in classifier.weights]
    denoiser = make_denoiser(classifier, single_stream())
    np.testing.assert_array_equal(denoiser.restore(digits[0]), digits[0])
    attack = ATTACKS.FastGradientMethod(epsilon=0.2)
    denoiser.compile(keras.optimizers.Adam(5e-3), attack=attack, jit_compile=False)
    before = denoiser.evaluate(*digits, verbose=0, return_dict=True)
    denoiser.fit(*digits, epochs=15, verbose=0)
    after = denoiser.evaluate(*digits, verbose=0, return_dict=True)
    if make_denoiser is BASELINES.AdversarialPerturbationElimination:
        # Its loss need not fall, as a discriminator learns against it.
        assert after["psnr"] > before["psnr"] + 1.0
    else:
        assert after["loss"] < 0.8 * before["loss"]
    assert after["adversarial_accuracy"] > before["adversarial_accuracy"] + 0.2
    assert after["benign_accuracy"] > before["benign_accuracy"] - 0.05
    for weight, old in zip(classifier.weights, weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), old)


@pytest.mark.parametrize("make_denoiser", DENOISERS)
def test_denoiser_refuses_a_gradient_stream(make_denoiser, classifier):
    with pytest.raises(ValueError, match="gradient_stream=False"):
        make_denoiser(classifier, keras_trn.TwoStreamRestorationNetwork())


@pytest.mark.parametrize("make_denoiser", DENOISERS)
def test_denoiser_refuses_what_is_no_restoration_network(make_denoiser, classifier):
    with pytest.raises(ValueError, match=r"restorer must be .* received <Dense"):
        make_denoiser(classifier, keras.layers.Dense(3))


def test_loss_of_the_guided_denoiser_compares_logits(classifier, digits):
    images = tf.constant(digits[0][:4])
    denoiser = BASELINES.RepresentationGuidedDenoiser(classifier, single_stream())
    logits = classifier(images)
    same = denoiser.restoration_losses(images, logits, None, images)
    other = denoiser.restoration_losses(images, logits + 2.0, None, images)
    np.testing.assert_allclose(same, 0.0, atol=1e-5)
    np.testing.assert_allclose(other, 2.0, rtol=1e-5)


@pytest.mark.slow
def test_discriminator_learns_to_tell_restored_images(classifier, digits):
    keras.utils.set_random_seed(0)
    eliminator = BASELINES.AdversarialPerturbationElimination(classifier, single_stream())
    # A restorer that does not move is an easy opponent.
    eliminator.compile(
        keras.optimizers.SGD(0.0),
        attack=ATTACKS.FastGradientMethod(epsilon=0.3),
        benign_share=0.0,
        discriminator_optimizer=keras.optimizers.Adam(5e-3),
        jit_compile=False,
    )
    before = eliminator.evaluate(*digits, verbose=0, return_dict=True)
    history = eliminator.fit(*digits, epochs=8, verbose=0).history
    after = eliminator.evaluate(*digits, verbose=0, return_dict=True)
    assert before["discriminator_loss"] == pytest.approx(2 * np.log(2), rel=0.1)
    assert history["discriminator_loss"][-1] < 0.8
    assert after["discriminator_loss"] < 0.8
    np.testing.assert_array_equal(eliminator.restore(digits[0]), digits[0])


@pytest.mark.slow
def test_eliminator_goes_on_training_where_it_was(classifier, digits, tmp_path):
    eliminator = BASELINES.AdversarialPerturbationElimination(classifier, single_stream())
    attack = ATTACKS.FastGradientMethod(epsilon=0.3)
    eliminator.compile(attack=attack, adversarial_loss_weight=0.5, jit_compile=False)
    eliminator.fit(*digits, batch_size=120, verbose=0)
    eliminator.save(tmp_path / "eliminator.keras")
    loaded = keras.models.load_model(tmp_path / "eliminator.keras")
    assert loaded.adversarial_loss_weight == 0.5
    saved_variables = eliminator.discriminator_optimizer.variables
    for loaded_variable, saved in zip(
        loaded.discriminator_optimizer.variables, saved_variables, strict=True
    ):
        np.testing.assert_array_equal(loaded_variable, saved)
    loaded.fit(*digits, batch_size=120, verbose=0)
    assert int(loaded.discriminator_optimizer.iterations) == 6


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


@pytest.mark.parametrize("make_baseline", [*DENOISERS, BASELINES.AdversariallyTrainedClassifier])
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


@pytest.mark.parametrize("make_baseline", [*DENOISERS, BASELINES.AdversariallyTrainedClassifier])
@pytest.mark.parametrize(
    "arguments", [{"loss": "mse"}, {"metrics": ["accuracy"]}, {"learning_rate": 0.1}]
)
def test_compile_refuses_arguments_that_it_does_not_have(make_baseline, arguments):
    (name,) = arguments
    baseline = make_baseline(untrained_classifier((8, 8, 1)))
    with pytest.raises(ValueError, match=f"compile.. takes no '{name}', received {name}="):
        baseline.compile(attack=ATTACKS.FastGradientMethod(epsilon=0.1), **arguments)


# --- Optimizers -----------------------------------------------------------------------


def protected_classifier(classifier):
    restorer = keras_trn.TwoStreamRestorationNetwork(width=4, depth=1)
    gradient_map = keras_trn.gradient_maps.UniformLabel()
    return keras_trn.ProtectedClassifier(classifier, restorer, gradient_map)


def unfrozen(classifier):
    protected = protected_classifier(classifier)
    protected.classifier.trainable = True
    return protected


def guided_denoiser(classifier):
    return BASELINES.RepresentationGuidedDenoiser(classifier, single_stream())


def eliminator(classifier):
    return BASELINES.AdversarialPerturbationElimination(classifier, single_stream())


LEARNERS = [
    guided_denoiser,
    eliminator,
    BASELINES.AdversariallyTrainedClassifier,
    protected_classifier,
]


class Remember(keras.callbacks.Callback):
    """Remembers the trained weights after every step."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def on_train_begin(self, logs=None):
        self.on_train_batch_end(None)

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append([weight.numpy() for weight in self.model.trainable_variables])


def trained_by(make_learner, optimizer, digits, callbacks=(), **compile_kwargs):
    """Trains for four steps, and checks that the classifier that was given stays as it was."""
    keras.utils.set_random_seed(0)
    classifier = untrained_classifier((8, 8, 1))
    given = [weight.numpy() for weight in classifier.weights]
    learner = make_learner(classifier)
    attack = ATTACKS.FastGradientMethod(0.1)
    learner.compile(optimizer, attack=attack, jit_compile=False, **compile_kwargs)
    remember = Remember()
    learner.fit(
        digits[0][:32],
        digits[1][:32],
        batch_size=16,
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[remember, *callbacks],
    )
    assert all(map(np.array_equal, given, classifier.weights))
    return learner, remember.steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make_learner", "swaps"),
    [*((learner, False) for learner in LEARNERS), (unfrozen, True), (eliminator, True)],
)
def test_averages_of_the_weights_are_what_training_leaves(make_learner, swaps, digits):
    callbacks = [keras.callbacks.SwapEMAWeights()] if swaps else []
    optimizer = keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.5)
    learner, steps = trained_by(make_learner, optimizer, digits, callbacks)
    averages = steps[1]
    for weights in steps[2:]:
        pairs = zip(averages, weights, strict=True)
        averages = [0.5 * average + 0.5 * weight for average, weight in pairs]
    left = [weight.numpy() for weight in learner.trainable_variables]
    for weight, average in zip(left, averages, strict=True):
        np.testing.assert_allclose(weight, average, rtol=1e-4, atol=1e-6)
    assert not all(map(np.array_equal, left, steps[-1]))


@pytest.mark.slow
@pytest.mark.parametrize("make_learner", [eliminator, BASELINES.AdversariallyTrainedClassifier])
def test_gradients_may_be_accumulated(make_learner, digits):
    optimizer = keras.optimizers.SGD(0.05, gradient_accumulation_steps=2)
    _, steps = trained_by(make_learner, optimizer, digits)
    changes = [not all(map(np.array_equal, *pair)) for pair in itertools.pairwise(steps)]
    assert changes == [False, True, False, True]


@pytest.mark.slow
@pytest.mark.parametrize("make_learner", LEARNERS[:3])
def test_scaling_the_loss_leaves_the_steps_as_they_are(make_learner, digits):
    def scaled(optimizer):
        return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1024.0)

    def steps(wrap):
        arguments = {}
        if make_learner is eliminator:
            arguments["discriminator_optimizer"] = wrap(keras.optimizers.SGD(0.05))
        optimizer = wrap(keras.optimizers.SGD(0.05))
        learner, steps = trained_by(make_learner, optimizer, digits, **arguments)
        return [*steps[-1], *getattr(learner, "discriminator", keras.Sequential()).get_weights()]

    for received, expected in zip(steps(scaled), steps(lambda plain: plain), strict=True):
        np.testing.assert_allclose(received, expected, rtol=1e-3, atol=1e-6)


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
    for make_baseline in DENOISERS:
        denoiser = make_baseline(classifier, single_stream())
        # An untrained one would restore nothing.
        denoiser.restorer.correction.kernel.assign_add(keras.random.normal((3, 3, 8, 4)))
        baselines.append(denoiser)
    baselines.append(BASELINES.AdversariallyTrainedClassifier(classifier))
    for baseline in baselines[len(FILTERS) :]:
        baseline.compile(attack=ATTACKS.FastGradientMethod(epsilon=0.2))
    for baseline in baselines:
        baseline.save(tmp_path / f"{type(baseline).__name__}.keras")
    np.save(tmp_path / "images.npy", images)
    run_python(LOAD_AND_PREDICT, tmp_path)
    for baseline in baselines:
        logits = np.load(tmp_path / f"{type(baseline).__name__}.npy")
        np.testing.assert_array_equal(logits, baseline.predict(images, verbose=0))


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


@pytest.mark.parametrize("make_baseline", [*FILTERS, *DENOISERS])
def test_baseline_freezes_the_classifier_and_is_a_restored_classifier(make_baseline):
    classifier = untrained_classifier((8, 8, 1))
    baseline = make_baseline(classifier)
    assert isinstance(baseline, keras_trn.RestoredClassifier)
    assert not classifier.trainable_weights
    assert baseline.classifier is classifier
