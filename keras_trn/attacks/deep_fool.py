"""DeepFool: the shortest perturbation, by steps to the nearest boundary."""

import keras

from keras_trn.attacks.art_attack import ArtAttack
from keras_trn.attacks.art_attack import import_art
from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_range

# With more classes, the most likely ones alone are considered.
_LARGEST_NUMBER_OF_CLASSES = 10


@keras.saving.register_keras_serializable(package="keras_trn")
class DeepFool(ArtAttack):
    """Steps to the nearest boundary between classes, as if they were planes.

    It asks for no strength: it looks for the shortest perturbation, which is
    shortened to epsilon if it is longer; the classifier is then no longer fooled.

    An image costs up to `steps` forward passes, and as many backward passes for each
    class, or for each of ten if there are more.

    Source: Moosavi-Dezfooli et al., "DeepFool: A Simple and Accurate Method to
    Fool Deep Neural Networks", arXiv 1511.04599; ART's `DeepFool`, which ignores
    labels: images that are misclassified already are kept from it.

    Args:
        epsilon: Largest L2 distance, in units of the image range [0, 1]; or a pair
            `(low, high)` to draw from for each image.
        steps: Largest number of steps.
        overshoot: By how much the perturbation is lengthened to cross the boundary,
            as a fraction of its length; 0.02 in the paper.
        seed: Whole number that fixes the epsilons drawn from a range.

    Call arguments:
        classifier: A Keras model, or a callable, from images to logits.
        images: Clean images of shape `(batch, height, width, channels)` in [0, 1].
        labels: Class indices of shape `(batch,)`; by default the predicted ones.
        epsilon: Overrides the attack's own: a number, or one per image.

    Returns:
        A float32 tensor of adversarial images, of the shape of `images`.

    Raises:
        ValueError: If an argument is malformed.
        RuntimeError: If the attack is called inside a graph.

    Example:
        ```python
        attack = keras_trn.attacks.DeepFool(epsilon=1.0, steps=10)
        assert attack(classifier, images).shape == images.shape
        ```
    """

    minimal_norm = True

    def __init__(self, epsilon, steps=50, overshoot=0.02, seed=None):
        super().__init__(epsilon, norm="l2", seed=seed)
        steps = check_count("steps", steps)
        overshoot = check_range("overshoot", overshoot, 0, 1)
        self.steps = steps
        self.overshoot = overshoot

    def make_attack(self, estimator, epsilon):
        """Makes ART's `DeepFool`."""
        return import_art().attacks.evasion.DeepFool(
            estimator,
            max_iter=self.steps,
            epsilon=self.overshoot,
            nb_grads=_LARGEST_NUMBER_OF_CLASSES,
            verbose=False,
        )

    @property
    def name(self):
        """What the attack is called in tables."""
        return "DeepFool"

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            "epsilon": self.epsilon,
            "steps": self.steps,
            "overshoot": self.overshoot,
            "seed": self.seed,
        }
