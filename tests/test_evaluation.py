"""`evaluate` measures what it says, once for all defences, and goes on where it stopped."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_trn
from keras_trn import attacks
from keras_trn import threat_models
from keras_trn.digests import to_json
from keras_trn.evaluation import measure
from keras_trn.evaluation.checkpoint import Checkpoint
from keras_trn.evaluation.packing import pack_bits
from keras_trn.evaluation.runs import attack_settings
from tests.helpers import Batches
from tests.helpers import InterruptionError
from tests.helpers import NeverRun
from tests.helpers import WithHiddenSetting
from tests.helpers import WithSetting
from tests.helpers import classifier_of_any_size
from tests.helpers import in_batches
from tests.helpers import interrupted_after
from tests.helpers import largest_file
from tests.helpers import linear_classifier
from tests.helpers import of_two_sizes
from tests.helpers import random_classifier
from tests.helpers import with_nan
from tests.helpers import without_shape

EPSILON = 0.2


@pytest.fixture(scope="module")
def dataset(digits):
    images, labels = digits
    return tf.data.Dataset.from_tensor_slices((images[:120], labels[:120])).batch(50)


@pytest.fixture
def fgsm():
    return attacks.FastGradientMethod(EPSILON)


@pytest.fixture
def pgd():
    return attacks.ProjectedGradientDescent(EPSILON, steps=3, seed=0)


def by_row(cells):
    return {(cell["defence"], cell["threat_model"], cell["attack"]): cell for cell in cells}


@pytest.mark.slow
def test_untrained_protection_changes_nothing(classifier, dataset, fgsm, pgd, protect):
    defences = {"bare": classifier, "protected": protect(classifier)}
    cells = by_row(measure(defences, dataset, [fgsm, pgd], verbose=0))
    for threat_model, attack in [(None, "benign"), ("oblivious", "FGSM"), ("oblivious", "PGD-3")]:
        bare = cells["bare", threat_model, attack]
        protected = cells["protected", threat_model, attack]
        assert bare["examples"] == 120
        assert bare["accuracy"] == protected["accuracy"]
        assert bare["correct"] == protected["correct"]
        assert protected["attacked_psnr"] == protected["restored_psnr"]
        assert "restored_psnr" not in bare
    assert cells["protected", None, "benign"]["agreement"] == 1.0
    benign = cells["bare", None, "benign"]["accuracy"]
    assert cells["bare", "oblivious", "PGD-3"]["accuracy"] < benign - 0.5


@pytest.mark.slow
def test_accuracies_are_those_of_predict(classifier, digits, dataset, fgsm, protect):
    images, labels = digits[0][:120], digits[1][:120]
    protected = protect(classifier)
    protected.fit(images, labels, epochs=2, verbose=0)
    defences = {"bare": classifier, "protected": protected}
    cell = by_row(measure(defences, dataset, [fgsm], verbose=0))["protected", "oblivious", "FGSM"]
    adversarial = fgsm(classifier, images, labels)
    predicted = protected.predict(np.asarray(adversarial), verbose=0).argmax(-1)
    benign = classifier.predict(images, verbose=0).argmax(-1)
    assert cell["accuracy"] == np.mean(predicted == labels)
    assert cell["agreement"] == np.mean(predicted == benign)
    assert cell["restored_ssim"] == pytest.approx(
        np.mean(
            keras_trn.metrics.structural_similarity(images, protected.restore(adversarial.numpy()))
        ),
        abs=1e-5,
    )


@pytest.mark.slow
def test_transfer_and_predicted_labels_give_other_attacks(classifier, digits, fgsm):
    images, labels = digits
    wrong = tf.data.Dataset.from_tensor_slices((images[:120], (labels[:120] + 1) % 10)).batch(120)
    other = linear_classifier()
    models = [
        threat_models.Oblivious(),
        threat_models.Oblivious(labels="predicted"),
        threat_models.Transfer(other),
    ]
    cells = measure({"bare": classifier}, wrong, [fgsm], models, verbose=0)
    true, predicted, transfer = [cell for cell in cells if cell["attack"] == "FGSM"]
    # Leading away from a wrong label leads towards agreement, not away from it.
    assert true["agreement"] > predicted["agreement"] + 0.3
    assert transfer["agreement"] > predicted["agreement"] + 0.3


@pytest.mark.slow
def test_adaptive_attacks_are_on_each_defence_and_others_shared(classifier, dataset, fgsm, protect):
    calls = []

    class Counted(attacks.FastGradientMethod):
        def __call__(self, target, images, labels=None, epsilon=None):
            calls.append(target)
            return super().__call__(target, images, labels, epsilon)

    defences = {"bare": classifier, "one": protect(classifier), "two": protect(classifier)}
    cells = measure(
        defences, dataset, [Counted(EPSILON)], ["oblivious", "whitebox_full"], verbose=0
    )
    # 3 batches, each crafted once for all, and once for each of the three.
    assert len(calls) == 3 * (1 + 3)
    assert len(cells) == 3 * (1 + 1 + 1)


@pytest.mark.slow
def test_curve_is_of_the_first_attack_at_each_epsilon(classifier, dataset, fgsm, pgd):
    cells = measure({"bare": classifier}, dataset, [pgd, fgsm], epsilons=[0.05, 0.2], verbose=0)
    in_epsilon_sweep = [cell for cell in cells if cell.get("in_epsilon_sweep")]
    assert [(cell["attack"], cell["epsilon"]) for cell in in_epsilon_sweep] == [("PGD-3", 0.05)]
    at_full_epsilon = by_row(cells[:2])["bare", "oblivious", "PGD-3"]
    assert in_epsilon_sweep[0]["accuracy"] > at_full_epsilon["accuracy"]


def test_answer_that_is_no_number_is_wrong(classifier, dataset):
    @keras.saving.register_keras_serializable(package="tests")
    class Broken(keras_trn.RestoredClassifier):
        def restore_batch(self, images, labels=None):
            return images * np.nan

    defences = {"bare": classifier, "broken": Broken(classifier)}
    cells = measure(defences, dataset, [], verbose=0)
    assert [cell["accuracy"] > 0.9 for cell in cells] == [True, False]
    assert cells[1]["accuracy"] == 0
    assert cells[1]["restored_psnr"] is None


def test_shuffled_data_are_refused(classifier, digits, fgsm):
    shuffled = tf.data.Dataset.from_tensor_slices(digits).shuffle(360).batch(120)
    with pytest.raises(ValueError, match="another order each time"):
        measure({"bare": classifier}, shuffled, [fgsm], verbose=0)


@pytest.mark.parametrize("change", [-1, 1])
def test_data_that_change_their_length_are_refused(classifier, digits, fgsm, change):
    passes = []

    def batches():
        passes.append(None)
        for start in range(3 + change * (len(passes) > 1)):
            yield digits[0][start : start + 1], digits[1][start : start + 1]

    specs = (tf.TensorSpec((None, 8, 8, 1)), tf.TensorSpec((None,), tf.int64))
    data = tf.data.Dataset.from_generator(batches, output_signature=specs)
    with pytest.raises(ValueError, match="another order each time"):
        measure({"bare": classifier}, data, fgsm, verbose=0)


# --- What data may be ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda images, labels: (images, labels),
        lambda images, labels: (images.tolist(), labels.tolist()),
        Batches,
        lambda images, labels: in_batches(50, images, labels, np.ones(len(labels))),
        lambda images, labels: in_batches(50, images, labels).filter(lambda *_: True),
        without_shape,
        lambda images, labels: in_batches(50, images, labels[:, None]),
        lambda images, labels: in_batches(50, images, labels.astype("int32")),
        lambda images, labels: in_batches(50, images, labels.astype("uint8")),
        lambda images, labels: in_batches(1, images, labels),
        lambda images, labels: in_batches(50, images * (1 + 5e-7) - 2e-7, labels),
        lambda images, labels: in_batches(50, images.astype("float64"), labels),
    ],
    ids=str.split(
        "array list PyDataset weighted length shape column int32 uint8 one round float64"
    ),
)
def test_the_same_data_in_any_form_give_the_same_results(classifier, digits, fgsm, make):
    images, labels = digits[0][:51], digits[1][:51]
    expected = measure({"bare": classifier}, in_batches(50, images, labels), fgsm, verbose=0)
    cells = measure({"bare": classifier}, make(images, labels), fgsm, "oblivious", verbose=0)
    assert [cell["correct"] for cell in cells] == [cell["correct"] for cell in expected]
    assert cells[1]["examples"] == 51


@pytest.mark.slow
def test_one_attack_and_one_threat_model_need_no_list(classifier, dataset, fgsm):
    alone = measure({"bare": classifier}, dataset, fgsm, threat_models.Oblivious(), verbose=0)
    listed = measure({"bare": classifier}, dataset, [fgsm], ["oblivious"], verbose=0)
    assert without_seconds(alone) == without_seconds(listed)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda i, n: in_batches(50, i, n).repeat(), r"no end.*\.take\("),
        (lambda i, n: in_batches(50, i, n).take(0), "the data are empty"),
        (with_nan, r"Batch 2 of the data: .*NaN.*the first at index 1"),
        (lambda i, n: in_batches(50, i * 1.5, n), r"Batch 1 of the data: .*from 0 to 1\.5"),
        (lambda i, n: in_batches(50, i, n + 6), r"Batch 1 of the data: Labels must lie in \[0, 10"),
        (lambda i, n: in_batches(50, (i * 255).astype("uint8"), n), "received uint8 images"),
        (of_two_sizes, r"Batch 2 .*shape \(6, 8, 1\).* shape \(8, 8, 1\).*One size at a time"),
    ],
    ids=["endless", "empty", "NaN", "range", "labels", "uint8", "sizes"],
)
def test_bad_data_are_refused_before_anything_is_computed(digits, make, message):
    data = make(digits[0][:120], digits[1][:120])
    for call in (
        lambda: measure({"bare": classifier_of_any_size()}, data, NeverRun(0.1), verbose=0),
        lambda: keras_trn.evaluate(classifier_of_any_size(), data, NeverRun(0.1), verbose=0),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_ragged_batches_are_refused(digits):
    images = tf.ragged.constant([np.zeros((8, 8, 1)), np.zeros((6, 8, 1))], ragged_rank=1)
    data = tf.data.Dataset.from_tensors((tf.cast(images, tf.float32), [1, 2]))
    with pytest.raises(ValueError, match=r"differ in size\. One size at a time"):
        measure({"bare": classifier_of_any_size()}, data, NeverRun(0.1), verbose=0)


@pytest.mark.slow
def test_two_classes_and_oblong_images_are_evaluated(protect):
    generator = np.random.default_rng(0)
    labels = np.arange(26) % 2
    images = (
        generator.random((26, 6, 10, 13), dtype="float32") * 0.5 + 0.3 * labels[:, None, None, None]
    )
    keras.utils.set_random_seed(0)
    classifier = linear_classifier((6, 10, 13), num_classes=2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier.compile(keras.optimizers.Adam(1e-2), loss)
    classifier.fit(images, labels, epochs=40, verbose=0)
    attack = attacks.ProjectedGradientDescent(0.3, steps=2)
    report = keras_trn.evaluate(
        classifier, in_batches(25, images, labels), attack, check_examples=16, verbose=0
    )
    assert report.cell("benign")["accuracy"] > 0.9
    assert not [check for check in report.checks["bare"] if "could not be" in check.finding]


class OnlyOfSquareImages(NeverRun):
    """Refuses oblong images."""

    def check_image_shape(self, image_shape):
        if image_shape[0] != image_shape[1]:
            raise ValueError(f"received images of {image_shape}")


def test_attack_that_cannot_attack_the_images_is_refused_before_others_run(digits):
    images, labels = digits[0][:8, :, :5], digits[1][:8]
    classifier = linear_classifier((8, 5, 1))
    choosy = attacks.Restarts(OnlyOfSquareImages(0.1), 2)
    with pytest.raises(ValueError, match=r"received images of \(8, 5, 1\)"):
        keras_trn.evaluate(classifier, (images, labels), [NeverRun(0.1), choosy], verbose=0)


@pytest.mark.slow
def test_numbers_of_numpy_do_up_to_the_saved_report(classifier, digits, tmp_path):
    report = keras_trn.evaluate(
        classifier,
        (digits[0][:8], digits[1][:8]),
        attacks.ProjectedGradientDescent(np.float32(0.2), steps=np.int64(2)),
        [threat_models.WhiteboxFull(samples=np.int64(2))],
        epsilons=np.linspace(0.1, 0.2, 2, dtype="float32"),
        check_examples=np.int64(4),
        seed=np.int64(3),
        checkpoint=tmp_path / "checkpoint.jsonl",
        verbose=0,
    )
    report.to_json(tmp_path / "report.json")
    loaded = keras_trn.evaluation.Report.from_json(tmp_path / "report.json")
    assert loaded.cells == report.cells
    assert loaded.settings["seed"] == 3 and loaded.settings["check_examples"] == 4
    assert loaded.cell("PGD-2", "whitebox_full")["examples"] == 8
    # The attack's own epsilon, rounded to float32 or not, is no further point of the curve.
    in_epsilon_sweep = [cell["epsilon"] for cell in loaded.cells if cell.get("in_epsilon_sweep")]
    assert in_epsilon_sweep == [pytest.approx(0.1)]


def test_setting_of_numpy_is_the_same_for_a_checkpoint(classifier, digits, tmp_path):
    checkpoint = tmp_path / "checkpoint.jsonl"
    data = digits[0][:8], digits[1][:8]
    for patience in (3, np.int64(3)):
        measure(
            {"bare": classifier}, data, WithSetting(0.1, patience), checkpoint=checkpoint, verbose=0
        )
        assert len(checkpoint.read_text().splitlines()) == 2


@keras.saving.register_keras_serializable(package="tests")
def inverted(images):
    return 1.0 - images


class OnTransformedImages(attacks.ProjectedGradientDescent):
    """Has a function as one of its settings."""

    def __init__(self, epsilon, transform, **kwargs):
        super().__init__(epsilon, **kwargs)
        self.transform = transform

    def craft(self, logits, images, *arguments):
        return self.transform(super().craft(logits, self.transform(images), *arguments))


@pytest.mark.slow
def test_attack_may_have_a_function_as_its_setting(classifier, digits, tmp_path):
    report = keras_trn.evaluate(
        classifier,
        (digits[0][:8], digits[1][:8]),
        OnTransformedImages(0.1, inverted, steps=2),
        "oblivious",
        check_examples=4,
        checkpoint=tmp_path / "checkpoint.jsonl",
        verbose=0,
    )
    report.to_json(tmp_path / "report.json")
    loaded = keras_trn.evaluation.Report.from_json(tmp_path / "report.json")
    assert loaded.cells == report.cells
    for settings in (loaded.cells[1]["settings"], loaded.settings["checked_attack_settings"]):
        assert settings["transform"]["config"] == "tests>inverted"


def test_settings_in_a_report_are_the_config_of_an_attack():
    for attack in (
        attacks.ProjectedGradientDescent(np.float32(0.1), steps=np.int64(3)),
        attacks.Restarts(attacks.Square(0.1), 2),
        attacks.auto_attack("fast", 0.1),
    ):
        assert to_json(attack_settings(attack)) == to_json(attack.get_config())


# --- Attacks that do not keep their promises ----------------------------------------------


class TooFar(attacks.FastGradientMethod):
    """Returns images that its base class has not brought back."""

    def __call__(self, classifier, images, labels=None, epsilon=None, seed=None):
        return tf.clip_by_value(images + 0.6, 0.0, 1.0)


class TooBright(attacks.FastGradientMethod):
    def __call__(self, classifier, images, labels=None, epsilon=None, seed=None):
        return images + 0.1


class TooFew(attacks.FastGradientMethod):
    def __call__(self, classifier, images, labels=None, epsilon=None, seed=None):
        return images[:-1]


class NoNumbers(attacks.FastGradientMethod):
    def __call__(self, classifier, images, labels=None, epsilon=None, seed=None):
        return images * np.nan


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (TooFar(0.1), r"TooFar leaves the ball of its epsilon: .* by 0\.6 in the linf .* is 0\.1"),
        (TooFar(1.0, "l2"), r"by 4\.\d+ in the l2 norm, and its epsilon is 1\."),
        (TooBright(0.2), r"TooBright leaves the range \[0, 1\].* from 0\.1 to 1\.1"),
        (TooFew(0.1), r"TooFew must return images of the shape \(50, 8, 8, 1\).*\(49, 8, 8, 1\)"),
    ],
)
def test_attack_that_leaves_its_bounds_is_refused(classifier, dataset, attack, message):
    class Named(type(attack)):
        name = type(attack).__name__

    with pytest.raises(ValueError, match=message):
        measure({"bare": classifier}, dataset, Named.from_config(attack.get_config()), verbose=0)


def test_pixels_that_are_no_numbers_count_as_wrong(classifier, dataset):
    cells = measure({"bare": classifier}, dataset, NoNumbers(0.1), verbose=0)
    assert cells[1]["accuracy"] == 0 and cells[1]["attacked_psnr"] is None


class WithRequiredHiddenSetting(WithHiddenSetting):
    def __init__(self, epsilon, sharpness, **kwargs):
        super().__init__(epsilon, sharpness, **kwargs)


@pytest.mark.parametrize(
    "attack",
    [WithHiddenSetting(0.1), WithRequiredHiddenSetting(0.1, 0.3)],
    ids=["default", "required"],
)
def test_attack_that_does_not_tell_its_settings_is_refused(classifier, dataset, attack):
    for evaluation in (
        lambda: measure({"bare": classifier}, dataset, attack, verbose=0),
        lambda: keras_trn.evaluate(classifier, dataset, attack, verbose=0),
        lambda: keras_trn.evaluate(
            classifier, dataset, attacks.Restarts(attack, 2), "oblivious", verbose=0
        ),
    ):
        with pytest.raises(TypeError, match="lacks the arguments sharpness"):
            evaluation()


# --- A white box that cannot be run in full -----------------------------------------------


class Normalized(keras.layers.Layer):
    """An operation whose gradient TensorFlow cannot differentiate."""

    def call(self, inputs):
        return tf.nn.local_response_normalization(inputs)


def normalizing_classifier():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3), Normalized(), keras.layers.Flatten()]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dense(10)])


@pytest.mark.slow
def test_white_box_that_cannot_be_run_is_left_out_and_named(protect, digits, fgsm, tmp_path):
    classifier = normalizing_classifier()
    protected = protect(classifier, keras_trn.gradient_maps.UniformLabel())
    data = digits[0][:16], digits[1][:16]
    report = keras_trn.evaluate(
        protected, data, fgsm, ["bpda", "whitebox_full"], check_examples=8, verbose=0
    )
    (missing,) = report.not_run
    assert (missing["defence"], missing["threat_model"]) == ("protected", "whitebox_full")
    assert "LRNGrad" in missing["reason"]
    found = {(cell["defence"], cell["threat_model"]) for cell in report.cells}
    assert ("protected", "bpda") in found and ("bare", "whitebox_full") in found
    assert ("protected", "whitebox_full") not in found
    with pytest.raises(KeyError, match="LRNGrad"):
        report.cell("FGSM", "whitebox_full")
    report.to_json(tmp_path / "report.json")
    loaded = keras_trn.evaluation.Report.from_json(tmp_path / "report.json")
    assert loaded.not_run == report.not_run and str(loaded) == str(report)


@pytest.mark.slow
def test_measure_warns_of_what_it_leaves_out(protect, digits, fgsm):
    defences = {"bare": (bare := normalizing_classifier())}
    defences["defended"] = protect(bare, keras_trn.gradient_maps.UniformLabel())
    data = digits[0][:8], digits[1][:8]
    with pytest.warns(UserWarning, match="`whitebox_full` on `defended`, because .*LRNGrad"):
        cells = measure(defences, data, fgsm, ["whitebox_full", "oblivious"], verbose=0)
    assert [(cell["defence"], cell["threat_model"]) for cell in cells[2:]] == [
        ("bare", "whitebox_full"),
        ("bare", "oblivious"),
        ("defended", "oblivious"),
    ]


@pytest.mark.slow
def test_hidden_gradient_is_measured_once_and_kept(protect, digits, fgsm, tmp_path, monkeypatch):
    @keras.saving.register_keras_serializable(package="tests")
    class Hidden(keras.layers.Layer):
        def call(self, inputs):
            @tf.custom_gradient
            def tanh(inputs):
                outputs = tf.tanh(inputs)
                return outputs, lambda upstream: tf.stop_gradient(upstream * (1 - outputs**2))

            return tanh(inputs)

    layers = [keras.layers.Conv2D(4, 3), Hidden(), keras.layers.Flatten(), keras.layers.Dense(10)]
    bare = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    defences = {"bare": bare, "p": protect(bare, keras_trn.gradient_maps.UniformLabel())}
    data = digits[0][:8], digits[1][:8]
    for _ in range(2):
        with pytest.warns(UserWarning, match="hides the gradient of its gradient"):
            cells = measure(
                defences, data, fgsm, "whitebox_full", checkpoint=tmp_path / "checkpoint", verbose=0
            )
        assert [cell["defence"] for cell in cells] == ["bare", "p", "bare"]
        monkeypatch.setattr("keras_trn.evaluation.map_gradient.measure_slopes", None)


# --- Random models ------------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="tests")
class Noisy(keras_trn.RestoredClassifier):
    """Adds much noise, from the random numbers of Keras or of TensorFlow."""

    def __init__(self, classifier, of_keras=True, **kwargs):
        super().__init__(classifier, **kwargs)
        self.of_keras = of_keras
        self.generator = keras.random.SeedGenerator(0)

    def restore_batch(self, images, labels=None):
        shape = tf.shape(images)
        if self.of_keras:
            noise = keras.random.normal(shape, stddev=0.4, seed=self.generator)
        else:
            noise = tf.random.normal(shape, stddev=0.4)
        return tf.clip_by_value(images + noise, 0.0, 1.0)


@pytest.fixture
def without_checks(monkeypatch):
    monkeypatch.setattr("keras_trn.evaluation.evaluator.run_checks", lambda examination: [])


@pytest.mark.slow
def test_random_defences_are_attacked_in_the_mean_and_with_known_numbers(
    classifier, dataset, protect, without_checks
):
    report = keras_trn.evaluate(
        Noisy(classifier),
        dataset.take(1),
        attacks.ProjectedGradientDescent(0.1, steps=5),
        baselines={"trn": protect(classifier)},
        verbose=0,
    )
    samples = {(c["defence"], c["threat_model"]): c.get("samples") for c in report.cells}
    assert samples == {
        ("bare", None): None,
        ("protected", None): None,
        ("trn", None): None,
        ("bare", "oblivious"): 1,
        ("protected", "oblivious"): 1,
        ("trn", "oblivious"): 1,
        ("bare", "whitebox_full"): 1,
        ("protected", "bpda"): 20,
        ("protected", "whitebox_full"): 20,
        ("protected", "fixed_randomness"): 1,
        ("trn", "transfer_from_estimator"): 1,
        ("trn", "transfer_without_map"): 1,
        ("trn", "bpda"): 1,
        ("trn", "whitebox_stopgrad"): 1,
        ("trn", "whitebox_full"): 1,
    }
    assert report.not_run == []
    # Whoever knows the numbers finds more than whoever averages over others.
    known = report.cell("PGD-5", "fixed_randomness")["accuracy"]
    assert known < report.cell("PGD-5", "whitebox_full")["accuracy"] - 0.1
    assert report.worst() <= known
    assert "| fixed_randomness | PGD-5 |" in report.to_markdown()
    assert {"name": "whitebox_full", "labels": "true", "samples": 20} in report.settings[
        "threat_models"
    ]


@pytest.mark.slow
def test_random_numbers_that_cannot_be_fixed_are_named(classifier, dataset, fgsm, without_checks):
    report = keras_trn.evaluate(Noisy(classifier, of_keras=False), dataset.take(1), fgsm, verbose=0)
    (missing,) = report.not_run
    assert (missing["defence"], missing["threat_model"]) == ("protected", "fixed_randomness")
    assert "`keras.random.SeedGenerator`" in missing["reason"]
    assert report.cell("FGSM", "whitebox_full")["samples"] == 20
    assert "fixed_randomness" not in {row.title for row in report.pictures}
    assert report.missing_threat_models("protected") == ["fixed_randomness"]


def test_report_without_any_attack_tells_why(dataset, fgsm, without_checks):
    class Random(keras.layers.Layer):
        def call(self, inputs):
            return inputs + tf.random.normal(tf.shape(inputs))

    layers = [keras.layers.Flatten(), Random(), keras.layers.Dense(10)]
    classifier = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    report = keras_trn.evaluate(classifier, dataset.take(1), fgsm, ["fixed_randomness"], verbose=0)
    assert [cell["attack"] for cell in report.cells] == ["benign"]
    assert report.worst() is None
    assert "Not run: `fixed_randomness` on `bare`, because" in str(report)


@pytest.mark.slow
def test_threat_models_of_the_user_are_run_unchanged(classifier, dataset, fgsm, without_checks):
    report = keras_trn.evaluate(
        Noisy(classifier), dataset.take(1), fgsm, ["oblivious", "whitebox_full"], verbose=0
    )
    assert {cell["threat_model"] for cell in report.cells} == {None, "oblivious", "whitebox_full"}
    assert report.cell("FGSM", "whitebox_full")["samples"] == 1


@pytest.mark.slow
def test_defence_is_measured_with_the_numbers_that_the_attacker_knows(classifier, digits):
    images, labels = digits[0][:40], digits[1][:40]
    noisy = Noisy(classifier)
    known = threat_models.FixedRandomness()
    # An attack within an epsilon of zero shows what is measured.
    attack = attacks.FastGradientMethod(0.0)
    cells = measure(
        {"bare": classifier, "noisy": noisy}, (images, labels), attack, [known], verbose=0
    )
    cell = by_row(cells)["noisy", "fixed_randomness", "FGSM"]
    expected = np.argmax(known.target(noisy)(images), axis=-1) == labels
    assert 0.05 < expected.mean() < 0.95
    assert cell["correct"] == pack_bits(expected)


@pytest.mark.slow
def test_checkpoint_of_a_random_model_does_not_grow(digits, fgsm, tmp_path):
    def measured(rate):
        model = random_classifier(rate)
        data = digits[0][:8], digits[1][:8]
        with pytest.warns(UserWarning, match="'bare' answers one image at random") as warned:
            cells = measure(
                {"bare": model}, data, fgsm, checkpoint=tmp_path / "checkpoint", verbose=0
            )
        assert len([w for w in warned if "at random" in str(w.message)]) == 1
        return without_seconds(cells)

    first = measured(0.3)
    assert measured(0.3) == first
    assert len((tmp_path / "checkpoint").read_text().splitlines()) == 2
    measured(0.6)
    assert len((tmp_path / "checkpoint").read_text().splitlines()) == 4


# --- Interrupted and resumed ------------------------------------------------------------


def without_seconds(cells):
    return [{**cell, "seconds": None} for cell in cells]


@pytest.mark.slow
def test_interrupted_evaluation_keeps_what_is_finished(classifier, dataset, fgsm, pgd, tmp_path):
    checkpoint = tmp_path / "checkpoint.jsonl"
    models = ["oblivious", "whitebox_full"]
    with pytest.raises(InterruptionError):
        # In the last of 3 batches of PGD under the second threat model.
        stopped = [fgsm, interrupted_after(5, pgd)]
        measure({"bare": classifier}, dataset, stopped, models, checkpoint=checkpoint, verbose=0)
    # Benign, FGSM, PGD, FGSM are finished, and two batches of the last PGD.
    assert len(checkpoint.read_text().splitlines()) == 6

    never = [interrupted_after(0, fgsm), pgd]
    resumed = measure(
        {"bare": classifier}, dataset, never, models, checkpoint=checkpoint, verbose=0
    )
    afresh = measure({"bare": classifier}, dataset, [fgsm, pgd], models, verbose=0)
    assert without_seconds(resumed) == without_seconds(afresh)


@pytest.mark.slow
def test_checkpoint_is_not_used_for_other_weights_data_or_settings(
    classifier, digits, dataset, fgsm, tmp_path
):
    checkpoint = tmp_path / "checkpoint.jsonl"

    def lines_after(model, data, attack):
        measure({"bare": model}, data, [attack], checkpoint=checkpoint, verbose=0)
        return len(checkpoint.read_text().splitlines())

    assert lines_after(classifier, dataset, fgsm) == 2
    assert lines_after(classifier, dataset, fgsm) == 2
    assert lines_after(classifier, dataset, attacks.FastGradientMethod(0.1)) == 3
    assert lines_after(classifier, dataset.take(1), fgsm) == 5
    changed = keras.models.clone_model(classifier)
    changed.set_weights([weight + 0.01 for weight in classifier.get_weights()])
    assert lines_after(changed, dataset, fgsm) == 7


@pytest.mark.slow
def test_checkpoint_tells_names_and_attacks_apart(classifier, dataset, pgd, tmp_path):
    class Harmless(attacks.ProjectedGradientDescent):
        def craft(self, logits, images, labels, epsilon, random_seed):
            return images

    checkpoint = tmp_path / "checkpoint.jsonl"
    harmless = Harmless.from_config(pgd.get_config())

    def cells(name, attack):
        models = {"bare": classifier, name: classifier}
        return measure(
            models, dataset, [attack], ["whitebox_full"], checkpoint=checkpoint, verbose=0
        )

    assert [cell["defence"] for cell in cells("copy", pgd)] == ["bare", "copy", "bare", "copy"]
    assert [cell["defence"] for cell in cells("other", pgd)] == ["bare", "other"] * 2
    assert cells("copy", harmless)[-1]["accuracy"] > cells("copy", pgd)[-1]["accuracy"] + 0.5


@pytest.mark.slow
def test_checkpoint_tells_threat_models_of_one_name_apart(classifier, dataset, fgsm, tmp_path):
    class Weakened(threat_models.Oblivious):
        def __init__(self, share):
            super().__init__()
            self.share = share

        def target(self, defence):
            return lambda images: self.share * defence(images)

        def get_config(self):
            return {**super().get_config(), "share": self.share}

    checkpoint = tmp_path / "checkpoint.jsonl"
    for lines, share in [(2, 1.0), (2, 1.0), (3, 0.0)]:
        model = Weakened(share)
        measure({"bare": classifier}, dataset, [fgsm], [model], checkpoint=checkpoint, verbose=0)
        assert len(checkpoint.read_text().splitlines()) == lines


@pytest.mark.slow
def test_upper_bound_that_is_told_the_label_is_reported_without_checks(
    classifier, dataset, fgsm, protect
):
    defence = protect(classifier, gradient_map=keras_trn.gradient_maps.TrueLabel())
    report = keras_trn.evaluate(defence, dataset.take(1), [fgsm], check_examples=8, verbose=0)
    assert {cell["threat_model"] for cell in report.cells} == {None, "oblivious", "whitebox_full"}
    assert report.checks["protected"] == [] and report.checks["bare"]
    # Not yet trained, it changes nothing.
    bare = report.cell("FGSM", "oblivious", "bare")
    assert report.cell("FGSM", "oblivious")["correct"] == bare["correct"]
    with pytest.raises(KeyError):
        report.cell("FGSM", "whitebox_full", "protected")


def test_defence_does_not_see_the_labels(classifier, dataset):
    @keras.saving.register_keras_serializable(package="tests")
    class Peeking(keras_trn.RestoredClassifier):
        def restore_batch(self, images, labels=None):
            return images if labels is None else images * np.nan

    cells = measure({"bare": classifier, "peeking": Peeking(classifier)}, dataset, [], verbose=0)
    assert cells[0]["accuracy"] == cells[1]["accuracy"]


def test_study_of_the_true_label_is_told_the_label_that_the_attack_leads_away_from(
    classifier, dataset, fgsm
):
    @keras.saving.register_keras_serializable(package="tests")
    class Revealing(keras_trn.RestoredClassifier):
        """Makes an image of the label that it is told."""

        needs_labels = True

        def restore_batch(self, images, labels=None):
            return images * 0 + tf.cast(labels, tf.float32)[:, None, None, None] / 10

    def revealed(images):
        return tf.one_hot(tf.cast(tf.round(10 * images[:, 0, 0, 0]), tf.int64), 10)

    revealing = Revealing(classifier)
    revealing.classifier = revealed
    oblivious = keras_trn.threat_models.Oblivious
    benign, true, predicted = measure(
        {"bare": classifier, "revealing": revealing},
        dataset,
        [fgsm],
        [oblivious(), oblivious(labels="predicted")],
        verbose=0,
    )[1::2]
    assert benign["agreement"] == predicted["agreement"] == 1.0
    assert true["accuracy"] == 1.0 and true["agreement"] < 1.0


def test_checkpoint_survives_a_full_disk(tmp_path):
    path = tmp_path / "report.jsonl"
    checkpoint = Checkpoint(path)
    checkpoint.keep("first", 1)
    with largest_file(path.stat().st_size + 10), pytest.raises(OSError, match="too large"):
        checkpoint.keep("second", 2)
    with largest_file(10), pytest.raises(OSError, match="cannot be written"):
        checkpoint.forget(["first"])
    continued = Checkpoint(path)
    assert continued.get("first") == 1 and not continued.holds("second")
    continued.keep("second", 2)
    assert Checkpoint(path).get("second") == 2


def test_checkpoint_that_cannot_be_written_is_refused_at_once(classifier, dataset, tmp_path):
    with pytest.raises(FileNotFoundError, match="missing/report"):
        keras_trn.evaluate(
            classifier, dataset, NeverRun(0.1), checkpoint=tmp_path / "missing" / "report.jsonl"
        )


def test_line_that_was_cut_off_is_not_read(tmp_path):
    path = tmp_path / "checkpoint.jsonl"
    checkpoint = Checkpoint(path)
    checkpoint.get_or_compute("first", lambda: 1)
    path.write_text(path.read_text() + '{"key": "half')
    checkpoint = Checkpoint(path)
    assert checkpoint.get_or_compute("first", lambda: 2) == 1
    assert checkpoint.get_or_compute("second", lambda: 3) == 3
    checkpoint = Checkpoint(path)
    assert checkpoint.get_or_compute("second", lambda: 4) == 3


# --- What is refused --------------------------------------------------------------------


def test_bad_arguments_are_refused(classifier, digits, dataset, fgsm, protect):
    images, labels = digits
    protected = protect(classifier)
    bad = tf.data.Dataset.from_tensor_slices((images * 255, labels)).batch(100)
    with pytest.raises(ValueError, match="received values from 0 to 255"):
        keras_trn.evaluate(protected, bad, [fgsm], verbose=0)
    with pytest.raises(ValueError, match=r"pair of arrays `\(images, labels\)`; received ndarray"):
        keras_trn.evaluate(protected, images, [fgsm], verbose=0)
    with pytest.raises(ValueError, match="'blackbox' supports none of the attacks FGSM"):
        keras_trn.evaluate(protected, dataset, [fgsm], ["blackbox"], verbose=0)
    with pytest.raises(ValueError, match="draws its epsilon from"):
        keras_trn.evaluate(protected, dataset, [attacks.FastGradientMethod((0.1, 0.2))], verbose=0)
    with pytest.raises(ValueError, match="no attacks to evaluate a defence with"):
        keras_trn.evaluate(protected, dataset, [], verbose=0)
    with pytest.raises(ValueError, match="draws its epsilon from"):
        keras_trn.evaluate(protected, dataset, epsilon=(0.1, 0.2), verbose=0)
    with pytest.raises(ValueError, match="is for the default attacks"):
        keras_trn.evaluate(protected, dataset, [fgsm], epsilon=0.1, verbose=0)
    with pytest.raises(ValueError, match="List its attacks instead"):
        keras_trn.evaluate(protected, dataset, [attacks.Mixture([fgsm])], verbose=0)
    with pytest.raises(ValueError, match="2 runs on bare, protected would have the same row"):
        keras_trn.evaluate(protected, dataset, [fgsm, fgsm], verbose=0)
    with pytest.raises(ValueError, match="cannot be called 'bare'"):
        keras_trn.evaluate(protected, dataset, [fgsm], baselines={"bare": protected}, verbose=0)
    other = linear_classifier(num_classes=4)
    with pytest.raises(ValueError, match="'other' takes other images or knows other classes"):
        keras_trn.evaluate(protected, dataset, [fgsm], baselines={"other": other}, verbose=0)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["bpda"], r"applies to bare, so no .*: `bpda` needs a restoration"),
        (
            ["transfer_from_estimator", "whitebox_stopgrad"],
            r"`transfer_from_estimator` needs .*`EstimatedLabel`; `whitebox_stopgrad` needs a grad",
        ),
        ([], "attacks but no threat model"),
    ],
    ids=["one", "two", "none"],
)
def test_attacks_that_no_threat_model_runs_are_refused(classifier, dataset, names, message):
    for call in (
        lambda: measure({"bare": classifier}, dataset, NeverRun(0.1), names, verbose=0),
        lambda: keras_trn.evaluate(classifier, dataset, NeverRun(0.1), names, verbose=0),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# --- The whole ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(classifier, dataset):
    """Evaluates a protected classifier and a baseline under all threat models."""
    restorer = keras_trn.TwoStreamRestorationNetwork(width=4, depth=1)
    gradient_map = keras_trn.gradient_maps.EstimatedLabel(width=4, depth=1)
    protected = keras_trn.ProtectedClassifier(classifier, restorer, gradient_map)

    return keras_trn.evaluate(
        protected,
        dataset.take(1),
        [attacks.ProjectedGradientDescent(EPSILON, steps=3), attacks.Square(EPSILON, queries=10)],
        baselines={"bit depth": keras_trn.baselines.BitDepthReduction(classifier)},
        epsilons=[0.1],
        check_examples=8,
        verbose=0,
    )


@pytest.mark.slow
def test_any_keras_classifier_can_be_evaluated_and_the_same_comes_out_again(classifier, dataset):
    def evaluate():
        pgd = attacks.ProjectedGradientDescent(EPSILON, steps=3)
        data = dataset.take(1)
        return keras_trn.evaluate(classifier, data, pgd, check_examples=8, verbose=0)

    first, again = evaluate(), evaluate()
    assert first.defences == ["bare"]
    assert first.worst() == min(cell["accuracy"] for cell in first.cells)
    assert without_seconds(first.cells) == without_seconds(again.cells)
    assert first.checks == again.checks


@pytest.mark.slow
def test_report_has_all_defences_threat_models_and_checks(report):
    assert report.defences == ["bare", "protected", "bit depth"]
    found = {cell["threat_model"] for cell in report.cells if cell["defence"] == "protected"}
    parts = {"transfer_from_estimator", "transfer_without_map"}
    restored = {"bpda", "whitebox_stopgrad", "whitebox_full"}
    assert found == {None, "oblivious", "blackbox"} | parts | restored
    names = set(keras_trn.evaluation.checks.ALL_CHECKS)
    for results in report.checks.values():
        assert {result.name for result in results} == names
    assert report.worst() <= report.cell("PGD-3", "whitebox_full")["accuracy"]


@pytest.mark.slow
def test_pictures_show_each_threat_model_with_restored_images(report):
    titles = ["benign", "oblivious", "transfer_from_estimator", "transfer_without_map", "bpda"]
    titles += ["whitebox_stopgrad", "whitebox_full", "blackbox"]
    assert [row.title for row in report.pictures] == titles
    for row in report.pictures:
        assert row.states == ["attacked", "restored"] * 4
        # The restorer is not trained yet, and changes nothing.
        np.testing.assert_array_equal(row.images[::2], row.images[1::2])
        np.testing.assert_array_equal(row.predicted[::2], row.predicted[1::2])
    assert len(report.plot_pictures().axes) == 8 * 8


@pytest.mark.slow
def test_pictures_have_the_class_names_of_the_defence(classifier, digits, without_checks):
    names = [f"digit {number}" for number in range(10)]
    restorer = keras_trn.RestorationAutoencoder(4, 1, 2)
    protected = keras_trn.ProtectedClassifier(classifier, restorer, class_names=names)
    data, fgsm = (digits[0][:4], digits[1][:4]), attacks.FastGradientMethod(EPSILON)
    for defence, expected in [(protected, names), (classifier, None)]:
        report = keras_trn.evaluate(defence, data, fgsm, "oblivious", verbose=0)
        assert [row.class_names for row in report.pictures] == [expected] * 2
    figure = keras_trn.visualization.plot_restorations(protected, *data, fgsm)
    words = {text.get_text() for axis in figure.axes for text in axis.texts}
    assert words and words <= {f"“{name}”" for name in names}


@pytest.mark.slow
def test_default_attacks_need_only_an_epsilon(classifier, dataset):
    report = keras_trn.evaluate(
        classifier, dataset.take(1), check_examples=8, verbose=0, epsilon=EPSILON, norm="linf"
    )
    assert [cell["attack"] for cell in report.cells[:3]] == ["benign", "PGD-20", "AutoAttack fast"]
    fast = report.cell("AutoAttack fast", "whitebox_full")
    assert fast["epsilon"] == EPSILON
    assert fast["accuracy"] <= report.cell("PGD-20", "whitebox_full")["accuracy"]
    assert fast["forward_passes"] > 0 and fast["backward_passes"] > 0
