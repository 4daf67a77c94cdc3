"""FAB and FAB-T project exactly, and find small perturbations in both norms."""

import keras
import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf

from keras_trn.attacks import DeepFool
from keras_trn.attacks import FastAdaptiveBoundary
from keras_trn.attacks.fast_adaptive_boundary import search_segment
from keras_trn.attacks.hyperplane_projection import shortest_change
from keras_trn.attacks.rivals import most_likely_rivals
from keras_trn.threat_models import WhiteboxFull
from tests.helpers import CountingClassifier
from tests.helpers import boundary_distances
from tests.helpers import lengths
from tests.helpers import linear_classifier
from tests.helpers import predictions

NORMS = {"linf": 0.2, "l2": 1.5}
FREE = {"linf": 1.0, "l2": 100.0}
every_norm = pytest.mark.parametrize("norm", NORMS)
# FAB-T and FAB.
every_variant = pytest.mark.parametrize("targets", [9, None], ids=["targeted", "untargeted"])


# --- Projections ----------------------------------------------------------------------


def optimal_length(point, normal, rise, norm):
    """The length of the shortest change, by solvers of SciPy."""
    size = len(point)
    bounds = list(zip(-point, 1 - point, strict=True))
    if norm == "linf":
        ones, identity = np.ones((size, 1)), np.eye(size)
        return scipy.optimize.linprog(
            [0] * size + [1],
            A_ub=np.block([[identity, -ones], [-identity, -ones]]),
            b_ub=np.zeros(2 * size),
            A_eq=[[*normal, 0]],
            b_eq=[rise],
            bounds=[*bounds, (0, None)],
        ).fun
    constraint = {"type": "eq", "fun": lambda change: normal @ change - rise}
    squares = scipy.optimize.minimize(
        lambda change: change @ change,
        np.zeros(size),
        bounds=bounds,
        constraints=constraint,
        method="SLSQP",
        options={"ftol": 1e-12},
    ).fun
    return np.sqrt(squares)


@every_norm
def test_the_change_is_the_shortest_that_reaches_the_plane(norm):
    random = np.random.default_rng(0)
    points = random.random((40, 7)).astype("float32")
    points[:10] = points[:10].round()
    normals = random.normal(size=(40, 7)).astype("float32")
    normals[::4, :3] = 0.0
    normals[1::4, 0] *= 1e4
    highest = np.sum(np.maximum(normals * -points, normals * (1 - points)), axis=-1)
    lowest = np.sum(np.minimum(normals * -points, normals * (1 - points)), axis=-1)
    rises = np.where(np.arange(40) % 2, highest, lowest) * random.random(40).astype("float32")
    changes = shortest_change(points, normals, rises, norm).numpy()
    assert np.all(points + changes >= -1e-6) and np.all(points + changes <= 1 + 1e-6)
    np.testing.assert_allclose(np.sum(normals * changes, axis=-1), rises, rtol=1e-4, atol=1e-5)
    for point, normal, rise, change in zip(points, normals, rises, changes, strict=True):
        steepest = np.abs(normal).max()
        optimum = optimal_length(point, normal / steepest, rise / steepest, norm)
        assert np.linalg.norm(change, ord=np.inf if norm == "linf" else 2) <= optimum + 1e-4
        assert np.all(change[normal == 0] == 0)


@every_norm
def test_a_plane_out_of_reach_is_approached_as_far_as_possible(norm):
    points = np.array([[0.2, 0.7, 0.5]], "float32")
    normals = np.array([[1.0, -2.0, 0.0]], "float32")
    changes = shortest_change(points, normals, np.array([9.0], "float32"), norm)
    np.testing.assert_allclose(changes, [[0.8, -0.7, 0.0]], atol=1e-6)
    changes = shortest_change(points, normals, np.array([-9.0], "float32"), norm)
    np.testing.assert_allclose(changes, [[-0.2, 0.3, 0.0]], atol=1e-6)


@every_norm
@pytest.mark.parametrize("normal", [0.0, np.nan, np.inf, 1e-30, 1e30])
def test_any_slope_gives_a_finite_change(norm, normal):
    points = np.full((3, 4), 0.5, "float32")
    normals = np.array([[normal] * 4, [normal, 0, 0, 0], [1.0] * 4], "float32")
    rises = np.array([0.0, 1.0, 1.0], "float32")
    changes = shortest_change(points, normals, rises, norm)
    assert np.isfinite(changes).all()
    np.testing.assert_allclose(changes[2], 0.25, atol=1e-6)


