"""Protection never silently costs benign accuracy: fallback, warning and calibration."""

import dataclasses
import re
import warnings

import keras
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

import keras_trn
from experiments.half_precision import store_as_float16
from keras_trn.calibration import is_valid

layers = keras.layers
SIDE = 16
EPSILON = 4 / 255


def photographs(number):
    """Patches of the two photographs that come with scikit-learn, in grey."""
    pictures = [picture.mean(axis=-1) / 255 for picture in load_sample_images().images]
    generator = np.random.default_rng(0)
    patches = []
    for index in range(number):
        picture = pictures[index % 2]
        top, left = (generator.integers(side - 4 * SIDE) for side in picture.shape)
        patch = picture[top : top + 4 * SIDE, left : left + 4 * SIDE]
        patches.append(patch.reshape(SIDE, 4, SIDE, 4).mean(axis=(1, 3)))
    return np.stack(patches)[..., None].astype("float32")


def make_fragile():
    """A random deep network of large weights: the faintest perturbation changes its mind."""
    keras.utils.set_random_seed(0)

    def spread(scale):
        return keras.initializers.VarianceScaling(scale)

    convolutions = [
        layers.Conv2D(12, 3, padding="same", activation="tanh", kernel_initializer=spread(6.0))
        for _ in range(5)
    ]
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 1)),
            layers.Rescaling(2.0, offset=-1.0),
            *convolutions,
            layers.Flatten(),
            layers.Dense(5, kernel_initializer=spread(30.0)),
        ]
    )


