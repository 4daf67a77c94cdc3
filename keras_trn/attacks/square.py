"""Square: random search with squares, without any gradient."""

import math
from typing import Any

import keras

from keras_trn.attacks.art_attack import ArtAttack
from keras_trn.attacks.art_attack import import_art
from keras_trn.attacks.attack import Epsilon
from keras_trn.attacks.norms import as_cleverhans_norm
from keras_trn.input_validation import check_count
from keras_trn.types import ImageShape

# Share of the image that the first squares cover, as in the paper.
_FIRST_SHARE = 0.8


@keras.saving.register_keras_serializable(package="keras_trn")
class Square(ArtAttack):
    """Random search that changes one square of the image at a time.

    It keeps a change that reduces the margin of the label over the other classes. It only
    queries logits, so a defence whose gradient is useless does not deceive it. An image costs
    up to `queries` forward passes and two more, and none once it is misclassified. It does not
    run in a graph; see [`Attack`][keras_trn.attacks.Attack].

    Source: Andriushchenko et al., "Square Attack", arXiv 1912.00049; ART's `SquareAttack`.

    Args:
        epsilon: Largest distance, or a pair `(low, high)` to draw from for each image.
        norm: `"linf"` or `"l2"`.
        queries: Largest number of changes tried; 5000 in AutoAttack.
        seed: Whole number that fixes the squares, and the epsilons drawn from a range.

    Raises:
        ValueError: If the images are too small, or too oblong, for the squares.

    Example:
        ```python
        assert keras_trn.attacks.Square(epsilon=0.2, queries=100).gradient_free
        ```
    """

    gradient_free = True
    # ART queries an image again within as many calls.
    remembered_calls = 4
    name = "Square"

    def __init__(
        self, epsilon: Epsilon, norm: str = "linf", queries: int = 1000, seed: int | None = None
    ) -> None:
        super().__init__(epsilon, norm=norm, seed=seed)
        self.queries = check_count("queries", queries)

    def make_attack(self, estimator: Any, epsilon: float) -> Any:
        """Makes ART's `SquareAttack`."""
        return import_art().attacks.evasion.SquareAttack(
            estimator,
            norm=as_cleverhans_norm(self.norm),
            max_iter=self.queries,
            eps=epsilon,
            p_init=_FIRST_SHARE,
            verbose=False,
        )

    def check_image_shape(self, image_shape: ImageShape) -> None:
        """Refuses images for which ART leaves the image, or divides by zero."""
        height, width, _ = image_shape
        if height is None or width is None:
            return
        side = round(math.sqrt(_FIRST_SHARE * height * width))
        if self.norm == "l2":
            side = max(side + (side % 2 == 0), 3)
        smallest = 10 if self.norm == "l2" else 2
        if side >= min(height, width) or min(height, width) < smallest:
            raise ValueError(
                f"Square in {self.norm} needs images of at least {smallest} pixels a side, and "
                f"larger than its first squares of {side} pixels a side; received images of "
                f"{height} x {width} pixels. Use `keras_trn.attacks.SPSA`, which has no squares."
            )