# --- Strength -------------------------------------------------------------------------


@pytest.mark.slow
@every_variant
@every_norm
def test_it_breaks_a_trained_classifier(norm, targets, classifier, digits):
    images, labels = digits[0][:120], digits[1][:120]
    attack = FastAdaptiveBoundary(NORMS[norm], norm=norm, steps=20, targets=targets)
    adversarial = attack(classifier, images, labels)
    assert lengths(adversarial - images, norm).max() <= NORMS[norm] + 1e-5
    assert np.mean(predictions(classifier, adversarial) == labels) <= 0.03


def craft_freely(attack, classifier, images, labels):
    """Crafts with an epsilon that no image is broken within, so that every target is tried."""
    craft = tf.function(
        lambda images, labels, epsilon: attack.craft(
            lambda images: classifier(images, training=False),
            images,
            labels,
            epsilon,
            tf.constant([0, 0]),
        )
    )
    epsilon = tf.fill((len(images), 1, 1, 1), 1e-6)
    return craft(tf.constant(images), tf.constant(labels, tf.int64), epsilon).numpy()


@pytest.mark.slow
@every_variant
def test_its_perturbations_are_shorter_than_those_of_deep_fool(targets, classifier, digits):
    images, labels = digits[0][:60], digits[1][:60]
    attack = FastAdaptiveBoundary(1.0, norm="l2", steps=20, targets=targets)
    found = craft_freely(attack, classifier, images, labels)
    others = DeepFool(100.0)(classifier, images, labels)
    correct = predictions(classifier, images) == labels
    assert np.all(predictions(classifier, found) != labels)
    found, others = (lengths(part - images, "l2")[correct] for part in (found, others))
    # DeepFool is close to optimal here: the next test shows how little FAB leaves.
    assert np.mean(found < others) >= 0.8 and np.max(found / others) < 1.02
    assert np.mean(found) < 0.99 * np.mean(others)


def shortest_length_nearby(classifier, image, found, label, rival):
    """The length of the shortest perturbation to a rival, by a solver that starts at another."""
    shape = image.shape

    @tf.function
    def lead(points):
        with tf.GradientTape() as tape:
            tape.watch(points)
            scores = classifier(tf.reshape(points, (1, *shape)), training=False)[0]
            difference = scores[rival] - scores[label]
        return difference, tape.gradient(difference, points)

    def lead_at(flat):
        value, gradient = lead(tf.constant(flat, tf.float32))
        return float(value), gradient.numpy().astype("float64")

    clean = image.reshape(-1).astype("float64")
    solution = scipy.optimize.minimize(
        lambda flat: ((flat - clean) @ (flat - clean), 2 * (flat - clean)),
        found.reshape(-1).astype("float64"),
        jac=True,
        bounds=[(0, 1)] * clean.size,
        constraints={
            "type": "ineq",
            "fun": lambda flat: lead_at(flat)[0],
            "jac": lambda flat: lead_at(flat)[1],
        },
        method="SLSQP",
        options={"maxiter": 50},
    )
    assert lead_at(solution.x)[0] > -1e-3
    return np.sqrt(solution.fun)


@pytest.mark.slow
@every_variant
def test_a_solver_hardly_shortens_its_perturbations(targets, classifier, digits):
    labels = digits[1][:10]
    images = digits[0][:10]
    attack = FastAdaptiveBoundary(1.0, norm="l2", steps=20, targets=targets)
    found = craft_freely(attack, classifier, images, labels)
    rivals = predictions(classifier, found)
    assert np.all(predictions(classifier, images) == labels) and np.all(rivals != labels)
    shorter = [
        shortest_length_nearby(classifier, *example)
        for example in zip(images, found, labels, rivals, strict=True)
    ]
    ratios = lengths(found - images, "l2") / shorter
    assert np.median(ratios) < 1.01 and np.max(ratios) < 1.03


@pytest.mark.slow
@every_variant
@every_norm
def test_the_boundary_of_a_linear_classifier_is_found_exactly(norm, targets):
    keras.utils.set_random_seed(0)
    classifier = linear_classifier(num_classes=3)
    images = np.random.default_rng(0).uniform(0.4, 0.6, (20, 8, 8, 1)).astype("float32")
    labels = predictions(classifier, images)
    nearest = boundary_distances(classifier, images, labels, norm)
    attack = FastAdaptiveBoundary(FREE[norm], norm=norm, steps=10, targets=targets)
    adversarial = craft_freely(attack, classifier, images, labels)
    assert np.all(predictions(classifier, adversarial) != labels)
    found = lengths(adversarial - images, norm)
    assert np.all(found < 1.01 * nearest + 1e-5) and np.all(found > 0.999 * nearest - 1e-5)