def train(**estimator):
    """Trains on 60 images; returns the model, validation images, history and warnings."""
    classifier, images = make_fragile(), photographs(100)
    labels = classifier.predict(images, verbose=0).argmax(axis=-1)
    keras.utils.set_random_seed(0)
    protected = keras_trn.ProtectedClassifier(
        classifier,
        keras_trn.TwoStreamRestorationNetwork(width=8, depth=1),
        keras_trn.gradient_maps.EstimatedLabel(width=8, depth=1, **estimator),
    )
    attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=(0.0, EPSILON), steps=3)
    protected.compile(keras.optimizers.Adam(3e-3), attack=attack, jit_compile=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = protected.fit(
            images[:60],
            labels[:60],
            validation_data=(images[60:], labels[60:]),
            batch_size=20,
            epochs=12,
            verbose=0,
        ).history
    said = [str(warning.message) for warning in caught if "benign" in str(warning.message)]
    return protected, images[60:], history, said


@pytest.fixture(scope="module")
def collapsed():
    """Trained as if three images of four were attacked in use, which holds in training."""
    return train(attack_prior=0.75, temperature=1.0)


@pytest.mark.slow
def test_few_images_and_faint_perturbations_cost_benign_accuracy_and_fit_says_so(collapsed):
    _, _, history, said = collapsed
    assert history["benign_accuracy"][-1] >= 0.95
    benign = history["val_benign_accuracy"][-1]
    assert benign <= 0.6
    assert len(said) == 1 and "calibrate" in said[0]
    figures = [float(figure) for figure in re.findall(r"([\d.]+)%", said[0])]
    assert figures == pytest.approx([100 * benign, 100.0], abs=0.06)


@pytest.mark.slow
def test_the_estimate_falls_back_to_the_classifier_where_nothing_else_is_known():
    _, _, history, _ = train()
    assert history["val_benign_accuracy"][-1] >= 0.95


@pytest.mark.slow
def test_calibration_keeps_the_benign_images_and_says_what_it_costs(collapsed, tmp_path):
    protected, images, _, _ = collapsed
    expected = protected.classifier.predict(images, verbose=0).argmax(axis=-1)
    calibration = protected.calibrate(images, benign_agreement=0.99)
    agreement = np.mean(protected.predict(images, verbose=0).argmax(axis=-1) == expected)
    assert calibration.benign_before <= 0.6
    assert agreement == calibration.benign_after == 1.0
    assert calibration.attacked_after < calibration.attacked_before
    assert calibration.gate_threshold > 0
    for figure in ("99.0%", "100.0% now", "PGD-3"):
        assert figure in str(calibration)

    protected.save(tmp_path / "calibrated.keras")
    loaded = keras.models.load_model(tmp_path / "calibrated.keras")
    assert loaded.calibration == calibration
    answers = protected.predict(images, verbose=0)
    np.testing.assert_allclose(loaded.predict(images, verbose=0), answers, atol=1e-5)


@pytest.mark.slow
def test_a_lower_budget_closes_the_gates_less(classifier, digits, protect):
    protected = protect(classifier)
    correction = protected.restorer.correction
    correction.kernel.assign(keras.random.normal(correction.kernel.shape, seed=0))
    images = digits[0][:100]
    thresholds = [protected.calibrate(images, share).gate_threshold for share in (0.5, 0.9, 1.0)]
    assert thresholds == sorted(thresholds) and thresholds[0] < thresholds[-1]
    assert protected.calibration.benign_after == 1.0
    assert protected.calibration.benign_before < 0.9


def test_calibration_needs_no_attack_and_takes_a_pipeline(classifier, digits):
    protected = keras_trn.ProtectedClassifier(classifier)
    _, validation, _ = keras_trn.datasets.load("digits")
    calibration = protected.calibrate(validation, benign_agreement=np.float32(0.5))
    assert calibration.images == 180 and calibration.attack is None
    assert calibration.gate_threshold == 0.0 and calibration.benign_after == 1.0


def make_wrong(protected):
    """Gives an untrained restorer weights that cost benign accuracy."""
    correction = protected.restorer.correction
    correction.kernel.assign(keras.random.normal(correction.kernel.shape, seed=0))
    return protected


@pytest.fixture
def calibrated(classifier, digits, protect):
    protected = make_wrong(protect(classifier))
    protected.calibrate(digits[0][:50], 1.0)
    assert protected.restorer.gate_threshold == protected.gradient_map.gate_threshold > 0
    return protected


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fit", "train_on_batch"])
def test_training_opens_the_gates_again(method, calibrated, digits):
    getattr(calibrated, method)(digits[0][:32], digits[1][:32])
    assert calibrated.calibration is None
    assert calibrated.restorer.gate_threshold == calibrated.gradient_map.gate_threshold == 0


@pytest.mark.slow
def test_training_that_is_refused_keeps_the_calibration(calibrated, digits):
    images, labels = digits[0][:32], digits[1][:32]
    bright = 255 * images
    uncompiled = keras_trn.ProtectedClassifier.from_config(calibrated.get_config())
    for protected, call in (
        (calibrated, lambda: calibrated.fit(bright, labels)),
        (
            calibrated,
            lambda: calibrated.fit(images, labels, validation_data=(bright, labels)),
        ),
        (calibrated, lambda: calibrated.train_on_batch(bright, labels)),
        (uncompiled, lambda: uncompiled.fit(images, labels)),
    ):
        calibration = protected.calibration
        with pytest.raises(ValueError):
            call()
        assert protected.calibration is calibration is not None
        assert protected.restorer.gate_threshold == calibration.gate_threshold


@pytest.mark.slow
def test_a_callback_may_calibrate_and_predict(classifier, digits, protect):
    protected = make_wrong(protect(classifier, keras_trn.gradient_maps.UniformLabel()))
    images, labels = digits[0][:32], digits[1][:32]
    bare = classifier.predict(images, verbose=0).argmax(axis=-1)
    agreements = []

    class Calibrate(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            protected.predict(images, verbose=0)
            protected.calibrate(images, 1.0)
            predicted = protected.predict(images, verbose=0).argmax(axis=-1)
            agreements.append(np.mean(predicted == bare))

    protected.fit(images, labels, batch_size=16, callbacks=[Calibrate()], verbose=0)
    assert agreements == [1.0, 1.0]


@pytest.mark.slow
def test_training_after_a_change_during_training_compiles_its_step_again(
    classifier, digits, protect
):
    protected = protect(classifier, keras_trn.gradient_maps.UniformLabel())
    images, labels = digits[0][:32], digits[1][:32]

    class CloseGates(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            protected.restorer.gate_threshold = 3.0
            protected.predict(images, verbose=0)

    steps = []
    for callbacks in ([CloseGates()], [], []):
        protected.fit(images, labels, batch_size=16, callbacks=callbacks, verbose=0)
        steps.append(protected.train_function)
    assert steps[0] is not steps[1] and steps[1] is steps[2]


def test_what_has_no_gate_is_refused(classifier, digits):
    class Gateless(keras.Model):
        takes_gradient_maps = False

        def call(self, images):
            return images

    protected = keras_trn.ProtectedClassifier(classifier, Gateless())
    with pytest.raises(ValueError, match="gate_threshold"):
        protected.calibrate(digits[0][:10])


@pytest.mark.parametrize("share", [-0.1, 1.5, "0.9"])
def test_a_share_out_of_range_is_refused(share, classifier, digits):
    with pytest.raises(ValueError, match="benign_agreement"):
        keras_trn.ProtectedClassifier(classifier).calibrate(digits[0][:10], share)


@pytest.mark.slow
def test_protection_that_costs_nothing_is_not_warned_of(classifier, digits, protect, recwarn):
    images, labels = digits[0][:32], digits[1][:32]
    protected = protect(classifier, optimizer=keras.optimizers.SGD(1e-6))
    protected.fit(images, labels, validation_data=(images, labels), verbose=0)
    assert not [warning for warning in recwarn if "benign" in str(warning.message)]


@pytest.mark.slow
@pytest.mark.parametrize("threat_model", ["oblivious", "whitebox_full"])
def test_only_training_against_oblivious_attackers_warns(classifier, digits, threat_model, recwarn):
    images, labels = digits[0][:32], digits[1][:32]
    # Untrained, it draws the same gray image for all.
    restorer = keras_trn.RestorationAutoencoder(4, 1, 2)
    protected = keras_trn.ProtectedClassifier(classifier, restorer)
    attack = keras_trn.attacks.FastGradientMethod(0.1)
    protected.compile(keras.optimizers.SGD(1e-6), attack=attack, threat_model=threat_model)
    protected.fit(images, labels, validation_data=(images, labels), verbose=0)
    said = [warning for warning in recwarn if "benign" in str(warning.message)]
    assert bool(said) == (threat_model == "oblivious")


def test_presets_know_the_names_of_their_classes(tmp_path):
    protected = keras_trn.ProtectedClassifier.from_preset("trn_fashion_mnist")
    assert len(protected.class_names) == 10 and protected.class_names[-1] == "ankle boot"
    protected.save(tmp_path / "named.keras")
    assert keras.models.load_model(tmp_path / "named.keras").class_names == protected.class_names


def test_class_names_are_as_many_as_classes(classifier):
    with pytest.raises(ValueError, match="2 class names for 10 classes"):
        keras_trn.ProtectedClassifier(classifier, class_names=["cat", "dog"])


@pytest.fixture
def report_of(digits, monkeypatch):
    # The checks are slow, and not part of this.
    monkeypatch.setattr("keras_trn.evaluation.evaluator.run_checks", lambda examination: [])

    def report_of(protected):
        return keras_trn.evaluate(
            protected,
            (digits[0][:16], digits[1][:16]),
            keras_trn.attacks.FastGradientMethod(0.1),
            "oblivious",
            check_examples=4,
            verbose=0,
        )

    return report_of


@pytest.mark.slow
def test_the_report_shows_the_calibration(classifier, digits, protect, report_of, tmp_path):
    protected = protect(classifier, keras_trn.gradient_maps.UniformLabel())
    protected.calibrate(digits[0][:50], 0.95)
    report = report_of(protected)
    said = "`protected` keeps the class of at least 95.0% of benign images, measured on 50"
    assert said in str(report) and said in report.to_markdown("accuracy")
    report.to_json(tmp_path / "report.json")
    loaded = keras_trn.evaluation.Report.from_json(tmp_path / "report.json")
    assert said in str(loaded)


def change_weights(protected):
    protected.restorer.set_weights([weight + 0.1 for weight in protected.restorer.get_weights()])


def open_the_gates(protected):
    protected.restorer.gate_threshold = 0.0


@pytest.mark.slow
@pytest.mark.parametrize("change", [change_weights, open_the_gates])
def test_a_calibration_of_other_weights_or_gates_is_left_out(change, calibrated, report_of):
    change(calibrated)
    with pytest.warns(UserWarning, match="leaves out the calibration of 'protected'"):
        report = report_of(calibrated)
    assert report.settings["calibrations"] == {} and "Calibrated" not in str(report)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_a_calibration_stays_valid_when_it_is_saved(dtype, classifier, digits, protect, tmp_path):
    protected = make_wrong(protect(classifier, dtype=dtype))
    protected.calibrate(digits[0][:50], 0.9)
    path = tmp_path / "protected.keras"
    protected.save(path)
    assert is_valid(protected.calibration, protected)
    for _ in range(2):
        loaded = keras.models.load_model(path)
        assert loaded.calibration == protected.calibration
        assert is_valid(loaded.calibration, loaded)
        store_as_float16(path)
    change_weights(loaded)
    assert not is_valid(loaded.calibration, loaded)


@pytest.mark.slow
def test_a_calibration_without_a_digest_is_taken_for_valid(classifier, digits):
    protected = keras_trn.ProtectedClassifier(classifier)
    calibration = protected.calibrate(digits[0][:10], 0.5)
    config = protected.get_config()
    assert config["calibration"].pop("digest") == calibration.digest
    loaded = keras_trn.ProtectedClassifier.from_config(config)
    change_weights(loaded)
    assert loaded.calibration == dataclasses.replace(calibration, digest=None)
    assert is_valid(loaded.calibration, loaded)
