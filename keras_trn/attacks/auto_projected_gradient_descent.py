"""Auto-PGD: projected gradient descent that chooses its own step sizes."""

from typing import Any

import keras
import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.art_attack import ArtAttack
from keras_trn.attacks.art_attack import import_art
from keras_trn.attacks.attack import Epsilon
from keras_trn.attacks.margin import margins
from keras_trn.attacks.norms import as_cleverhans_norm
from keras_trn.input_validation import check_count


def _difference_of_logits_ratio(one_hot: Tensor, logits: Tensor) -> Tensor:
    largest = tf.math.top_k(logits, k=3).values
    return -margins(logits, tf.argmax(one_hot, axis=-1)) / (largest[:, 0] - largest[:, 2] + 1e-12)


_LOSSES = {
    "cross_entropy": (tf.nn.softmax_cross_entropy_with_logits, "CE"),
    "difference_of_logits_ratio": (_difference_of_logits_ratio, "DLR"),
}


@keras.saving.register_keras_serializable(package="keras_trn")
class AutoProjectedGradientDescent(ArtAttack):
    """Steps with momentum, and halves the step size where the loss no longer grows (APGD).

    There is no step size to choose. An image costs up to `2 * steps` forward passes and `steps`
    backward passes. It does not run in a graph; see [`Attack`][keras_trn.attacks.Attack].

    Source: Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of
    Diverse Parameter-Free Attacks", arXiv 2003.01690; ART's `AutoProjectedGradientDescent`,
    which unlike the authors' own returns the last step, not the best one.

    Args:
        epsilon: Largest distance, or a pair `(low, high)` to draw from for each image.
        norm: `"linf"` or `"l2"`.
        loss: `"cross_entropy"`; or `"difference_of_logits_ratio"`, which does not vanish where
            the classifier is sure, and needs at least three classes.
        steps: Number of steps, each one backward pass through the classifier.
        seed: Whole number that fixes the random start, and the epsilons drawn from a range.

    Raises:
        ValueError: If an argument is malformed, or there are too few classes for the loss.

    Example:
        ```python
        attack = keras_trn.attacks.AutoProjectedGradientDescent(epsilon=0.1, steps=20, seed=0)
        assert attack.name == "APGD-CE"
        ```
    """

    def __init__(
        self,
        epsilon: Epsilon,
        norm: str = "linf",
        loss: str = "cross_entropy",
        steps: int = 100,
        seed: int | None = None,
    ) -> None:
        super().__init__(epsilon, norm=norm, seed=seed)
        if loss not in _LOSSES:
            names = " or ".join(map(repr, _LOSSES))
            raise ValueError(f"loss must be {names}, received {loss!r}.")
        self.loss = loss
        self.loss_function, self._loss_name = _LOSSES[loss]
        self.steps = check_count("steps", steps)

    def make_attack(self, estimator: Any, epsilon: float) -> Any:
        """Makes ART's `AutoProjectedGradientDescent`."""
        if self.loss == "difference_of_logits_ratio" and estimator.nb_classes < 3:
            raise ValueError(
                "The difference of logits ratio needs at least three classes, received a "
                f"classifier of {estimator.nb_classes}. Use `loss='cross_entropy'`."
            )
        return import_art().attacks.evasion.AutoProjectedGradientDescent(
            estimator,
            norm=as_cleverhans_norm(self.norm),
            eps=epsilon,
            # The authors' first step, which crosses the whole ball.
            eps_step=2 * epsilon,
            max_iter=self.steps,
            nb_random_init=1,
            verbose=False,
        )

    @property
    def name(self) -> str:
        return f"APGD-{self._loss_name}"