@pytest.mark.slow
@every_norm
def test_longer_perturbations_are_shortened(norm, classifier, digits):
    images, labels = digits[0][:40], digits[1][:40]
    attack = FastAdaptiveBoundary(FREE[norm], norm=norm, steps=10, targets=1)
    free = lengths(attack(classifier, images, labels) - images, norm)
    assert np.all(free[predictions(classifier, images) == labels] > 0)
    epsilon = float(np.median(free))
    shortened = attack(classifier, images, labels, epsilon=epsilon)
    np.testing.assert_allclose(
        lengths(shortened - images, norm), np.minimum(free, epsilon), atol=1e-4
    )


def test_the_search_on_the_segment_moves_to_the_boundary():
    def logits(images):
        brightness = tf.reduce_mean(images, axis=[1, 2, 3])
        return tf.stack([tf.fill(tf.shape(brightness), 0.7), tf.sqrt(brightness)], axis=-1)

    images, fooling = (np.full((3, 2, 2, 1), value, "float32") for value in (0.1, 1.0))
    found = search_segment(logits, images, fooling, tf.zeros(3, tf.int64))
    assert np.all(np.argmax(logits(found), axis=-1) == 1)
    assert np.min(found) >= 0.49 and np.max(found) < 0.5


def test_the_search_keeps_a_lead_that_rounding_does_not_take():
    # Large logits, and a boundary at which they are equal.
    def logits(images):
        brightness = tf.reduce_mean(images, axis=[1, 2, 3])
        return tf.stack([100.0 - brightness, 99.0 + brightness], axis=-1)

    images = np.linspace(0.0, 0.4, 50, dtype="float32").reshape(-1, 1, 1, 1)
    labels = tf.zeros(50, tf.int64)
    found = search_segment(logits, images, np.ones_like(images), labels)
    leads = np.diff(logits(found), axis=-1)
    assert np.min(leads) >= 1e-3 and np.max(leads) < 1e-2


# --- Who is attacked ------------------------------------------------------------------


@pytest.mark.slow
@every_norm
def test_images_that_are_misclassified_already_are_left_as_they_are(norm, classifier, digits):
    images = digits[0][:12]
    labels = predictions(classifier, images)
    labels[::2] = (labels[::2] + 1) % 10
    attack = FastAdaptiveBoundary(NORMS[norm], norm=norm, steps=5, targets=2)
    adversarial = attack(classifier, images, labels)
    np.testing.assert_array_equal(adversarial[::2], images[::2])
    assert np.all(lengths(adversarial - images, norm)[1::2] > 0)


@pytest.mark.slow
@every_norm
def test_images_fooled_within_epsilon_are_not_attacked_again(norm, classifier, digits):
    images, labels = digits[0][:40], digits[1][:40]
    counted = CountingClassifier(classifier)
    attack = FastAdaptiveBoundary(FREE[norm], norm=norm, steps=10, targets=4)
    correct = np.sum(predictions(classifier, images) == labels)
    counts = {}
    # About half of the images are fooled within the second epsilon.
    half = {"linf": 0.06, "l2": 0.5}[norm]
    for epsilon in (1e-4, half, FREE[norm]):
        attack(counted, images, labels, epsilon=epsilon)
        counts[epsilon] = counted.seen.numpy()
        counted.seen.assign(0)
    each_target, search = 2 * 10 * correct, 5 * correct
    # One image shows the number of classes, once.
    assert counts[1e-4] == 1 + 40 + 4 * each_target + search
    assert counts[FREE[norm]] == 40 + each_target + search
    assert counts[FREE[norm]] < counts[half] < counts[1e-4]


def test_rivals_are_the_most_likely_other_classes():
    scores = np.array([[5.0, 1.0, 4.0, 2.0], [0.0, 3.0, 2.0, 1.0]], "float32")
    rivals = most_likely_rivals(tf.constant(scores), tf.constant([0, 2]), 2)
    np.testing.assert_array_equal(rivals, [[2, 3], [1, 3]])
    assert most_likely_rivals(tf.constant(scores), tf.constant([0, 2]), 9).shape == (2, 3)


