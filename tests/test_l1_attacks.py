"""Attacks in the L1 norm: an exact projection, sparse steps, and Auto-PGD in three stages."""

import keras
import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf

import keras_trn
from keras_trn import attacks
from keras_trn.attacks.auto_step_climb import Measured
from keras_trn.attacks.norms import project
from keras_trn.attacks.norms import random_in_ball
from keras_trn.attacks.norms import random_on_sphere
from keras_trn.attacks.sparse_climb import climb_in_stages
from keras_trn.attacks.sparse_climb import random_far_away
from keras_trn.attacks.sparse_climb import steps_of_stages
from keras_trn.attacks.sparse_steps import sparse_direction
from tests.helpers import CountingClassifier
from tests.helpers import linear_classifier
from tests.helpers import predictions

EPSILON = 8.0


def l1_lengths(perturbation):
    return np.abs(np.reshape(perturbation, (len(perturbation), -1))).sum(-1)


def survivors(attack, classifier, images, labels):
    return np.mean(predictions(classifier, attack(classifier, images, labels)) == labels)


# --- Projection -----------------------------------------------------------------------


def nearest_point(point, image, epsilon):
    """The point of the ball and of [0, 1] nearest to another one, by a solver of SciPy.

    The change is split into what is added and what is taken away, which makes the length linear.
    """
    size = len(image)
    nearest = scipy.optimize.minimize(
        lambda parts: np.sum((image + parts[:size] - parts[size:] - point) ** 2),
        np.zeros(2 * size),
        bounds=[*zip([0] * size, 1 - image, strict=True), *zip([0] * size, image, strict=True)],
        constraints={"type": "ineq", "fun": lambda parts: epsilon - parts.sum()},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    ).x
    return image + nearest[:size] - nearest[size:]


@pytest.mark.parametrize("epsilon", [0.3, 1.5, 4.0])
def test_projection_is_the_nearest_point_of_the_ball_and_the_box(epsilon):
    random = np.random.default_rng(0)
    images = random.random((20, 3, 2, 1)).astype("float32")
    points = images + random.normal(0, 0.7, images.shape).astype("float32")
    projected = project(points, images, tf.fill((20, 1, 1, 1), epsilon), "l1").numpy()
    expected = [
        nearest_point(point.ravel().astype("float64"), image.ravel().astype("float64"), epsilon)
        for point, image in zip(points, images, strict=True)
    ]
    np.testing.assert_allclose(projected.reshape(20, -1), expected, atol=1e-4)
    assert np.all(l1_lengths(projected - images) <= epsilon + 1e-5)


def test_projection_keeps_what_is_inside_and_moves_few_pixels():
    keras.utils.set_random_seed(0)
    images = keras.random.uniform((10, 8, 8, 1))
    epsilon = tf.fill((10, 1, 1, 1), EPSILON)
    inside = project(random_far_away(images, tf.constant([0, 0])), images, epsilon, "l1")
    np.testing.assert_array_equal(project(inside, images, epsilon, "l1"), inside)
    moved = np.count_nonzero(np.reshape(inside - images, (10, -1)), axis=-1)
    assert np.all((moved > 0) & (moved < 40))
    unchanged = project(inside, images, tf.zeros_like(epsilon), "l1")
    np.testing.assert_array_equal(unchanged, images)


def test_random_points_have_the_length_they_should():
    images, seed = tf.fill((200, 8, 8, 1), 0.5), tf.constant([0, 1])
    epsilon = tf.fill((200, 1, 1, 1), 2.0)
    on_sphere = random_on_sphere(images, epsilon, "l1", seed)
    np.testing.assert_allclose(l1_lengths(on_sphere - images), 2.0, atol=1e-4)
    lengths = l1_lengths(random_in_ball(images, epsilon, "l1", seed))
    # In a ball of 64 dimensions, half of all points lie within 2 ** (-1 / 64) of its radius.
    assert lengths.max() <= 2.0 + 1e-4
    assert np.median(lengths) == pytest.approx(2.0 * 0.5 ** (1 / 64), abs=0.01)


# --- Steps ----------------------------------------------------------------------------


