"""An ensemble attacks what is left, and nothing else."""

import numpy as np
import pytest
import tensorflow as tf

from keras_trn import attacks
from keras_trn.evaluation.passes import CountedTarget


class Shift(attacks.Attack):
    """Adds epsilon to the images that a mask chooses by their first pixel."""

    def __init__(self, epsilon, threshold=0.5, seed=None):
        super().__init__(epsilon, seed=seed)
        self.threshold = threshold

    def craft(self, logits, images, labels, epsilon, random_seed):
        logits(images)
        chosen = images[:, :1, :1, :1] < self.threshold
        return tf.where(chosen, images + epsilon, images)


def brightness(images):
    """Gives class 0 to images whose mean is below one half, and class 1 to the others."""
    mean = tf.reduce_mean(images, axis=[1, 2, 3])
    return tf.stack([0.5 - mean, mean - 0.5], axis=-1)


def plain_images(*values):
    return np.tile(np.reshape(np.float32(values), (-1, 1, 1, 1)), (1, 4, 4, 1))


def test_an_image_that_was_fooled_is_not_attacked_again():
    images = plain_images(0.35, 0.45, 0.9)
    target = CountedTarget(brightness)
    ensemble = attacks.AttackEnsemble([Shift(0.2, threshold=0.4), Shift(0.2), Shift(0.2)])
    adversarial = ensemble(target, images, [0, 0, 1])
    np.testing.assert_allclose(adversarial, plain_images(0.55, 0.65, 0.9), atol=1e-6)
    # All three at the start and for the first attack, with the query after it; then two, then one.
    assert target.passes == (3 + 2 * (3 + 2 + 1), 0)


def test_an_image_that_withstands_all_is_returned_with_its_smallest_margin():
    images = plain_images(0.1)
    weak, strong = Shift(0.2, threshold=0.0), Shift(0.2)
    for order in ([weak, strong], [strong, weak]):
        adversarial = attacks.AttackEnsemble(order)(brightness, images, [0])
        np.testing.assert_allclose(adversarial, plain_images(0.3), atol=1e-6)


def test_mean_logits_decide_on_a_random_defence():
    def noisy(images):
        scores = brightness(images)
        return scores + tf.random.normal(tf.shape(scores))

    images = np.full((40, 4, 4, 1), 0.2, "float32")
    averaged = attacks.ExpectationOverTransformation(
        attacks.ProjectedGradientDescent(0.25, steps=3), samples=100
    )
    adversarial = attacks.AttackEnsemble([averaged])(noisy, images, np.zeros(40, "int64"))
    # A single run is wrong about a third of them without any attack.
    changed = np.any(adversarial != images, axis=(1, 2, 3))
    assert changed.mean() >= 0.9


def test_attacks_keep_their_seeds_and_their_names():
    noise = [attacks.RandomNoise(0.1, seed=seed) for seed in (0, 1)]
    ensemble, images = attacks.AttackEnsemble(noise), plain_images(0.1)
    first = ensemble(brightness, images, [0])
    np.testing.assert_array_equal(ensemble(brightness, images, [0]), first)
    longer = attacks.AttackEnsemble([attacks.ProjectedGradientDescent(0.1)]).variant(steps=50)
    assert longer.name == "PGD-50"
    assert attacks.auto_attack("fast", 0.1).variant(seed=3).name == "AutoAttack fast"


def test_answers_that_are_not_numbers_count_as_fooled(classifier, digits):
    def broken(images):
        return classifier(images) * np.nan

    target = CountedTarget(broken)
    ensemble = attacks.AttackEnsemble([attacks.ProjectedGradientDescent(0.1, steps=3)])
    np.testing.assert_array_equal(ensemble(target, digits[0][:4], digits[1][:4]), digits[0][:4])
    assert target.passes == (4, 0)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        "PGD",
        [attacks.FastGradientMethod(0.1), attacks.FastGradientMethod(0.2)],
        [attacks.FastGradientMethod(0.1), attacks.FastGradientMethod(0.1, norm="l2")],
        [attacks.Mixture([attacks.FastGradientMethod(0.1)])],
    ],
)
def test_attacks_that_do_not_belong_together_are_refused(parts):
    with pytest.raises(ValueError, match=r"(?i)ensemble"):
        attacks.AttackEnsemble(parts)