# --- Restarts -------------------------------------------------------------------------


def seen_starts(attack, images, epsilon):
    """Returns what the attack asks the logits for first in each of its runs of one step."""
    asked = []

    def logits(images):
        asked.append(images.numpy())
        # No image is ever fooled, so that every run takes place.
        brightness = tf.reduce_sum(images, axis=[1, 2, 3])
        return tf.stack([100.0 + brightness, -brightness], axis=-1)

    attack.craft(
        logits,
        tf.constant(images),
        tf.zeros(len(images), tf.int64),
        tf.fill((len(images), 1, 1, 1), epsilon),
        tf.constant([1, 2]),
    )
    # The labels come first. Then each run asks for gradients, and for the success of its step.
    return asked[1::2]


@every_variant
@every_norm
def test_restarts_begin_at_random_points_at_half_of_epsilon(norm, targets):
    images = np.full((4, 8, 8, 1), 0.5, "float32")
    attack = FastAdaptiveBoundary(1.0, norm=norm, steps=1, targets=targets, restarts=3)
    clean, *starts = seen_starts(attack, images, epsilon=0.2)
    np.testing.assert_array_equal(clean, images)
    assert len(starts) == 2
    for start in starts:
        np.testing.assert_allclose(lengths(start - images, norm), 0.1, rtol=1e-4)
    offsets = np.reshape(np.concatenate(starts) - 0.5, (8, -1))
    assert np.max(np.abs(np.corrcoef(offsets) - np.eye(8))) < 0.6


@every_norm
def test_random_starts_stay_in_the_range(norm):
    images = np.round(np.random.default_rng(0).random((4, 8, 8, 1), dtype="float32"))
    attack = FastAdaptiveBoundary(1.0, norm=norm, steps=1, targets=None, restarts=2)
    _, start = seen_starts(attack, images, epsilon=1.0)
    assert np.min(start) >= 0 and np.max(start) <= 1 and np.any(start != images)


@pytest.mark.slow
@every_variant
def test_only_images_that_no_start_fooled_are_attacked_again(targets, classifier, digits):
    images, labels = digits[0][:40], digits[1][:40]
    counted = CountingClassifier(classifier)
    correct = np.sum(predictions(classifier, images) == labels)
    attack = FastAdaptiveBoundary(1.0, steps=10, targets=targets and 2, restarts=3, seed=0)
    counts = {}
    for epsilon in (1e-4, 0.06, 1.0):
        attack(counted, images, labels, epsilon=epsilon)
        counts[epsilon] = counted.seen.numpy()
        counted.seen.assign(0)
    each_run, search = 2 * 10 * correct, 5 * correct
    runs = 3 * (2 if targets else 1)
    # One image shows the number of classes, once.
    assert counts[1e-4] == 1 + 40 + runs * each_run + search
    assert counts[1.0] == 40 + each_run + search
    assert counts[1.0] < counts[0.06] < counts[1e-4]


@pytest.mark.slow
def test_a_restart_finds_what_the_clean_image_does_not_show():
    def logits(images):
        # A rectifier has no gradient at 0, the value of the clean images.
        brightness = tf.nn.relu(images[:, 0, 0, 0])
        return tf.stack([tf.fill(tf.shape(brightness), 0.4), 2.0 * brightness], axis=-1)

    images, labels = np.zeros((16, 1, 1, 1), "float32"), np.zeros(16, "int64")
    attack = FastAdaptiveBoundary(0.3, steps=10, targets=None, seed=0)
    np.testing.assert_array_equal(attack(logits, images, labels), images)
    adversarial = attack.variant(restarts=5)(logits, images, labels)
    # Each of the four random points is brighter than 0 with a probability of one half.
    assert np.mean(predictions(logits, adversarial) != labels) >= 0.8


def test_a_seed_fixes_the_random_starts(classifier, digits):
    images, labels = digits[0][:24], digits[1][:24]
    # An epsilon that leaves about half of the images for the restarts.
    attack = FastAdaptiveBoundary(0.5, norm="l2", steps=2, targets=None, restarts=3)
    first = attack(classifier, images, labels, seed=1)
    np.testing.assert_array_equal(attack(classifier, images, labels, seed=1), first)
    assert np.any(attack(classifier, images, labels, seed=2) != first)


