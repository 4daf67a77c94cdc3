"""Auto-PGD follows its schedule, keeps the best of a run, and spends nothing on fooled images."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import linear_classifier

from keras_trn.attacks import AutoProjectedGradientDescent
from keras_trn.attacks import ProjectedGradientDescent
from keras_trn.attacks.auto_step_climb import Measured
from keras_trn.attacks.auto_step_climb import climb
from keras_trn.attacks.auto_step_climb import windows_ending_at_each_step
from keras_trn.attacks.logit_losses import cross_entropy
from keras_trn.attacks.logit_losses import difference_of_logits_ratio
from keras_trn.attacks.logit_losses import targeted_cross_entropy
from keras_trn.attacks.logit_losses import targeted_difference_of_logits_ratio
from keras_trn.attacks.norms import random_on_sphere
from keras_trn.threat_models import WhiteboxFull
from tests.helpers import CountingClassifier
from tests.helpers import predictions

DLR = {"loss": "difference_of_logits_ratio"}
VARIANTS = {
    "APGD-CE": {},
    "APGD-DLR": DLR,
    "APGD-CE-T": {"targets": 9},
    "APGD-T": {"targets": 9, **DLR},
}
every_variant = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)


def quick(epsilon=0.2, **config):
    return AutoProjectedGradientDescent(epsilon, **{"steps": 5, "seed": 0, **config})


def losses_of(classifier, images, labels):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, classifier(images)).numpy()


@pytest.fixture
def few(digits):
    return digits[0][:12], digits[1][:12]


class Script:
    """Answers the points of one image with given losses, and remembers the points."""

    def __init__(self, losses, fooled=(), gradients=None):
        self.answers = zip(losses, gradients or itertools.repeat(1.0), itertools.count())
        self.fooled = fooled
        self.points = []

    def __call__(self, points):
        self.points.append(float(points[0, 0, 0, 0]))
        loss, gradient, call = next(self.answers)
        fooled = tf.constant([call in self.fooled])
        return Measured(tf.constant([float(loss)]), gradient * tf.ones_like(points), fooled)


def follow(script, steps):
    """Climbs from the centre of a ball of radius 0.1 around 0.5."""
    images = tf.fill((1, 2, 2, 1), 0.5)
    epsilon = tf.fill((1, 1, 1, 1), 0.1)
    return climb(script, images, images, epsilon, "linf", steps)


# --- Schedule -------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 5, 20, 100, 1000])
def test_checks_are_where_the_paper_has_them(steps):
    windows = windows_ending_at_each_step(steps)
    checks = [index + 1 for index, window in enumerate(windows) if window]
    assert len(windows) == steps
    assert np.diff([0, *checks]).tolist() == [window for window in windows if window]
    if steps >= 100:
        shares = [0.0, 0.22]
        while shares[-1] <= 1:
            shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
        np.testing.assert_allclose(np.divide(checks, steps), shares[1:-1], atol=1e-9)


def test_step_is_halved_at_each_check_while_the_loss_does_not_rise():
    script = Script(losses=[1.0, *itertools.repeat(0.0, 100)])
    follow(script, 100)
    checks = np.flatnonzero(windows_ending_at_each_step(100)) + 1
    # From the best point, the start: three quarters of a step, and a quarter of the way back to
    # it. Before the first check, the points are at the edge of the ball.
    sizes = 0.2 / 2.0 ** np.arange(1, 4)
    expected = 0.5 + 0.75 * sizes - 0.25 * (np.array(script.points)[checks[:3]] - 0.5)
    np.testing.assert_allclose(np.array(script.points)[checks[:3] + 1], expected, atol=1e-6)
    np.testing.assert_allclose(script.points[1:23], 0.6, atol=1e-6)


def test_step_is_not_halved_while_the_loss_rises():
    script = Script(losses=range(101), gradients=itertools.cycle([1.0, -1.0]))
    follow(script, 100)
    expected = [0.5, 0.6]
    for edge in itertools.islice(itertools.cycle([0.4, 0.6]), 99):
        # Three quarters of the way across the ball, and a quarter of the step before.
        moved = expected[-1] + 0.75 * (edge - expected[-1]) + 0.25 * (expected[-1] - expected[-2])
        expected.append(np.clip(moved, 0.4, 0.6))
    np.testing.assert_allclose(script.points, expected, atol=1e-5)


def test_a_stall_halves_the_step_of_those_that_kept_it_at_the_last_check():
    # The loss rises almost always, and never reaches that of the start.
    script = Script(losses=[1000.0, *range(100)])
    follow(script, 100)
    points = np.array(script.points)
    checks = np.flatnonzero(windows_ending_at_each_step(100))[:4] + 1
    # Whoever is not sent back to the start stays at the edge.
    was_sent_back = points[checks + 1] < 0.6 - 1e-6
    assert was_sent_back.tolist() == [False, True, False, True]


def test_first_step_crosses_the_ball():
    keras.utils.set_random_seed(0)
    classifier = linear_classifier(num_classes=2)
    images = tf.fill((3, 8, 8, 1), 0.5)
    labels = predictions(classifier, images)
    kernel = classifier.weights[0].numpy()
    away = np.sign(kernel[:, 1 - labels[0]] - kernel[:, labels[0]]).reshape(8, 8, 1)
    adversarial = quick(0.1, steps=1)(classifier, images, labels)
    np.testing.assert_allclose(adversarial, images + 0.1 * away, atol=1e-6)


# --- What is kept ---------------------------------------------------------------------


def test_point_of_the_highest_loss_is_kept():
    script = Script(losses=[0, 1, 5, 2, 3, 1], gradients=[1.0, -0.5, 0.0, 1.0, -1.0, 1.0])
    found = follow(script, 5)
    assert found.points[0, 0, 0, 0] == script.points[2]
    assert found.loss == 5 and not found.fooled


@pytest.mark.parametrize(("fooled", "kept"), [((1, 3), 3), ((0,), 0)], ids=str)
def test_last_point_that_fools_is_kept_even_if_its_loss_is_low(fooled, kept):
    script = Script([0, 1, 5, -2, 3, 1], fooled, gradients=[1.0, -0.5, -1.0, 1.0, -1.0, 1.0])
    found = follow(script, 5)
    assert found.points[0, 0, 0, 0] == script.points[kept]
    assert found.fooled


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_start_lies_on_the_edge_of_the_ball(norm):
    images = tf.fill((3, 8, 8, 1), 0.5)
    epsilon = tf.reshape([0.0, 0.1, 0.2], (3, 1, 1, 1))
    start = random_on_sphere(images, epsilon, norm, tf.constant([1, 2]))
    flat = np.reshape(start - images, (3, -1))
    lengths = np.linalg.norm(flat, ord={"linf": np.inf, "l2": 2}[norm], axis=-1)
    np.testing.assert_allclose(lengths, [0.0, 0.1, 0.2], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_run_of_an_image_does_not_depend_on_the_others(norm, classifier, few):
    attack = quick({"linf": 0.1, "l2": 0.5}[norm], norm=norm, steps=10)
    expected = attack(classifier, *few)
    for part in (slice(0, 1), slice(5, 12)):
        # The others differ, in number of survivors too.
        images, labels = (np.zeros_like(array) for array in few)
        images[part], labels[part] = (array[part] for array in few)
        received = attack(classifier, images, labels)
        assert np.mean(np.abs(received[part] - expected[part]) > 1e-4) < 0.01


# --- Losses ---------------------------------------------------------------------------


def test_losses_are_those_of_the_paper():
    logits = tf.constant([[1.0, 4.0, 2.0, -1.0, 0.0]])
    label, target = tf.constant([1]), tf.constant([2])
    assert difference_of_logits_ratio(logits, label, target) == -(4 - 2) / (4 - 1)
    assert difference_of_logits_ratio(logits, target, label) == -(2 - 4) / (4 - 1)
    assert targeted_difference_of_logits_ratio(logits, label, target) == -(4 - 2) / (4 - 0.5)
    # The softplus of the odds against a class is its cross-entropy.
    expected = tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)
    odds = cross_entropy(logits, label, target)
    np.testing.assert_allclose(tf.nn.softplus(odds), expected, atol=1e-6)
    expected = tf.nn.sparse_softmax_cross_entropy_with_logits(target, logits)
    odds = targeted_cross_entropy(logits, label, target)
    np.testing.assert_allclose(tf.nn.softplus(-odds), expected, atol=1e-6)


def test_losses_do_not_vanish_where_the_classifier_is_sure():
    images = tf.Variable(tf.ones((1, 5)))
    scale = tf.constant([[1000.0, 1.0, 0.0, 0.0, 0.0]])
    with tf.GradientTape() as tape:
        loss = cross_entropy(images * scale, tf.constant([0]), tf.constant([1]))
    gradient = tape.gradient(loss, images)
    assert loss < -900 and gradient[0, 0] == -1000


@pytest.mark.parametrize(
    "loss", [difference_of_logits_ratio, targeted_difference_of_logits_ratio], ids=["any", "target"]
)
def test_ratio_is_finite_where_the_highest_logits_are_equal(loss):
    logits = tf.Variable(tf.ones((1, 5)))
    with tf.GradientTape() as tape:
        value = loss(logits, tf.constant([1]), tf.constant([2]))
    assert value == 0 and np.isfinite(tape.gradient(value, logits)).all()


# --- Strength -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.03), ("l2", 0.2)])
def test_loss_is_at_least_that_of_projected_gradient_descent(norm, epsilon, classifier, digits):
    images, labels = digits
    attacks = [
        attack(epsilon, norm, steps=20, seed=0)(classifier, images, labels)
        for attack in (AutoProjectedGradientDescent, ProjectedGradientDescent)
    ]
    # An image that fools the classifier has no need of a high loss.
    correct = [predictions(classifier, adversarial) == labels for adversarial in attacks]
    assert correct[0].sum() <= correct[1].sum()
    both = correct[0] & correct[1]
    assert both.sum() > 200
    own, others = (losses_of(classifier, adversarial, labels)[both] for adversarial in attacks)
    assert np.mean(own >= others - 1e-5 * np.abs(others)) >= 0.9


@pytest.mark.slow
@every_variant
def test_it_breaks_a_trained_classifier(config, classifier, digits):
    images, labels = digits[0][:120], digits[1][:120]
    adversarial = quick(0.2, steps=30, **config)(classifier, images, labels)
    assert np.mean(predictions(classifier, adversarial) == labels) <= 0.02


@pytest.mark.slow
def test_targets_break_no_less_of_a_defence(classifier, protect, digits):
    images, labels = digits[0][:60], digits[1][:60]
    target = WhiteboxFull().target(protect(classifier))
    left = [
        np.sum(
            predictions(target, quick(0.08, steps=10, **config)(target, images, labels)) == labels
        )
        for config in (DLR, VARIANTS["APGD-T"])
    ]
    assert left[1] <= left[0]
    assert 0 < left[0] < 60


# --- Labels, classes and numbers that are not finite ------------------------------------


@pytest.mark.slow
@every_variant
def test_images_that_are_misclassified_already_are_left_as_they_are(config, classifier, few):
    images, _ = few
    labels = predictions(classifier, images)
    labels[::2] = (labels[::2] + 1) % 10
    adversarial = quick(**config)(classifier, images, labels)
    np.testing.assert_array_equal(adversarial[::2], images[::2])
    assert np.all(np.any(adversarial != images, axis=(1, 2, 3))[1::2])


@pytest.mark.slow
@every_variant
@pytest.mark.parametrize("num_classes", [2, 3])
def test_classifiers_of_few_classes_are_attacked(num_classes, config, few):
    keras.utils.set_random_seed(0)
    classifier = linear_classifier(num_classes=num_classes)
    labels = predictions(classifier, few[0])
    adversarial = quick(0.3, **config)(classifier, few[0], labels)
    assert np.mean(predictions(classifier, adversarial) == labels) < 0.2


@pytest.mark.slow
@every_variant
def test_logits_that_are_not_finite_count_as_fooled(config, classifier, few):
    images, labels = few[0], predictions(classifier, few[0])

    brightness = images.mean(axis=(1, 2, 3))
    limit = np.median(brightness)

    def breaks_down(images):
        is_bright = tf.reduce_mean(images, axis=[1, 2, 3]) > limit
        return tf.where(is_bright[:, None], float("nan"), classifier(images))

    adversarial = quick(**config)(breaks_down, images, labels)
    assert np.isfinite(adversarial).all()
    was_broken = brightness > limit
    np.testing.assert_array_equal(adversarial[was_broken], images[was_broken])
    scores = breaks_down(adversarial[~was_broken])
    is_correct = np.isfinite(scores).all(axis=-1) & (np.argmax(scores, -1) == labels[~was_broken])
    assert np.mean(is_correct) <= 0.4


@pytest.mark.slow
@every_variant
def test_gradients_that_are_not_finite_stop_nothing(config, classifier, few):
    images, labels = few[0], predictions(classifier, few[0])

    def with_infinite_slope(images):
        # At 0, which is the background of the digits and the edge of the ball.
        return classifier(images) + 1e-6 * tf.reduce_sum(tf.sqrt(images), axis=[1, 2])

    adversarial = quick(**config)(with_infinite_slope, images, labels)
    assert np.isfinite(adversarial).all()
    assert np.mean(predictions(classifier, adversarial) == labels) <= 0.5


def test_epsilon_is_drawn_from_its_range_for_each_image(classifier, few):
    images, labels = few
    adversarial = quick((0.1, 0.3), steps=2)(classifier, images, labels)
    lengths = np.abs(adversarial - images).max(axis=(1, 2, 3))
    assert lengths.max() <= 0.3 + 1e-5
    assert len(np.unique(lengths.round(4))) == len(images)


# --- Cost and graphs --------------------------------------------------------------------


@pytest.mark.slow
@every_variant
def test_cost_is_that_of_the_documentation(config, classifier, few):
    images, labels = few[0], predictions(classifier, few[0])
    labels[:4] = (labels[:4] + 1) % 10
    counter = CountingClassifier(classifier)
    attack = quick(**config)
    # Nothing is fooled without a perturbation, so each target costs as much as the first.
    attack(counter, images, labels, epsilon=0)
    runs = config.get("targets", 1)
    # One more image counts the classes.
    assert counter.seen == 1 + 12 + 8 * runs * (attack.steps + 1)


@pytest.mark.slow
def test_images_that_are_fooled_cost_nothing_more(few):
    keras.utils.set_random_seed(0)
    classifier = linear_classifier()
    images, labels = few[0], predictions(classifier, few[0])
    counter = CountingClassifier(classifier)
    attack = quick(1.0, targets=9, **DLR)
    adversarial = attack(counter, images, labels)
    assert np.all(predictions(classifier, adversarial) != labels)
    assert counter.seen == 1 + 12 + 12 * (attack.steps + 1)


def test_there_are_no_more_targets_than_wrong_classes(few):
    keras.utils.set_random_seed(0)
    counter = CountingClassifier(linear_classifier(num_classes=5))
    labels = predictions(counter.classifier, few[0])
    quick(targets=9)(counter, few[0], labels, epsilon=0)
    assert counter.seen == 1 + 12 + 12 * 4 * 6


@pytest.mark.slow
@every_variant
def test_it_works_with_xla(config, classifier, few):
    images, labels = few
    attack = quick(0.1, **config)

    @tf.function(jit_compile=True)
    def attack_in_graph(images, labels):
        return attack(classifier, images, labels)

    adversarial = attack_in_graph(images, labels)
    assert np.all(np.abs(adversarial - images) <= 0.1 + 1e-6)
    # Compilers round differently, and each step enlarges the difference.
    left, expected = (
        np.mean(predictions(classifier, crafted) == labels)
        for crafted in (adversarial, attack(classifier, images, labels))
    )
    assert left == pytest.approx(expected, abs=1.5 / len(labels)) and left < 1


# --- Names and errors -------------------------------------------------------------------


def test_names_tell_losses_and_targets_apart():
    assert {quick(**config).name for config in VARIANTS.values()} == set(VARIANTS)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"loss": "hinge"}, "loss must be .*received 'hinge'"),
        ({"steps": 0}, "steps must be a whole number of at least 1, received 0"),
        ({"targets": 0}, "targets must be a whole number of at least 1, received 0"),
        ({"targets": 1.5}, "targets must be a whole number"),
        ({"epsilon": 2.0}, "epsilon of an linf attack"),
    ],
    ids=str,
)
def test_malformed_argument_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        AutoProjectedGradientDescent(**{"epsilon": 0.1, **config})
