"""Sets how readily a restorer changes images, by how much benign accuracy it may cost."""

import contextlib
import dataclasses
import functools

import numpy as np
import tensorflow as tf

from keras_trn.graphs import compile_function
from keras_trn.input_validation import check_range
from keras_trn.logits import logits_function

# The logits that the gates have to exceed; the last one closes them for good.
_THRESHOLDS = (*np.arange(0.0, 8.0, 0.25), *np.arange(8.0, 20.0, 1.0), 100.0)
_IMAGES_AT_A_TIME = 128


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What `ProtectedClassifier.calibrate` found, to print and to save.

    Agreement is the share of images that the protected classifier puts into the class that the
    bare classifier predicts for the clean image.

    Args:
        benign_agreement: The share of benign images that was to keep its class.
        gate_threshold: The threshold of the gates that keeps it.
        images: Number of images that it was found on.
        benign_before: Agreement on benign images with a threshold of 0.
        benign_after: Agreement on benign images with the threshold.
        attacked_before: Agreement under the attack with a threshold of 0; `None` without
            an attack.
        attacked_after: Agreement under the attack with the threshold.
        attack: Name of the attack; `None` without one.

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

    def __str__(self):
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


def calibrate_gates(protected, images, benign_agreement, attack):
    """Closes the gates of a protected classifier as far as its benign budget asks for.

    Args:
        protected: A `ProtectedClassifier`; its gates are set.
        images: Array of clean images of shape `(number, height, width, channels)`.
        benign_agreement: Share of the images, from 0 to 1, that has to keep its class.
        attack: Attack on the bare classifier to measure the costs with, or `None`.

    Returns:
        A `Calibration`.

    Raises:
        ValueError: If the restorer has no gates, or the share is out of range.
    """
    benign_agreement = check_range("benign_agreement", benign_agreement, 0, 1)
    parts = [part for part in protected.trained_parts if hasattr(part, "gate_threshold")]
    if not parts:
        raise ValueError(
            f"{type(protected.restorer).__name__} has no `gate_threshold` to calibrate. Take a "
            "`keras_trn.TwoStreamRestorationNetwork`, or give your restorer this attribute."
        )
    agreement = _agreement_function(protected, parts)
    expected = _in_batches(logits_function(protected.classifier), images).argmax(axis=-1)

    @functools.cache
    def benign(threshold):
        return agreement(images, expected, threshold)

    threshold = next(
        t for t in _THRESHOLDS if benign(t) >= benign_agreement or t == _THRESHOLDS[-1]
    )
    costs = {}
    if attack is not None:
        attacked = _in_batches(lambda batch: attack(protected.classifier, batch), images)
        costs = {
            "attacked_before": agreement(attacked, expected, 0.0),
            "attacked_after": agreement(attacked, expected, threshold),
            "attack": attack.name,
        }
    for part in parts:
        part.gate_threshold = float(threshold)
    return Calibration(
        benign_agreement=benign_agreement,
        gate_threshold=float(threshold),
        images=len(images),
        benign_before=benign(0.0),
        benign_after=benign(threshold),
        **costs,
    )


def _agreement_function(protected, parts):
    """A function of images, expected classes and a threshold that measures the agreement."""

    def predict(images, threshold):
        with _gates_at(parts, threshold):
            return protected(images)

    images_spec = tf.TensorSpec((None, *protected.image_shape), tf.float32)
    # The threshold is an input, so that it is traced once for all of them.
    compiled = compile_function(predict, [images_spec, tf.TensorSpec((), tf.float32)])

    def agreement(images, expected, threshold):
        threshold = tf.constant(threshold, tf.float32)
        logits = _in_batches(lambda batch: compiled(batch, threshold), images)
        return float(np.mean(logits.argmax(axis=-1) == expected))

    return agreement


@contextlib.contextmanager
def _gates_at(parts, threshold):
    before = [part.gate_threshold for part in parts]
    for part in parts:
        part.gate_threshold = threshold
    try:
        yield
    finally:
        for part, value in zip(parts, before, strict=True):
            part.gate_threshold = value


def _in_batches(function, images):
    starts = range(0, len(images), _IMAGES_AT_A_TIME)
    batches = [tf.constant(images[start : start + _IMAGES_AT_A_TIME]) for start in starts]
    return np.concatenate([np.asarray(function(batch)) for batch in batches])