def test_an_attack_is_random_if_it_restarts():
    attack = FastAdaptiveBoundary(0.1, restarts=2)
    assert attack.is_random and not FastAdaptiveBoundary(0.1).is_random
    assert attack.without_restarts().restarts == 1 and attack.name == "FAB-T"
    single = attack.variant(targets=None, restarts=1)
    assert single.without_restarts() is single and single.name == "FAB"


# --- Unusual classifiers and images ---------------------------------------------------


@pytest.mark.slow
@every_variant
@every_norm
def test_a_classifier_of_two_classes_is_attacked(norm, targets, digits):
    keras.utils.set_random_seed(0)
    classifier = linear_classifier(num_classes=2)
    images = digits[0][:12]
    labels = predictions(classifier, images)
    attack = FastAdaptiveBoundary(FREE[norm], norm=norm, steps=5, targets=targets)
    assert np.all(predictions(classifier, attack(classifier, images, labels)) != labels)


@pytest.mark.slow
def test_of_many_classes_the_nine_most_likely_are_considered():
    keras.utils.set_random_seed(0)
    classifier = linear_classifier(num_classes=30)
    images = np.random.default_rng(0).random((20, 8, 8, 1), dtype="float32")
    labels = predictions(classifier, images)
    attack = FastAdaptiveBoundary(100.0, norm="l2", steps=10, targets=None)
    reached = predictions(classifier, attack(classifier, images, labels))
    rivals = most_likely_rivals(classifier(images), tf.constant(labels), 9).numpy()
    assert np.all(np.any(rivals == reached[:, None], axis=-1))


@pytest.mark.slow
@every_norm
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (16, 9, 3)], ids=str)
def test_images_of_any_shape_are_attacked(shape, norm):
    keras.utils.set_random_seed(0)
    classifier = linear_classifier(shape)
    images = np.random.default_rng(0).random((8, *shape), dtype="float32")
    labels = predictions(classifier, images)
    attack = FastAdaptiveBoundary(FREE[norm], norm=norm, steps=10, targets=3)
    adversarial = attack(classifier, images, labels)
    assert np.isfinite(adversarial).all()
    if np.prod(shape) > 1:
        assert np.all(predictions(classifier, adversarial) != labels)


@pytest.mark.slow
@every_norm
def test_images_without_a_gradient_are_left_as_they_are(norm, classifier, digits):
    images = digits[0][:4]

    def rounded(images):
        return classifier(tf.floor(2.9 * images), training=False)

    labels = predictions(rounded, images)
    attack = FastAdaptiveBoundary(NORMS[norm], norm=norm, steps=3, targets=2)
    np.testing.assert_array_equal(attack(rounded, images, labels), images)


@pytest.mark.slow
@every_norm
def test_equal_logits_give_finite_images(norm):
    images = np.random.default_rng(0).random((3, 4, 4, 1), dtype="float32")

    def tied(images):
        brightness = tf.reduce_sum(images, axis=[1, 2, 3])
        return tf.stack([brightness, brightness, brightness - 0.1], axis=-1)

    attack = FastAdaptiveBoundary(FREE[norm], norm=norm, steps=5)
    assert np.isfinite(attack(tied, images, [0, 0, 0])).all()


@pytest.mark.slow
@every_norm
def test_answers_that_are_not_numbers_leave_the_others_alone(norm, classifier, digits):
    images, labels = digits[0][:12].copy(), digits[1][:12]
    images[:, 0, 0] = 0.0
    images[::3, 0, 0] = 1.0

    def broken(images):
        scores = classifier(images, training=False)
        return tf.where(images[:, 0, 0] > 0.9, np.nan, scores)

    attack = FastAdaptiveBoundary(FREE[norm], norm=norm, steps=10, targets=2)
    adversarial = attack(broken, images, labels)
    assert np.isfinite(adversarial).all()
    np.testing.assert_array_equal(adversarial[::3], images[::3])
    assert np.all(predictions(classifier, adversarial[1::3]) != labels[1::3])


@pytest.mark.slow
def test_it_works_through_a_defence(classifier, protect, digits):
    images = digits[0][:8]
    target = WhiteboxFull().target(protect(classifier))
    labels = predictions(target, images)
    adversarial = FastAdaptiveBoundary(0.3, steps=10, targets=2)(target, images, labels)
    assert np.mean(predictions(target, adversarial) == labels) <= 0.5


@pytest.mark.parametrize("name", ["steps", "targets", "restarts"])
def test_malformed_argument_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1"):
        FastAdaptiveBoundary(0.1, **{name: 0})
