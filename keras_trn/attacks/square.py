"""Square: random search with squares, without gradients."""

import math

import keras
import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.attack import Epsilon
from keras_trn.attacks.margin import margins
from keras_trn.attacks.random_numbers import ALGORITHM
from keras_trn.attacks.random_numbers import split_seed
from keras_trn.attacks.square_proposals import PROPOSALS
from keras_trn.attacks.survivors import are_correct
from keras_trn.attacks.survivors import is_correct
from keras_trn.attacks.survivors import update_survivors
from keras_trn.input_validation import check_count
from keras_trn.types import Logits

# Share of the image that the first squares cover, as in the paper.
_FIRST_SHARE = 0.8
# The share halves after these numbers of queries out of 10,000, as in the paper.
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_PLANNED_QUERIES = 10000


@keras.saving.register_keras_serializable(package="keras_trn")
class Square(Attack):
    """Searches at random, changing one square of the image at a time.

    It keeps a change that reduces the margin of the label over the other classes. It only
    queries logits, so a useless gradient does not stop it. An image costs up to `queries + 2`
    forward passes, and none once it is misclassified.

    In the L-infinity norm a square of one color replaces a part of the perturbation. In L2 the
    perturbation moves from one square to another. Squares are at most as large as the image's
    shorter side.

    Call it like any [`Attack`][keras_trn.attacks.Attack].
    Source: Andriushchenko et al., "Square Attack", arXiv 1912.00049, with the schedule of
    AutoAttack, arXiv 2003.01690. Each image gets its own random places for squares.

    Args:
        epsilon: Largest distance, or a pair `(low, high)` to draw from for each image.
        norm: `"linf"` or `"l2"`.
        queries: Largest number of changes to try; 5000 in AutoAttack.
        scaled_schedule: Whether to scale the paper's schedule, in which squares shrink over
            10,000 queries, to the number of queries. AutoAttack does not scale it.
        seed: Whole number that fixes the squares, and the epsilons drawn from a range.

    Example:
        ```python
        assert keras_trn.attacks.Square(epsilon=0.2, queries=100).gradient_free
        ```
    """

    gradient_free = True
    norms = ("linf", "l2")
    name = "Square"

    def __init__(
        self,
        epsilon: Epsilon,
        norm: str = "linf",
        queries: int = 1000,
        scaled_schedule: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__(epsilon, norm=norm, seed=seed)
        self.queries = check_count("queries", queries)
        self.scaled_schedule = bool(scaled_schedule)

    def craft(
        self, logits: Logits, images: Tensor, labels: Tensor, epsilon: Tensor, random_seed: Tensor
    ) -> Tensor:
        proposals = PROPOSALS[self.norm]

        def query(proposal: Tensor, labels: Tensor, best: Tensor, lowest: Tensor) -> tuple:
            scores = logits(proposal)
            survives, margin = are_correct(scores, labels), margins(scores, labels)
            is_better = ~survives | (margin < lowest)
            best = tf.where(is_better[:, None, None, None], proposal, best)
            return best, tf.where(is_better, margin, lowest), survives

        def step(index: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
            seed = tf.random.fold_in(random_seed, index, alg=ALGORITHM)
            queries = self.queries if self.scaled_schedule else _PLANNED_QUERIES
            side = proposals.side(share(index, queries), images)
            # Drawn for the whole batch, so an image's squares do not depend on the others.
            numbers = proposals.draw(images, seed)

            def update(
                images: Tensor, epsilon: Tensor, numbers: Tensor, labels: Tensor, *best: Tensor
            ) -> tuple:
                proposal = proposals.change(images, best[0], epsilon, side, numbers)
                return query(proposal, labels, *best)

            best, lowest, survives = state
            inputs = images, epsilon, numbers, labels, best, lowest
            return index + 1, *update_survivors(survives, state, update, *inputs)

        start_seed, random_seed = tf.unstack(split_seed(random_seed, 2))
        survives = is_correct(logits, images, labels) & (epsilon[:, 0, 0, 0] > 0)
        state = images, tf.fill(tf.shape(labels), math.inf), survives
        start = proposals.start(images, epsilon, start_seed)
        state = update_survivors(survives, state, query, start, labels, *state[:2])
        _, adversarial, *_ = tf.while_loop(
            lambda *state: tf.reduce_any(state[-1]),
            step,
            (tf.constant(0, tf.int64), *state),
            maximum_iterations=self.queries,
        )
        return adversarial


def share(index: Tensor, queries: int) -> Tensor:
    """Returns the share of the image that a square covers at a query."""
    planned = index * _PLANNED_QUERIES // queries
    halvings = tf.reduce_sum(tf.cast(planned > tf.constant(_HALVED_AFTER, tf.int64), tf.float32))
    return _FIRST_SHARE / 2.0**halvings
