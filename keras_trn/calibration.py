"""Sets a restorer's gates to limit its cost in benign accuracy."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_trn.digests import digest_of_arrays
from keras_trn.graphs import compile_function
from keras_trn.input_validation import check_range
from keras_trn.logits import logits_function

# Candidate thresholds of the gates' logits; the last one closes the gates for all images.
_THRESHOLDS = (*np.arange(0.0, 8.0, 0.25), *np.arange(8.0, 20.0, 1.0), 100.0)
_BATCH_SIZE = 128


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Holds the result of `ProtectedClassifier.calibrate`, to print and to save.

    Agreement is the share of images for which the protected classifier predicts the same class
    as the bare classifier does for the clean image.

    Args:
        benign_agreement: Share of benign images that must keep their class.
        gate_threshold: Smallest threshold of the gates that achieves it.
        images: Number of images used.
        benign_before: Agreement on benign images with a threshold of 0.
        benign_after: Agreement on benign images with the new threshold.
        attacked_before: Agreement under the attack with a threshold of 0; `None` without an
            attack.
        attacked_after: Agreement under the attack with the new threshold.
        attack: Name of the attack; `None` without one.
        digest: Digest of the weights and gates that it is valid for; `None` if unknown.

    Example:
        ```python
        calibration = keras_trn.Calibration(
            benign_agreement=0.99,
            gate_threshold=1.5,
            images=500,
            benign_before=0.97,
            benign_after=0.992,
        )
        print(calibration)
        ```
    """

    benign_agreement: float
    gate_threshold: float
    images: int
    benign_before: float
    benign_after: float
    attacked_before: float | None = None
    attacked_after: float | None = None
    attack: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        lines = [
            f"Gate threshold {self.gate_threshold:g}, for a benign agreement of at least "
            f"{self.benign_agreement:.1%}, on {self.images} images.",
            f"Benign images that keep their class: {self.benign_before:.1%} before, "
            f"{self.benign_after:.1%} now.",
        ]
        if self.attack is not None:
            lines.append(
                f"Images that keep their class under {self.attack} on the bare classifier: "
                f"{self.attacked_before:.1%} before, {self.attacked_after:.1%} now."
            )
        return "\n".join(lines)


def calibrate_gates(
    protected: Any, images: np.ndarray, benign_agreement: float, attack: Any
) -> Calibration:
    """Raises the gate thresholds of a protected classifier until enough images keep their class.

    `attack`, an attack on the bare classifier or `None`, measures the cost.
    """
    benign_agreement = check_range("benign_agreement", benign_agreement, 0, 1)
    parts = [part for part in protected.trained_parts if _has_gate(part)]
    if not parts:
        raise ValueError(
            f"{type(protected.restorer).__name__} has no `gate_threshold` to calibrate. Use a "
            "`keras_trn.TwoStreamRestorationNetwork`, or give your restorer this attribute."
        )
    agreement = _agreement_function(protected, parts)
    expected = _in_batches(logits_function(protected.classifier), images).argmax(axis=-1)

    @functools.cache
    def benign(threshold: float) -> float:
        return agreement(images, expected, threshold)

    enough = (threshold for threshold in _THRESHOLDS if benign(threshold) >= benign_agreement)
    threshold = float(next(enough, _THRESHOLDS[-1]))
    costs = {}
    if attack is not None:
        attacked = _in_batches(lambda batch: attack(protected.classifier, batch), images)
        costs = {
            "attacked_before": agreement(attacked, expected, 0.0),
            "attacked_after": agreement(attacked, expected, threshold),
            "attack": attack.name,
        }
    for part in parts:
        part.gate_threshold = threshold
    return Calibration(
        benign_agreement=benign_agreement,
        gate_threshold=threshold,
        images=len(images),
        benign_before=benign(0.0),
        benign_after=benign(threshold),
        digest=_digest(protected),
        **costs,
    )


def is_valid(calibration: Calibration, protected: Any) -> bool:
    """Tells whether weights and gates are the same as when they were calibrated.

    It takes calibrations of older versions, which have no digest, for valid ones.
    """
    return calibration.digest in (None, _digest(protected))


def _digest(protected: Any) -> str:
    """Returns the digest of weights, rounded as files of presets store them, and of gates."""
    weights = [keras.ops.cast(weight, "float16") for weight in protected.weights]
    thresholds = [part.gate_threshold for part in protected.trained_parts if _has_gate(part)]
    return digest_of_arrays(*weights, *thresholds)


def _agreement_function(
    protected: Any, parts: list[keras.Layer]
) -> Callable[[np.ndarray, np.ndarray, float], float]:
    def predict(images: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
        with _gates_at(parts, threshold):
            return protected(images)

    # The threshold is an input, so one graph serves all thresholds.
    images_spec = tf.TensorSpec((None, *protected.image_shape), tf.float32)
    compiled = compile_function(predict, [images_spec, tf.TensorSpec((), tf.float32)])

    def agreement(images: np.ndarray, expected: np.ndarray, threshold: float) -> float:
        threshold = tf.constant(threshold, tf.float32)
        logits = _in_batches(lambda batch: compiled(batch, threshold), images)
        return float(np.mean(logits.argmax(axis=-1) == expected))

    return agreement


def _has_gate(part: keras.Layer) -> bool:
    return getattr(part, "gate_threshold", None) is not None


@contextlib.contextmanager
def _gates_at(parts: list[keras.Layer], threshold: tf.Tensor) -> Iterator[None]:
    before = [part.gate_threshold for part in parts]
    for part in parts:
        part.gate_threshold = threshold
    try:
        yield
    finally:
        for part, value in zip(parts, before, strict=True):
            part.gate_threshold = value


def _in_batches(function: Callable[[tf.Tensor], Any], images: np.ndarray) -> np.ndarray:
    batches = [images[i : i + _BATCH_SIZE] for i in range(0, len(images), _BATCH_SIZE)]
    return np.concatenate([np.asarray(function(tf.constant(batch))) for batch in batches])
