"""Auto-PGD: projected gradient descent that chooses its own step sizes."""

import keras
import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.attack import Epsilon
from keras_trn.attacks.auto_step_climb import Measured
from keras_trn.attacks.auto_step_climb import climb
from keras_trn.attacks.logit_losses import cross_entropy
from keras_trn.attacks.logit_losses import difference_of_logits_ratio
from keras_trn.attacks.logit_losses import targeted_cross_entropy
from keras_trn.attacks.logit_losses import targeted_difference_of_logits_ratio
from keras_trn.attacks.norms import random_on_sphere
from keras_trn.attacks.random_numbers import split_seed
from keras_trn.attacks.rivals import most_likely_rivals
from keras_trn.attacks.sparse_climb import climb_in_stages
from keras_trn.attacks.sparse_climb import random_far_away
from keras_trn.attacks.survivors import are_correct
from keras_trn.attacks.survivors import update_survivors
from keras_trn.input_validation import check_count
from keras_trn.types import Logits

# The loss and the name of each attack.
_VARIANTS = {
    "cross_entropy": {
        "untargeted": (cross_entropy, "APGD-CE"),
        "targeted": (targeted_cross_entropy, "APGD-CE-T"),
    },
    "difference_of_logits_ratio": {
        "untargeted": (difference_of_logits_ratio, "APGD-DLR"),
        "targeted": (targeted_difference_of_logits_ratio, "APGD-T"),
    },
}


@keras.saving.register_keras_serializable(package="keras_trn")
class AutoProjectedGradientDescent(Attack):
    """Takes steps with momentum, and halves the step size when the loss stops rising (APGD).

    You choose no step size: the first step crosses the whole ball. At checks between the steps,
    an image whose loss has risen too rarely returns to its best point and halves its step. The
    result is the last point that fools the classifier, or else the one with the highest loss.

    An image costs `steps + 2` forward passes and `steps + 1` backward passes. With `targets`, it
    costs one forward pass, and `steps + 1` passes of both kinds for each target until it fools
    the classifier. An image that is already misclassified stays unchanged and costs one forward
    pass. With the L1 norm, steps move ever fewer pixels. The attack then begins in larger balls,
    which costs two more passes of both kinds.

    Call it like any [`Attack`][keras_trn.attacks.Attack].

    Source: Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of
    Diverse Parameter-Free Attacks", arXiv 2003.01690, and the authors' code, which returns the
    clean image if nothing fools the classifier. For L1: the same authors' "Mind the Box",
    arXiv 2103.01208.

    Args:
        epsilon: Largest distance, or a pair `(low, high)` to draw from for each image.
        norm: `"linf"`, `"l2"` or `"l1"`.
        loss: `"cross_entropy"`; or `"difference_of_logits_ratio"`, which divides differences of
            logits by the spread of the highest ones. Classifiers with two classes, or three
            with `targets`, have too few logits for the ratio: it becomes the plain difference.
        steps: Number of steps, each one backward pass through the classifier.
        targets: Number of wrong classes to aim at in turn, the most likely one of the clean
            image first. With 9 and the difference of logits ratio, this is AutoAttack's APGD-T.
            By default the attack is untargeted.
        seed: Whole number that fixes the random starts, and the epsilons drawn from a range.

    Raises:
        ValueError: If an argument is malformed.

    Example:
        ```python
        attack = keras_trn.attacks.AutoProjectedGradientDescent(epsilon=0.1, steps=20, seed=0)
        assert attack.name == "APGD-CE"
        targeted = attack.variant(loss="difference_of_logits_ratio", targets=9)
        assert targeted.name == "APGD-T"
        ```
    """

    def __init__(
        self,
        epsilon: Epsilon,
        norm: str = "linf",
        loss: str = "cross_entropy",
        steps: int = 100,
        targets: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(epsilon, norm=norm, seed=seed)
        if not isinstance(loss, str) or loss not in _VARIANTS:
            names = " or ".join(map(repr, _VARIANTS))
            raise ValueError(f"loss must be {names}, received {loss!r}.")
        self.loss = loss
        self.steps = check_count("steps", steps)
        self.targets = None if targets is None else check_count("targets", targets)
        variant = "untargeted" if targets is None else "targeted"
        self._loss_function, self._name = _VARIANTS[loss][variant]

    def craft(
        self, logits: Logits, images: Tensor, labels: Tensor, epsilon: Tensor, random_seed: Tensor
    ) -> Tensor:
        scores = logits(images)
        targets = most_likely_rivals(scores, labels, self.targets or 1)
        runs = min(self.targets or 1, scores.shape[-1] - 1)
        seeds = split_seed(random_seed, runs)

        def attack_survivors(
            adversarial: Tensor,
            highest: Tensor,
            images: Tensor,
            labels: Tensor,
            epsilon: Tensor,
            start: Tensor,
            target: Tensor,
        ) -> tuple[Tensor, Tensor, Tensor]:
            def measure(points: Tensor) -> Measured:
                return self._measure(logits, points, labels, target)

            if self.norm == "l1":
                found = climb_in_stages(measure, start, images, epsilon, self.steps)
            else:
                found = climb(measure, start, images, epsilon, self.norm, self.steps)
            is_better = found.fooled | (found.loss > highest)
            adversarial = tf.where(is_better[:, None, None, None], found.points, adversarial)
            return adversarial, tf.maximum(found.loss, highest), ~found.fooled

        def run(
            index: Tensor, adversarial: Tensor, highest: Tensor, survives: Tensor
        ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            # Drawn for the whole batch, so an image's start does not depend on the survivors.
            start = self._random_start(images, epsilon, seeds[index])
            adversarial, highest, survives = update_survivors(
                survives,
                (adversarial, highest, survives),
                attack_survivors,
                adversarial,
                highest,
                images,
                labels,
                epsilon,
                start,
                targets[:, index],
            )
            return index + 1, adversarial, highest, survives

        lowest = tf.fill(tf.shape(labels), float("-inf"))
        state = (tf.constant(0), images, lowest, are_correct(scores, labels))
        _, adversarial, *_ = tf.while_loop(lambda *_: True, run, state, maximum_iterations=runs)
        return adversarial

    def _random_start(self, images: Tensor, epsilon: Tensor, seed: Tensor) -> Tensor:
        if self.norm == "l1":
            return random_far_away(images, seed)
        return random_on_sphere(images, epsilon, self.norm, seed)

    def _measure(self, logits: Logits, points: Tensor, labels: Tensor, target: Tensor) -> Measured:
        """Takes one forward and one backward pass; replaces numbers that are not finite."""
        with tf.GradientTape() as tape:
            tape.watch(points)
            scores = logits(points)
            losses = self._loss_function(scores, labels, target)
        gradient = tape.gradient(losses, points)
        fooled = ~are_correct(scores, labels)
        return Measured(
            tf.where(tf.math.is_finite(losses), losses, float("-inf")),
            tf.where(tf.math.is_finite(gradient), gradient, 0.0),
            fooled,
        )

    @property
    def name(self) -> str:
        return self._name
