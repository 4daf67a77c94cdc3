"""Square queries what still survives, and needs neither gradients nor large images."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_trn.attacks import Square
from keras_trn.attacks import square
from keras_trn.attacks import square_proposals
from keras_trn.threat_models import Blackbox
from tests.helpers import CountingClassifier
from tests.helpers import lengths
from tests.helpers import linear_classifier
from tests.helpers import predictions
from tests.helpers import random_images

NORMS = {"linf": 0.2, "l2": 1.5}
every_norm = pytest.mark.parametrize("norm", NORMS)


@pytest.fixture
def few(digits):
    return digits[0][:12], digits[1][:12]


# --- Strength -------------------------------------------------------------------------


@pytest.mark.slow
@every_norm
def test_it_breaks_a_trained_classifier(norm, classifier, digits):
    images, labels = digits[0][:120], digits[1][:120]
    adversarial = Square(NORMS[norm], norm=norm, queries=300, seed=0)(classifier, images, labels)
    assert lengths(adversarial - images, norm).max() <= NORMS[norm] + 1e-5
    assert np.mean(predictions(classifier, adversarial) == labels) <= 0.05


@pytest.mark.slow
@every_norm
def test_more_queries_find_more(norm, classifier, digits):
    images, labels = digits[0][:120], digits[1][:120]
    epsilon = NORMS[norm] / 2
    correct = [
        np.sum(predictions(classifier, attack(classifier, images, labels)) == labels)
        for attack in (Square(epsilon, norm=norm, queries=n, seed=0) for n in (1, 100))
    ]
    assert correct[1] < 0.7 * correct[0]


@pytest.mark.slow
@every_norm
def test_it_breaks_a_defence_without_gradients(norm, classifier, digits):
    images, labels = digits[0][:60], digits[1][:60]

    def rounded(images):
        return classifier(tf.round(images * 15) / 15, training=False)

    adversarial = Square(NORMS[norm], norm=norm, queries=300, seed=0)(rounded, images, labels)
    assert np.mean(predictions(rounded, adversarial) == labels) <= 0.1


@pytest.mark.slow
@every_norm
def test_a_classifier_of_two_classes_is_attacked(norm, few):
    keras.utils.set_random_seed(0)
    classifier = linear_classifier(num_classes=2)
    labels = predictions(classifier, few[0])
    adversarial = Square(2 * NORMS[norm], norm=norm)(classifier, few[0], labels)
    assert np.mean(predictions(classifier, adversarial) == labels) < 0.2


# --- Who is queried -------------------------------------------------------------------


@pytest.mark.slow
@every_norm
def test_images_are_queried_until_they_are_misclassified(norm, classifier, digits):
    images, labels = digits[0][:40], digits[1][:40]
    counted = CountingClassifier(classifier)
    # So small an epsilon changes no prediction.
    adversarial = Square(1e-3, norm=norm, queries=7, seed=0)(counted, images, labels)
    correct = predictions(classifier, images) == labels
    np.testing.assert_array_equal(predictions(classifier, adversarial) == labels, correct)
    # One pass tells who is wrong already; the others are queried at the start, and seven times.
    # The attack asks about one image before, to count the classes.
    assert counted.calls.numpy() == 1 + 1 + 8
    assert counted.seen.numpy() == 1 + 40 + 8 * correct.sum()


@pytest.mark.slow
@every_norm
def test_the_search_ends_with_the_last_survivor(norm, classifier, few):
    images, labels = few
    counted = CountingClassifier(classifier)
    attack = Square({"linf": 1.0, "l2": 8.0}[norm], norm=norm, queries=100_000, seed=0)
    adversarial = attack(counted, images, labels)
    assert np.all(predictions(classifier, adversarial) != labels)
    assert counted.calls.numpy() < 200
    # Most images are misclassified long before the last one.
    assert counted.seen.numpy() < 0.7 * counted.calls.numpy() * len(images)


@pytest.mark.slow
@every_norm
def test_images_that_are_misclassified_already_are_left_as_they_are(norm, classifier, few):
    images, _ = few
    labels = predictions(classifier, images)
    labels[::2] = (labels[::2] + 1) % 10
    attack = Square(NORMS[norm], norm=norm, queries=30)
    adversarial = attack(classifier, images, labels)
    np.testing.assert_array_equal(adversarial[::2], images[::2])
    assert np.all(lengths(adversarial - images, norm)[1::2] > 0)
    wrong = (predictions(classifier, images) + 1) % 10
    np.testing.assert_array_equal(attack(classifier, images, wrong), images)


@pytest.mark.slow
@every_norm
def test_answers_that_are_not_numbers_end_the_search(norm, classifier, few):
    images, labels = few

    def broken(images):
        scores = classifier(images, training=False)
        return tf.where(images[:, 0, 0] > 0.0, np.nan, scores)

    dark = images.copy()
    dark[:, 0, 0] = 0.0
    dark[0, 0, 0] = 1.0
    adversarial = Square(NORMS[norm], norm=norm, queries=200, seed=0)(broken, dark, labels)
    assert np.isfinite(adversarial).all()
    np.testing.assert_array_equal(adversarial[0], dark[0])
    right = predictions(classifier, adversarial) == labels
    assert np.all(np.isnan(broken(adversarial)).any(axis=-1) | ~right)


# --- Seeds and weights ----------------------------------------------------------------


@pytest.mark.slow
@every_norm
def test_a_seed_fixes_the_squares(norm, classifier, few):
    attack = Square(NORMS[norm], norm=norm, queries=20)
    one, same, other = (attack(classifier, *few, seed=seed).numpy() for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.any(one != other)


@pytest.mark.slow
def test_the_seed_of_keras_governs_attacks_without_one(classifier, few):
    attack = Square(0.2, queries=30)
    results = []
    for seed in (3, 3, 4):
        keras.utils.set_random_seed(seed)
        results.append(attack(classifier, *few).numpy())
    np.testing.assert_array_equal(results[0], results[1])
    assert np.any(results[0] != results[2])


@pytest.mark.slow
def test_an_image_has_the_same_squares_whoever_else_survives(classifier, few):
    images, labels = few
    attack = Square(0.1, queries=30, seed=0)
    others_are_wrong = labels.copy()
    others_are_wrong[:8] = (predictions(classifier, images[:8]) + 1) % 10
    np.testing.assert_allclose(
        attack(classifier, images, others_are_wrong)[8:],
        attack(classifier, images, labels)[8:],
        atol=1e-6,
    )


@pytest.mark.slow
def test_it_follows_a_classifier_whose_weights_change(few):
    images, _ = few
    keras.utils.set_random_seed(0)
    classifier = linear_classifier(num_classes=2)
    attack = Square(0.3, seed=0)
    attack(classifier, images)
    kernel, _ = classifier.weights
    kernel.assign(-kernel)
    fresh = Square(0.3, seed=0)
    np.testing.assert_array_equal(attack(classifier, images), fresh(classifier, images))


@pytest.mark.slow
def test_it_needs_no_gradient(classifier, few):
    attack = Square(0.2, queries=30, seed=0)
    blackbox = Blackbox()
    assert blackbox.supports(attack)
    np.testing.assert_array_equal(
        attack(blackbox.target(classifier), *few), attack(classifier, *few)
    )


# --- Squares and the shape of images --------------------------------------------------


@pytest.mark.slow
@every_norm
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (2, 3, 1), (3, 5, 2), (4, 4, 3), (8, 16, 1), (16, 9, 3)], ids=str
)
def test_images_of_any_shape_are_attacked(shape, norm):
    keras.utils.set_random_seed(0)
    classifier = linear_classifier(shape)
    images = random_images(16, *shape)
    labels = predictions(classifier, images)
    epsilon = {"linf": 0.5, "l2": 0.5 * np.sqrt(np.prod(shape))}[norm]
    adversarial = Square(epsilon, norm=norm, queries=100, seed=0)(classifier, images, labels)
    assert np.isfinite(adversarial).all()
    distances = lengths(adversarial - images, norm)
    assert np.all(distances > 0) and distances.max() <= epsilon + 1e-5
    if np.prod(shape) > 1:
        assert np.mean(predictions(classifier, adversarial) == labels) < 0.5


@pytest.mark.slow
@every_norm
def test_images_of_unknown_size_are_attacked_in_a_graph(norm):
    pool = keras.layers.GlobalAveragePooling2D()
    model = keras.Sequential(
        [keras.Input((None, None, 3)), keras.layers.Conv2D(4, 3, padding="same"), pool]
    )
    attack = Square(0.2, norm=norm, queries=5, seed=0)
    signature = [tf.TensorSpec((None, None, None, 3))]
    in_graph = tf.function(lambda images: attack(model, images), signature, autograph=False)
    for size in ((9, 12), (6, 5)):
        images = random_images(4, *size, 3)
        adversarial = in_graph(images)
        np.testing.assert_allclose(adversarial, attack(model, images), atol=1e-5)
        assert lengths(adversarial - images, norm).max() > 0


def test_the_squares_shrink_as_in_the_paper():
    planned = [0, 10, 11, 50, 51, 200, 201, 500, 501, 1000, 1001, 2000, 2001, 4000, 4001]
    planned += [6000, 6001, 8000, 8001, 9999]
    halvings = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9]
    for queries in (10_000, 20_000):
        shares = [
            square.share(tf.constant(p * queries // 10_000, tf.int64), queries) for p in planned
        ]
        np.testing.assert_allclose(shares, 0.8 / 2.0 ** np.array(halvings))


def test_a_change_in_linf_is_one_square_of_one_color():
    images = np.full((300, 9, 13, 3), 0.5, "float32")
    proposals = square_proposals.LinfProposals
    for side in (1, 4, 9):
        numbers = proposals.draw(images, [side, 0])
        changed = proposals.change(images, images, 0.1, side, numbers).numpy()
        squares = np.abs(changed - images) > 0
        assert np.all(squares.any(axis=(2, 3)).sum(axis=1) == side)
        assert np.all(squares.any(axis=(1, 3)).sum(axis=1) == side)
        assert np.all(squares.sum(axis=(1, 2, 3)) == 3 * side**2)
        np.testing.assert_allclose(np.abs(changed - images)[squares], 0.1, atol=1e-6)
        for image in changed:
            assert all(len(np.unique(image[..., channel])) <= 2 for channel in range(3))
        if side < 9:
            # Each edge is touched by some image.
            assert squares[:, 0].any() and squares[:, -1].any()
            assert squares[:, :, 0].any() and squares[:, :, -1].any()


def test_a_change_in_l2_keeps_the_length_and_the_other_squares():
    # The first tiles fill such images.
    images = np.full((20, 15, 15, 3), 0.5, "float32")
    proposals = square_proposals.L2Proposals
    best = proposals.start(images, 1.0, [0, 0])
    np.testing.assert_allclose(lengths(best - images, "l2"), 1.0, atol=1e-5)
    numbers = proposals.draw(images, [1, 0])
    changed = proposals.change(images, best, np.full((20, 1, 1, 1), 1.0, "float32"), 3, numbers)
    np.testing.assert_allclose(lengths(changed - images, "l2"), 1.0, atol=1e-5)
    ratios = (changed - images) / (best - images)
    # At most two squares of nine pixels differ, and one of them is empty afterwards.
    assert np.all(np.sum(np.abs(ratios - 1) < 0.02, axis=(1, 2, 3)) >= 3 * (15**2 - 18))
    # In the square that gains, the new pattern can cancel what was there.
    emptied = changed.numpy() == images
    for empty, (top, left) in zip(emptied, np.int32(numbers[:, :2] * 13), strict=True):
        empty[top : top + 3, left : left + 3] = False
    emptied = np.sum(emptied, axis=(1, 2, 3))
    assert np.all(emptied <= 27) and np.median(emptied) == 27


def paper_pattern(side):
    """The paper's pattern, one ring after the other."""

    def bump(height, width):
        total = np.zeros((height, width))
        rows, columns = np.ogrid[:height, :width]
        for ring in range(max(height, width) // 2 + 1):
            near = np.abs(rows - height // 2) <= ring
            total += (near & (np.abs(columns - width // 2) <= ring)) / (ring + 1) ** 2
        return total / np.linalg.norm(total) if total.size else total

    pattern = np.concatenate([bump(side // 2, side), -bump(side - side // 2, side)])
    return pattern / np.linalg.norm(pattern)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 9])
def test_the_pattern_in_l2_is_that_of_the_paper(side):
    np.testing.assert_allclose(
        square_proposals.two_bumps(tf.constant(side)), paper_pattern(side), atol=1e-6
    )


def test_malformed_number_of_queries_is_refused():
    with pytest.raises(ValueError, match="queries must be a whole number"):
        Square(0.1, queries=1.5)
