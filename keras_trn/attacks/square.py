"""Square: random search with squares, without any gradient."""

import collections
import math

import keras
import numpy as np

from keras_trn.attacks.art_attack import ArtAttack
from keras_trn.attacks.art_attack import import_art
from keras_trn.attacks.norms import as_cleverhans_norm
from keras_trn.input_validation import check_count

# Share of the image that the first squares cover, as in the paper.
_FIRST_SHARE = 0.8
# ART asks for the logits of an image again within as many calls.
_REMEMBERED_CALLS = 4


@keras.saving.register_keras_serializable(package="keras_trn")
class Square(ArtAttack):
    """Random search that changes a square of the image at a time.

    A change is kept if the margin of the label over the other classes shrinks. It
    asks for logits alone, and so is not deceived by a defence whose gradient is
    of no use.

    An image costs up to `queries` forward passes and two more, and none once it is
    misclassified.

    Source: Andriushchenko et al., "Square Attack", arXiv 1912.00049; ART's
    `SquareAttack`.

    Args:
        epsilon: Largest distance, in units of the image range [0, 1]; or a pair
            `(low, high)` to draw from for each image.
        norm: `"linf"` or `"l2"`.
        queries: Largest number of changes tried; 5000 in AutoAttack.
        seed: Whole number that fixes the squares, and the epsilons drawn from a
            range.

    Call arguments:
        classifier: A Keras model, or a callable, from images to logits.
        images: Clean images of shape `(batch, height, width, channels)` in [0, 1].
        labels: Class indices of shape `(batch,)`; by default the predicted ones.
        epsilon: Overrides the attack's own: a number, or one per image.

    Returns:
        A float32 tensor of adversarial images, of the shape of `images`.

    Raises:
        ValueError: If an argument is malformed, or the images are too small, or
            too oblong, for the squares.
        RuntimeError: If the attack is called inside a graph.

    Example:
        ```python
        attack = keras_trn.attacks.Square(epsilon=0.2, queries=100, seed=0)
        assert attack.gradient_free
        assert attack(classifier, images).shape == images.shape
        ```
    """

    gradient_free = True

    def __init__(self, epsilon, norm="linf", queries=1000, seed=None):
        super().__init__(epsilon, norm=norm, seed=seed)
        queries = check_count("queries", queries)
        self.queries = queries

    def make_attack(self, estimator, epsilon):
        """Makes ART's `SquareAttack`."""
        self._check_image_shape(estimator.input_shape)
        return import_art().attacks.evasion.SquareAttack(
            estimator,
            norm=as_cleverhans_norm(self.norm),
            max_iter=self.queries,
            eps=epsilon,
            p_init=_FIRST_SHARE,
            verbose=False,
        )

    def _check_image_shape(self, image_shape):
        """Refuses images for which ART leaves the image, or divides by zero."""
        height, width, _ = image_shape
        side = round(math.sqrt(_FIRST_SHARE * height * width))
        if self.norm == "l2":
            side = max(side + (side % 2 == 0), 3)
        smallest = 10 if self.norm == "l2" else 2
        if side >= min(height, width) or min(height, width) < smallest:
            raise ValueError(
                f"Square in {self.norm} needs images of at least {smallest} pixels a side, and "
                f"larger than its first squares of {side} pixels a side; received images of "
                f"{height} x {width} pixels. Take `keras_trn.attacks.SPSA`, which has no squares."
            )

    def _run(self, classifier, images, labels, epsilon, random_seed):
        # The classifier may have learned since the last call.
        self._estimator(classifier, images).predict.forget()
        return super()._run(classifier, images, labels, epsilon, random_seed)

    def _make_estimator(self, classifier, image_shape):
        estimator = super()._make_estimator(classifier, image_shape)
        estimator.predict = _Remembering(estimator.predict)
        return estimator

    @property
    def name(self):
        """What the attack is called in tables."""
        return "Square"

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "queries": self.queries}


class _Remembering:
    """Answers for images that were asked for a moment ago without asking the classifier."""

    def __init__(self, predict):
        self._predict = predict
        self._calls = collections.deque(maxlen=_REMEMBERED_CALLS)

    def forget(self):
        """Forgets all answers."""
        self._calls.clear()

    def __call__(self, x, **_):
        images = [image.tobytes() for image in x]
        known = collections.ChainMap(*self._calls)
        new = {image: index for index, image in enumerate(images) if image not in known}
        answers = self._predict(x[list(new.values())]) if new else ()
        known = known.new_child(dict(zip(new, answers, strict=True)))
        self._calls.append({image: known[image] for image in images})
        return np.stack([known[image] for image in images])
