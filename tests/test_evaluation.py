"""`evaluate` measures what it says, once for all defences, and goes on where it stopped."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_trn
from keras_trn import attacks
from keras_trn import threat_models
from keras_trn.evaluation.measurement import measure

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
    return attacks.ProjectedGradientDescent(EPSILON, steps=5, seed=0)


def by_row(cells):
    return {(cell["defence"], cell["threat_model"], cell["attack"]): cell for cell in cells}


def test_untrained_protection_changes_nothing(classifier, dataset, fgsm, pgd, protect):
    defences = {"bare": classifier, "protected": protect(classifier)}
    cells = by_row(measure(defences, dataset, [fgsm, pgd], verbose=0))
    for threat_model, attack in [(None, "benign"), ("oblivious", "FGSM"), ("oblivious", "PGD-5")]:
        bare = cells["bare", threat_model, attack]
        protected = cells["protected", threat_model, attack]
        assert bare["examples"] == 120
        assert bare["accuracy"] == protected["accuracy"]
        assert bare["right"] == protected["right"]
        assert protected["attacked_psnr"] == protected["restored_psnr"]
        assert "restored_psnr" not in bare
    assert cells["protected", None, "benign"]["agreement"] == 1.0
    benign = cells["bare", None, "benign"]["accuracy"]
    assert cells["bare", "oblivious", "PGD-5"]["accuracy"] < benign - 0.5


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


def test_transfer_and_predicted_labels_give_other_attacks(classifier, digits, fgsm):
    images, labels = digits
    wrong = tf.data.Dataset.from_tensor_slices((images[:120], (labels[:120] + 1) % 10)).batch(120)
    other = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
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


def test_curve_is_of_the_first_attack_at_each_epsilon(classifier, dataset, fgsm, pgd):
    cells = measure({"bare": classifier}, dataset, [pgd, fgsm], epsilons=[0.05, 0.2], verbose=0)
    on_curve = [cell for cell in cells if cell.get("on_curve")]
    assert [(cell["attack"], cell["epsilon"]) for cell in on_curve] == [("PGD-5", 0.05)]
    at_full_epsilon = by_row(cells[:2])["bare", "oblivious", "PGD-5"]
    assert on_curve[0]["accuracy"] > at_full_epsilon["accuracy"]


def test_answer_that_is_no_number_is_wrong(classifier, dataset):
    @keras.saving.register_keras_serializable(package="tests")
    class Broken(keras_trn.RestoredClassifier):
        def restorations(self, images, labels=None):
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


# --- Interrupted and resumed ------------------------------------------------------------


class InterruptionError(Exception):
    pass


def interrupted_after(calls, attack):
    """An attack that is interrupted, as by Ctrl-C, after some batches."""

    class Interrupting(type(attack)):
        def __call__(self, *args, **kwargs):
            nonlocal calls
            calls -= 1
            if calls < 0:
                raise InterruptionError
            return super().__call__(*args, **kwargs)

        @property
        def name(self):
            return attack.name

    # A backup tells attacks apart by their classes.
    Interrupting.__module__ = type(attack).__module__
    Interrupting.__qualname__ = type(attack).__qualname__
    return Interrupting.from_config(attack.get_config())


def without_seconds(cells):
    return [{**cell, "seconds": None} for cell in cells]


def test_interrupted_evaluation_keeps_what_is_finished(classifier, dataset, fgsm, pgd, tmp_path):
    backup = tmp_path / "backup.jsonl"
    models = ["oblivious", "whitebox_full"]
    with pytest.raises(InterruptionError):
        # In the last of 3 batches of PGD under the second threat model.
        stopped = [fgsm, interrupted_after(5, pgd)]
        measure({"bare": classifier}, dataset, stopped, models, backup=backup, verbose=0)
    # Benign, FGSM, PGD, FGSM are finished.
    assert len(backup.read_text().splitlines()) == 4

    never = [interrupted_after(0, fgsm), pgd]
    resumed = measure({"bare": classifier}, dataset, never, models, backup=backup, verbose=0)
    afresh = measure({"bare": classifier}, dataset, [fgsm, pgd], models, verbose=0)
    assert without_seconds(resumed) == without_seconds(afresh)


def test_backup_is_not_taken_for_other_weights_data_or_settings(
    classifier, digits, dataset, fgsm, tmp_path
):
    backup = tmp_path / "backup.jsonl"

    def lines_after(model, data, attack):
        measure({"bare": model}, data, [attack], backup=backup, verbose=0)
        return len(backup.read_text().splitlines())

    assert lines_after(classifier, dataset, fgsm) == 2
    assert lines_after(classifier, dataset, fgsm) == 2
    assert lines_after(classifier, dataset, attacks.FastGradientMethod(0.1)) == 3
    assert lines_after(classifier, dataset.take(1), fgsm) == 5
    changed = keras.models.clone_model(classifier)
    changed.set_weights([weight + 0.01 for weight in classifier.get_weights()])
    assert lines_after(changed, dataset, fgsm) == 7


def test_backup_tells_names_and_attacks_apart(classifier, dataset, pgd, tmp_path):
    class Harmless(attacks.ProjectedGradientDescent):
        def craft(self, logits, images, labels, epsilon, random_seed):
            return images

    backup = tmp_path / "backup.jsonl"
    harmless = Harmless.from_config(pgd.get_config())

    def cells(name, attack):
        models = {"bare": classifier, name: classifier}
        return measure(models, dataset, [attack], ["whitebox_full"], backup=backup, verbose=0)

    assert [cell["defence"] for cell in cells("copy", pgd)] == ["bare", "copy", "bare", "copy"]
    assert [cell["defence"] for cell in cells("other", pgd)] == ["bare", "other"] * 2
    assert cells("copy", harmless)[-1]["accuracy"] > cells("copy", pgd)[-1]["accuracy"] + 0.5


def test_backup_tells_threat_models_of_one_name_apart(classifier, dataset, fgsm, tmp_path):
    class Weakened(threat_models.Oblivious):
        def __init__(self, share):
            super().__init__()
            self.share = share

        def target(self, defence):
            return lambda images: self.share * defence(images)

        def get_config(self):
            return {**super().get_config(), "share": self.share}

    backup = tmp_path / "backup.jsonl"
    for lines, share in [(2, 1.0), (2, 1.0), (3, 0.0)]:
        model = Weakened(share)
        measure({"bare": classifier}, dataset, [fgsm], [model], backup=backup, verbose=0)
        assert len(backup.read_text().splitlines()) == lines


def test_upper_bound_that_is_told_the_label_is_reported_without_checks(
    classifier, dataset, fgsm, protect
):
    defence = protect(classifier, gradient_map=keras_trn.gradient_maps.TrueLabel())
    report = keras_trn.evaluate(defence, dataset.take(1), [fgsm], check_examples=8, verbose=0)
    assert {cell["threat_model"] for cell in report.cells} == {None, "oblivious", "whitebox_full"}
    assert report.checks["protected"] == [] and report.checks["bare"]
    # Not yet trained, it changes nothing.
    bare = report.cell("FGSM", "oblivious", "bare")
    assert report.cell("FGSM", "oblivious")["right"] == bare["right"]
    with pytest.raises(KeyError):
        report.cell("FGSM", "whitebox_full", "protected")


def test_attack_with_a_seed_does_not_keep_what_was_judged(classifier, dataset, protect):
    attack = attacks.ProjectedGradientDescent(EPSILON, steps=2, seed=0)
    keras_trn.evaluate(
        protect(classifier), dataset.take(1), [attack], ["bpda"], check_examples=4, verbose=0
    )
    assert attack._graphs == {}


def test_defence_does_not_see_the_labels(classifier, dataset):
    @keras.saving.register_keras_serializable(package="tests")
    class Peeking(keras_trn.RestoredClassifier):
        def restorations(self, images, labels=None):
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

        def restorations(self, images, labels=None):
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


def test_line_that_was_cut_off_is_not_read(tmp_path):
    path = tmp_path / "backup.jsonl"
    backup = keras_trn.evaluation.backup.Backup(path)
    backup.get_or_compute("first", lambda: 1)
    path.write_text(path.read_text() + '{"key": "half')
    backup = keras_trn.evaluation.backup.Backup(path)
    assert backup.get_or_compute("first", lambda: 2) == 1
    assert backup.get_or_compute("second", lambda: 3) == 3
    backup = keras_trn.evaluation.backup.Backup(path)
    assert backup.get_or_compute("second", lambda: 4) == 3


# --- What is refused --------------------------------------------------------------------


def test_bad_arguments_are_refused(classifier, digits, dataset, fgsm, protect):
    images, labels = digits
    protected = protect(classifier)
    bad = tf.data.Dataset.from_tensor_slices((images * 255, labels)).batch(100)
    with pytest.raises(ValueError, match="received values from 0 to 255"):
        keras_trn.evaluate(protected, bad, [fgsm], verbose=0)
    with pytest.raises(ValueError, match=r"received tuple\. For arrays: `tf\.data\.Dataset"):
        keras_trn.evaluate(protected, digits, [fgsm], verbose=0)
    with pytest.raises(ValueError, match="'blackbox' admits none of the attacks FGSM"):
        keras_trn.evaluate(protected, dataset, [fgsm], ["blackbox"], verbose=0)
    with pytest.raises(ValueError, match="draws its epsilon from"):
        keras_trn.evaluate(protected, dataset, [attacks.FastGradientMethod((0.1, 0.2))], verbose=0)
    with pytest.raises(ValueError, match="nothing to judge a defence by"):
        keras_trn.evaluate(protected, dataset, [], verbose=0)
    with pytest.raises(ValueError, match="List its attacks instead"):
        keras_trn.evaluate(protected, dataset, [attacks.Mixture([fgsm])], verbose=0)
    with pytest.raises(ValueError, match="2 runs on bare, protected would have the same row"):
        keras_trn.evaluate(protected, dataset, [fgsm, fgsm], verbose=0)
    with pytest.raises(ValueError, match="cannot be called 'bare'"):
        keras_trn.evaluate(protected, dataset, [fgsm], peers={"bare": protected}, verbose=0)
    other = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(4)]
    )
    with pytest.raises(ValueError, match="'other' takes other images or knows other classes"):
        keras_trn.evaluate(protected, dataset, [fgsm], peers={"other": other}, verbose=0)


# --- The whole ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(classifier, dataset):
    """A report of a protected classifier and a peer under all threat models."""
    restorer = keras_trn.TwoStreamRestorationNetwork(width=4, depth=1)
    gradient_map = keras_trn.gradient_maps.EstimatedLabel(width=4, depth=1)
    protected = keras_trn.ProtectedClassifier(classifier, restorer, gradient_map)
    calls = {
        "attacks": [
            attacks.ProjectedGradientDescent(EPSILON, steps=5),
            attacks.Square(EPSILON, queries=20),
        ],
        "peers": {"bit depth": keras_trn.peers.BitDepthReduction(classifier)},
        "epsilons": [0.1],
        "check_examples": 24,
        "verbose": 0,
    }
    return protected, calls


@pytest.mark.slow
def test_evaluation_can_be_repeated_and_reports_all(evaluated, dataset):
    protected, calls = evaluated
    report = keras_trn.evaluate(protected, dataset, **calls)
    again = keras_trn.evaluate(protected, dataset, **calls)
    assert without_seconds(report.cells) == without_seconds(again.cells)
    assert report.checks == again.checks

    assert report.defences == ["bare", "protected", "bit depth"]
    assert {cell["threat_model"] for cell in report.cells if cell["defence"] == "protected"} == {
        None,
        "oblivious",
        "bpda",
        "whitebox_stopgrad",
        "whitebox_full",
        "blackbox",
    }
    assert all(len(checks) == 20 for checks in report.checks.values())
    assert report.worst() <= report.cell("PGD-5", "whitebox_full")["accuracy"]
    for plot in (report.plot_accuracy, report.plot_quality, report.plot_pictures):
        assert plot().axes
    assert json.dumps(report.to_dict())


@pytest.mark.slow
def test_any_keras_classifier_can_be_judged(classifier, dataset, pgd):
    report = keras_trn.evaluate(classifier, dataset, [pgd], check_examples=24, verbose=0)
    assert report.defences == ["bare"]
    assert report.worst() == min(cell["accuracy"] for cell in report.cells)
