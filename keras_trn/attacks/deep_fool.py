"""DeepFool: the smallest perturbation, by steps to the nearest boundary."""

from typing import Any

import keras

from keras_trn.attacks.art_attack import ArtAttack
from keras_trn.attacks.art_attack import import_art
from keras_trn.attacks.attack import Epsilon
from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_range

# With more classes, only the most likely ones are considered.
_LARGEST_NUMBER_OF_CLASSES = 10


@keras.saving.register_keras_serializable(package="keras_trn")
class DeepFool(ArtAttack):
    """Steps to the nearest boundary between classes, as if boundaries were planes.

    It searches for the smallest perturbation, and shortens it to epsilon if it is longer; it
    then no longer fools the classifier. An image costs up to `steps` forward passes, and as many
    backward passes for each class, or for each of ten if there are more.

    Source: Moosavi-Dezfooli et al., "DeepFool: A Simple and Accurate Method to Fool Deep Neural
    Networks", arXiv 1511.04599; ART's `DeepFool`. ART ignores labels, so images that are already
    misclassified are left unchanged here. It does not run in a graph; see
    [`Attack`][keras_trn.attacks.Attack].

    Args:
        epsilon: Largest L2 distance, or a pair `(low, high)` to draw from for each image.
        steps: Largest number of steps.
        overshoot: Fraction of its length by which the perturbation is lengthened to cross the
            boundary; 0.02 in the paper.
        seed: Whole number that fixes the epsilons drawn from a range.

    Example:
        ```python
        adversarial = keras_trn.attacks.DeepFool(epsilon=1.0, steps=10)(classifier, images)
        ```
    """

    is_random = False
    minimal_norm = True
    name = "DeepFool"

    def __init__(
        self, epsilon: Epsilon, steps: int = 50, overshoot: float = 0.02, seed: int | None = None
    ) -> None:
        super().__init__(epsilon, norm="l2", seed=seed)
        self.steps = check_count("steps", steps)
        self.overshoot = check_range("overshoot", overshoot, 0, 1)

    def make_attack(self, estimator: Any, epsilon: float) -> Any:
        """Makes ART's `DeepFool`."""
        return import_art().attacks.evasion.DeepFool(
            estimator,
            max_iter=self.steps,
            epsilon=self.overshoot,
            nb_grads=_LARGEST_NUMBER_OF_CLASSES,
            verbose=False,
        )
