"""Tells whether a model always gives the same image the same answer."""

import keras
import numpy as np

from keras_trn.logits import logits_function
from keras_trn.random_states import with_fixed_randomness
from keras_trn.threat_models import ThreatModel
from keras_trn.types import ArrayLike

# As in AutoAttack's `check_randomized`: the number of runs, and the largest difference of
# normalized logits that rounding explains.
RUNS = 5
ROUNDING_OF_LOGITS = 1e-4


def normalized(logits: np.ndarray) -> np.ndarray:
    """Scales the logits of each image to length 1; replaces NaN with zero."""
    logits = np.nan_to_num(logits)
    return logits / np.maximum(np.linalg.norm(logits, axis=-1, keepdims=True), 1e-12)


def repeated_logits(model: keras.Model, images: ArrayLike, runs: int = RUNS) -> list[np.ndarray]:
    """Returns the logits of the same images from several runs."""
    # A graph would repeat the random numbers that NumPy drew during tracing.
    answer = logits_function(model)
    return [answer(images).numpy() for _ in range(runs)]


def largest_distance(runs: list[np.ndarray]) -> float:
    """Returns the largest distance of normalized logits between the first and another run."""
    first, *others = map(normalized, runs)
    return float(max(np.linalg.norm(other - first, axis=-1).max() for other in others))


def unfixed_reason(
    threat_model: ThreatModel, defence: keras.Model, images: ArrayLike
) -> str | None:
    """Tells why a threat model cannot fix a defence's randomness, without a full stop.

    Returns `None` if it can, or does not need to.
    """
    if not threat_model.fixes_randomness:
        return None
    answer = with_fixed_randomness(defence, logits_function(defence))
    if largest_distance([answer(images).numpy() for _ in range(RUNS)]) <= ROUNDING_OF_LOGITS:
        return None
    return (
        "not all of its random numbers come from a `keras.random.SeedGenerator` that is an "
        "attribute of one of its layers"
    )
