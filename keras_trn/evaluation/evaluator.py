"""Attacks a classifier, with and without its protection, and reports both."""

import time

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_trn.evaluation.report import Report
from keras_trn.input_validation import check_data
from keras_trn.logits import predicted_labels
from keras_trn.metrics import peak_signal_to_noise_ratio

LABELS = ("true", "predicted")


def evaluate(protected, dataset, attacks, labels="true", verbose=1):
    """Measures a protected classifier under attacks on the bare classifier.

    The threat model is `oblivious`: the attacker differentiates the classifier
    and does not know of the restorer. It is the easiest one for the defence; an
    attacker who knows of the restorer can do more.

    A perturbation that was crafted with the true label carries that label, and a
    restorer can read it there. `labels="predicted"` gives the attacker only what
    the classifier itself believes.

    Args:
        protected: A `keras_trn.ProtectedClassifier`.
        dataset: A `tf.data.Dataset` of batches of images in [0, 1] and labels.
        attacks: List of attacks of `keras_trn.attacks`. Give attacks with random
            starts a seed for a report that can be repeated.
        labels: The labels that the attacks lead away from: `"true"` or
            `"predicted"`.
        verbose: 1 for a progress bar, 0 for none.

    Returns:
        A `keras_trn.evaluation.Report`: a row for benign images and one for each
        attack.

    Raises:
        ValueError: If `labels` is neither of the two, or the data are malformed.

    Example:
        ```python
        import keras
        import keras_trn

        classifier = keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
        )
        restorer = keras_trn.TwoStreamRestorationNetwork(width=8, depth=1)
        protected = keras_trn.ProtectedClassifier(classifier, restorer)
        train, validation, test = keras_trn.datasets.load("digits")
        attacks = [keras_trn.attacks.FastGradientMethod(epsilon=0.2)]
        report = keras_trn.evaluate(protected, test.take(1), attacks, verbose=0)
        assert [row["attack"] for row in report.rows] == ["benign", "FGSM"]
        ```
    """
    if labels not in LABELS:
        raise ValueError(f"labels must be 'true' or 'predicted', received {labels!r}.")
    check_data(dataset, None, protected.image_shape, protected.num_classes)
    started = time.perf_counter()
    judge = _Judge(protected)
    batches = [None, *attacks]
    with tqdm(total=len(batches) * len(dataset), disable=not verbose, unit="batch") as progress:
        rows = []
        for attack in batches:
            progress.set_description("benign" if attack is None else attack.name)
            measured = []
            for images, true_labels in dataset:
                measured.append(judge.measure(attack, images, true_labels, labels))
                progress.update()
            rows.append(_row(attack, measured))
    return Report(rows=rows, labels=labels, seconds=time.perf_counter() - started)


class _Judge:
    """Measures one batch under one attack, in compiled steps."""

    def __init__(self, protected):
        self.protected = protected
        self.measure_graph = tf.function(self._measure, autograph=False, reduce_retracing=True)

    def measure(self, attack, images, true_labels, labels):
        attacked = images
        if attack is not None:
            given = true_labels if labels == "true" else None
            attacked = attack(self.protected.classifier, images, given)
        return [value.numpy() for value in self.measure_graph(images, attacked, true_labels)]

    def _measure(self, images, attacked, labels):
        """Per image: what was right without and with protection, agreement, and PSNRs."""
        protected = self.protected
        restored = protected.restorations(attacked, labels)
        benign_prediction = predicted_labels(protected.classifier, images)
        bare_prediction = predicted_labels(protected.classifier, attacked)
        protected_prediction = predicted_labels(protected.classifier, restored)
        return (
            bare_prediction == labels,
            protected_prediction == labels,
            protected_prediction == benign_prediction,
            peak_signal_to_noise_ratio(images, attacked),
            peak_signal_to_noise_ratio(images, restored),
        )


def _row(attack, measured):
    bare, protected, agreement, attacked_psnr, restored_psnr = (
        np.concatenate(values) for values in zip(*measured, strict=True)
    )
    return {
        "attack": "benign" if attack is None else attack.name,
        "settings": None if attack is None else keras.saving.serialize_keras_object(attack),
        "examples": len(bare),
        "bare_accuracy": float(bare.mean()),
        "protected_accuracy": float(protected.mean()),
        "agreement": float(agreement.mean()),
        "attacked_psnr": float(attacked_psnr.mean()),
        "restored_psnr": float(restored_psnr.mean()),
    }
