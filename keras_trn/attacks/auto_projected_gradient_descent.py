"""Auto-PGD: projected gradient descent that chooses its own step sizes."""

import keras
import tensorflow as tf

from keras_trn.attacks.art_attack import ArtAttack
from keras_trn.attacks.art_attack import import_art
from keras_trn.attacks.margin import margins
from keras_trn.attacks.norms import as_cleverhans_norm
from keras_trn.input_validation import check_count


def _cross_entropy(one_hot, logits):
    return tf.nn.softmax_cross_entropy_with_logits(one_hot, logits)


def _difference_of_logits_ratio(one_hot, logits):
    largest = tf.math.top_k(logits, k=3).values
    return -margins(logits, tf.argmax(one_hot, axis=-1)) / (largest[:, 0] - largest[:, 2] + 1e-12)


_LOSSES = {
    "cross_entropy": (_cross_entropy, "CE"),
    "difference_of_logits_ratio": (_difference_of_logits_ratio, "DLR"),
}


@keras.saving.register_keras_serializable(package="keras_trn")
class AutoProjectedGradientDescent(ArtAttack):
    """Steps with momentum whose length halves where the loss no longer grows (APGD).

    It has no step size to be chosen, and so none to be chosen badly.

    An image costs up to `2 * steps` forward passes and `steps` backward passes.

    Source: Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an
    Ensemble of Diverse Parameter-Free Attacks", arXiv 2003.01690; ART's
    `AutoProjectedGradientDescent`, which unlike the authors' own returns the last
    step, not the best one.

    Args:
        epsilon: Largest distance, in units of the image range [0, 1]; or a pair
            `(low, high)` to draw from for each image.
        norm: `"linf"` or `"l2"`.
        loss: `"cross_entropy"`; or `"difference_of_logits_ratio"`, which does not
            fade where the classifier is sure, and needs at least three classes.
        steps: Number of steps, each one backward pass through the classifier.
        seed: Whole number that fixes the random start, and the epsilons drawn
            from a range.

    Call arguments:
        classifier: A Keras model, or a callable, from images to logits.
        images: Clean images of shape `(batch, height, width, channels)` in [0, 1].
        labels: Class indices of shape `(batch,)`; by default the predicted ones.
        epsilon: Overrides the attack's own: a number, or one per image.

    Returns:
        A float32 tensor of adversarial images, of the shape of `images`.

    Raises:
        ValueError: If an argument is malformed, or the classes too few for the loss.
        RuntimeError: If the attack is called inside a graph.

    Example:
        ```python
        attack = keras_trn.attacks.AutoProjectedGradientDescent(
            epsilon=0.1, loss="difference_of_logits_ratio", steps=20, seed=0
        )
        assert attack.name == "APGD-DLR"
        assert attack(classifier, images).shape == images.shape
        ```
    """

    def __init__(self, epsilon, norm="linf", loss="cross_entropy", steps=100, seed=None):
        super().__init__(epsilon, norm=norm, seed=seed)
        if loss not in _LOSSES:
            names = " or ".join(map(repr, _LOSSES))
            raise ValueError(f"loss must be {names}, received {loss!r}.")
        steps = check_count("steps", steps)
        self.loss = loss
        self.loss_function, self._loss_name = _LOSSES[loss]
        self.steps = steps

    def make_attack(self, estimator, epsilon):
        """Makes ART's `AutoProjectedGradientDescent`."""
        if self.loss == "difference_of_logits_ratio" and estimator.nb_classes < 3:
            raise ValueError(
                "The difference of logits ratio needs at least three classes, received a "
                f"classifier of {estimator.nb_classes}. Take `loss='cross_entropy'`."
            )
        return import_art().attacks.evasion.AutoProjectedGradientDescent(
            estimator,
            norm=as_cleverhans_norm(self.norm),
            eps=epsilon,
            # The authors' first step, which leads across the ball.
            eps_step=2 * epsilon,
            max_iter=self.steps,
            nb_random_init=1,
            verbose=False,
        )

    @property
    def name(self):
        """What the attack is called in tables."""
        return f"APGD-{self._loss_name}"

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "loss": self.loss, "steps": self.steps}