def test_a_sparse_step_moves_the_largest_slopes_alone():
    gradient = np.zeros((2, 2, 3, 1), "float32")
    gradient[0].flat = [0.1, -5.0, 0.3, 2.0, -0.2, 0.0]
    gradient[1].flat = [0.0, 0.0, 3.0, 0.0, 0.0, 0.0]
    step = sparse_direction(gradient, tf.constant([2 / 6, 1.0])).numpy()
    np.testing.assert_allclose(step[0].ravel(), [0, -0.5, 0, 0.5, 0, 0])
    np.testing.assert_allclose(step[1].ravel(), [0, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(sparse_direction(np.zeros_like(gradient), 0.5), 0)


def test_slide_leaves_pixels_at_the_edge_of_the_range_alone():
    keras.utils.set_random_seed(0)
    classifier = linear_classifier(num_classes=2)
    images = np.full((1, 8, 8, 1), 0.5, "float32")
    labels = predictions(classifier, images)
    kernel = classifier.weights[0].numpy()
    rise = (kernel[:, 1 - labels[0]] - kernel[:, labels[0]]).reshape(8, 8)
    steepest = np.unravel_index(np.argsort(-np.abs(rise).ravel())[:2], (8, 8))
    # The steepest pixel is where its slope points to already, so the next one is moved.
    images[0, steepest[0][0], steepest[1][0], 0] = float(rise[steepest][0] > 0)
    attack = attacks.BasicIterativeMethod(0.4, norm="l1", steps=1, relative_step_size=1.0)
    moved = np.flatnonzero(attack(classifier, images, labels) - images)
    assert moved.tolist() == [np.ravel_multi_index(steepest, (8, 8))[1]]


# --- Auto-PGD -------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_stages_take_all_steps(steps):
    stages = steps_of_stages(steps)
    assert min(stages) >= 1
    if steps >= 10:
        assert sum(stages) == steps
        np.testing.assert_allclose(np.divide(stages, steps), [0.3, 0.3, 0.4])


def test_only_what_is_found_in_the_last_ball_counts():
    images = tf.fill((1, 8, 8, 1), 0.5)
    epsilon = tf.fill((1, 1, 1, 1), 1.0)
    lengths = []

    def measure(points):
        """Is fooled outside of the last ball alone, and rises with the first pixel."""
        length = tf.reduce_sum(tf.abs(points - images), axis=[1, 2, 3])
        lengths.append(length)
        gradient = tf.one_hot([0], 64)
        return Measured(points[:, 0, 0, 0], tf.reshape(gradient, points.shape), length > 1.5)

    start = random_far_away(images, tf.constant([0, 0]))
    found = climb_in_stages(measure, start, images, epsilon, 20)
    assert np.max(lengths) > 2.5
    assert not found.fooled[0]
    assert l1_lengths(found.points - images)[0] <= 1 + 1e-4
    # All of the budget that the range leaves goes into the pixel that counts.
    assert float(found.points[0, 0, 0, 0]) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.slow
def test_auto_pgd_finds_more_than_slide(classifier, digits):
    images, labels = digits[0][:100], digits[1][:100]
    arguments = {"epsilon": EPSILON, "norm": "l1", "seed": 0}
    slide = attacks.ProjectedGradientDescent(steps=40, **arguments)
    auto = attacks.AutoProjectedGradientDescent(steps=40, **arguments)
    noise = attacks.RandomNoise(**arguments)
    left = [survivors(attack, classifier, images, labels) for attack in (noise, slide, auto)]
    assert left[0] > 0.9 and left[1] < 0.4 and left[2] <= left[1]


@pytest.mark.slow
def test_passes_are_what_the_docstring_says(classifier, digits):
    images, labels = digits[0][:4], digits[1][:4]
    counting = CountingClassifier(classifier)
    attack = attacks.AutoProjectedGradientDescent(1e-3, norm="l1", steps=10, seed=0)
    attack(counting, images, labels)
    # The first call also counts the classes.
    counting.seen.assign(0)
    attack(counting, images, labels)
    assert counting.seen == len(images) * (10 + 2 + 2)


# --- Who takes the norm ---------------------------------------------------------------


@pytest.mark.parametrize(
    "attack_class",
    [attacks.FastGradientMethod, attacks.MomentumIterativeMethod, attacks.Square],
)
def test_attacks_without_the_norm_say_so(attack_class):
    with pytest.raises(ValueError, match=rf"norm of {attack_class.__name__} must be"):
        attack_class(EPSILON, norm="l1")


def test_auto_attack_names_what_there_is_instead():
    with pytest.raises(ValueError, match=r"AutoProjectedGradientDescent\(epsilon, norm='l1'\)"):
        attacks.auto_attack("fast", EPSILON, norm="l1")


@pytest.mark.slow
def test_a_report_has_the_norm_and_says_which_checks_do_not_apply(classifier, digits, tmp_path):
    report = keras_trn.evaluate(
        classifier,
        (digits[0][:40], digits[1][:40]),
        attacks.ProjectedGradientDescent(EPSILON, norm="l1", steps=10),
        check_examples=20,
        verbose=0,
    )
    assert "L1 8" in str(report)
    assert report.worst(norm="l1") < 0.5
    statuses = {check.name: check.status for check in report.checks[report.evaluated]}
    assert statuses["blackbox_not_stronger"] == "not applicable"
    assert statuses["unbounded_attack_succeeds"] == "PASS"
    report.to_json(tmp_path / "report.json")
    saved = keras_trn.evaluation.Report.from_json(tmp_path / "report.json")
    assert saved.worst(norm="l1") == report.worst(norm="l1")
    assert report.to_dict()["robustbench"][report.evaluated]["norm"] == "L1"
