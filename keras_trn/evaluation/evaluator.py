"""Attacks a defence as its attackers would, checks the attacks, and reports both."""

import dataclasses
import functools
import time
import warnings
from collections.abc import Iterable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_trn.attacks import Attack
from keras_trn.calibration import is_valid
from keras_trn.cluster import Cluster
from keras_trn.digests import digest_of_arrays
from keras_trn.evaluation.arguments import attacks_or_default
from keras_trn.evaluation.arguments import checked_epsilons
from keras_trn.evaluation.checkpoint import Checkpoint
from keras_trn.evaluation.checks import ALL_CHECKS
from keras_trn.evaluation.checks import CheckResult
from keras_trn.evaluation.checks import Examination
from keras_trn.evaluation.checks import run_checks
from keras_trn.evaluation.checks.examination import main_attack
from keras_trn.evaluation.default_threat_models import all_threat_models
from keras_trn.evaluation.environment import describe_environment
from keras_trn.evaluation.fingerprints import Fingerprints
from keras_trn.evaluation.measurement import BARE
from keras_trn.evaluation.measurement import measure_all
from keras_trn.evaluation.report import PictureRow
from keras_trn.evaluation.report import Report
from keras_trn.evaluation.runs import Run
from keras_trn.evaluation.runs import attack_settings
from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_whole_number
from keras_trn.logits import predicted_labels
from keras_trn.restored_classifier import RestoredClassifier
from keras_trn.threat_models import ThreatModel
from keras_trn.types import ArrayLike
from keras_trn.types import LabelledImages

PROTECTED = "protected"
_SHOWN_IMAGES = 4


def evaluate(
    defence: keras.Model,
    dataset: LabelledImages,
    attacks: Attack | Iterable[Attack] | None = None,
    threat_models: ThreatModel | str | Iterable[ThreatModel | str] | None = None,
    baselines: Mapping[str, keras.Model] | None = None,
    epsilons: ArrayLike | float = (),
    check_examples: int = 100,
    checkpoint: str | Path | None = None,
    seed: int = 0,
    verbose: int = 1,
    epsilon: float | None = None,
    norm: str = "linf",
    cluster: Cluster | str | None = None,
) -> Report:
    """Evaluates a defence, and checks the evaluation.

    Runs every attack under every threat model that supports it. Reports accuracy, the worst
    case for each image, and how close the restored images are to the clean ones. Then runs
    the sanity checks of `keras_trn.evaluation.checks`, which tell whether the attacks were
    strong enough to trust.

    Any Keras classifier can be evaluated, protected or not. An oblivious attacker attacks
    the bare classifier, which is the one behind the restoration.

    A perturbation that was crafted with the true label carries that label, and a restorer
    can read it there. `Oblivious(labels="predicted")` and
    `Transfer(another_classifier, labels="predicted")` give it less to read.

    Args:
        defence: The model to evaluate, from images to logits: a
            `keras_trn.ProtectedClassifier`, another `RestoredClassifier`, or any Keras
            classifier.
        dataset: Images in [0, 1] and labels, in the same order whenever they are run
            through: a `tf.data.Dataset` or `keras.utils.PyDataset` of batches, or a pair of
            arrays. Sample weights are left out.
        attacks: One or several attacks, each with one epsilon. By default PGD of 20 steps and
            the fast form of AutoAttack, `keras_trn.attacks.auto_attack("fast", epsilon, norm)`.
        threat_models: One or several threat models, or their names. By default all that
            need no further arguments, and `blackbox` if an attack only queries. If a defence
            answers at random, adaptive attackers then take the mean of 20 runs, and
            `fixed_randomness` is run too.
        baselines: Other models to measure on the same images, by name, such as
            `keras_trn.baselines.JpegCompression(classifier)`. They share the adversarial
            images that do not depend on the defence.
        epsilons: Further epsilons at which the first attack is run, for accuracy against
            epsilon. A threat model that does not support this attack has no curve.
        check_examples: Number of images, from the start of the data, for the sanity checks.
        checkpoint: Path of a file that keeps finished results. The same call continues an
            interrupted evaluation; other weights, data or settings are computed anew.
        seed: Seed of all attacks that have none.
        verbose: 1 for a progress bar, 0 for none.
        epsilon: Largest distance of the default attacks, in units of the image range [0, 1].
        norm: `"linf"` or `"l2"`, the norm of the default attacks.
        cluster: `None` to attack in this process. `"auto"`, or a `keras_trn.Cluster`, for the
            workers of a Ray cluster, which attack a batch at a time, with the same results. The
            sanity checks run in this process.

    Returns:
        A `keras_trn.evaluation.Report`. The table leaves out a threat model that cannot be run
        in full, and names it below. An example is `whitebox_full` on a defence whose gradient
        map has no gradient.

    Raises:
        ValueError: If data, attacks, threat models or baselines are malformed, no threat model
            applies to any defence, the dataset does not keep its order, or an attack leaves the
            ball of its epsilon.
        TypeError: If the config of an attack lacks some of its settings.

    Example:
        ```python
        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=5)
        jpeg = keras_trn.baselines.JpegCompression(classifier)
        report = keras_trn.evaluate(
            jpeg, (images, labels), attack, ["oblivious", "bpda"], check_examples=8, verbose=0
        )
        assert report.worst() <= report.cell("PGD-5", "oblivious")["accuracy"]
        ```
    """
    started = time.perf_counter()
    check_examples = check_count("check_examples", check_examples)
    seed = check_whole_number("seed", seed, 0, np.iinfo(np.int32).max)
    attacks = attacks_or_default(attacks, epsilon, norm)
    attacks = [attack.with_seed(seed) for attack in attacks]
    epsilons = checked_epsilons(epsilons, attacks)
    defences, evaluated = _name_defences(defence, {} if baselines is None else baselines)
    kept = Checkpoint(checkpoint)
    measured = measure_all(
        defences, dataset, attacks, threat_models, epsilons, kept, cluster, verbose
    )
    measured.warn_of_randomness(stacklevel=3)
    images, labels = measured.data.first(check_examples)
    checked_attack = main_attack(attacks, seed)
    of_each = measured.threat_models
    checks = _checks(defences, images, labels, attacks, of_each, kept, seed, verbose)
    return Report(
        defences=list(defences),
        evaluated=evaluated,
        cells=measured.cells,
        checks=checks,
        settings={
            "threat_models": [one.get_config() for one in all_threat_models(of_each)],
            "epsilons": epsilons,
            "seed": seed,
            "check_examples": len(images),
            "checked_attack": checked_attack.name,
            "checked_attack_settings": attack_settings(checked_attack),
            "batch_size": measured.data.batch_size,
            "calibrations": _calibrations(defences),
            "forward_passes": _forward_passes(defences),
        },
        environment=describe_environment(),
        seconds=time.perf_counter() - started,
        pictures=_make_pictures(evaluated, defences[evaluated], images, labels, measured.runs),
        not_run=measured.not_run,
    )


def _calibrations(defences: dict[str, keras.Model]) -> dict[str, dict[str, Any]]:
    """Returns the valid result of `ProtectedClassifier.calibrate` of each calibrated defence."""
    found = {}
    for name, defence in defences.items():
        calibration = getattr(defence, "calibration", None)
        if calibration is None:
            continue
        if is_valid(calibration, defence):
            found[name] = dataclasses.asdict(calibration)
        else:
            warnings.warn(
                f"The report leaves out the calibration of {name!r}: weights or gates have changed "
                "since. Call `calibrate` again.",
                stacklevel=3,
            )
    return found


def _forward_passes(defences: dict[str, keras.Model]) -> dict[str, int]:
    """Returns how often one prediction of each defence runs its classifier forward."""
    return {name: getattr(defence, "forward_passes", 1) for name, defence in defences.items()}


def _name_defences(
    defence: keras.Model, baselines: Mapping[str, keras.Model]
) -> tuple[dict[str, keras.Model], str]:
    """Returns all models by name, the bare classifier first, and the name of the evaluated one."""
    if not isinstance(baselines, Mapping):
        raise ValueError(
            f"baselines must be a dictionary from names to Keras models, received {baselines!r}."
        )
    for name in (BARE, PROTECTED):
        if name in baselines:
            raise ValueError(
                f"A baseline cannot be called {name!r}: the evaluated model uses this name. "
                "Choose another one."
            )
    if isinstance(defence, RestoredClassifier):
        return {BARE: defence.classifier, PROTECTED: defence, **baselines}, PROTECTED
    return {BARE: defence, **baselines}, BARE


def _checks(
    defences: dict[str, keras.Model],
    images: np.ndarray,
    labels: np.ndarray,
    attacks: list[Attack],
    threat_models: dict[str, list[ThreatModel]],
    checkpoint: Checkpoint,
    seed: int,
    verbose: int,
) -> dict[str, list[CheckResult]]:
    """The results of the sanity checks of each defence."""
    results: dict[str, list[CheckResult]] = {}
    fingerprints = Fingerprints(tf.constant(images))
    with tqdm(total=len(defences), disable=not verbose, unit="defence") as progress:
        for name, defence in defences.items():
            progress.set_description(f"checks, {name}")
            if getattr(defence, "needs_labels", False):
                # A study of an upper bound, which nobody can attack.
                results[name] = []
                progress.update()
                continue
            description = {
                "checks": [threat_model.get_config() for threat_model in threat_models[name]],
                "model": fingerprints.of(defence),
                "names": list(ALL_CHECKS),
                "attacks": [[str(type(attack)), attack_settings(attack)] for attack in attacks],
                "images": digest_of_arrays(images, labels),
                "seed": seed,
                "versions": describe_environment()["versions"],
            }
            examination = Examination(
                defence, images, labels, attacks, threat_models[name], seed=seed
            )
            saved = checkpoint.get_or_compute(
                description,
                functools.partial(_run_checks, examination),
            )
            results[name] = [CheckResult(**result) for result in saved]
            progress.update()
    return results


def _run_checks(examination: Examination) -> list[dict[str, Any]]:
    return [vars(result) for result in run_checks(examination)]


def _make_pictures(
    name: str, defence: keras.Model, images: np.ndarray, labels: np.ndarray, runs: list[Run]
) -> list[PictureRow]:
    """Returns a few images: benign, and under the first attack of each threat model."""
    images, labels = images[:_SHOWN_IMAGES], labels[:_SHOWN_IMAGES]
    pictures: dict[str, PictureRow] = {}
    for run in runs:
        title = "benign" if run.threat_model is None else run.threat_model.name
        # Attacks on predicted labels look much the same.
        is_shown = run.threat_model is None or run.threat_model.labels == "true"
        if is_shown and name in run.defences and title not in pictures:
            adversarial = run.craft(tf.constant(images), tf.constant(labels))
            pictures[title] = _make_row(title, defence, adversarial.numpy(), labels)
    return list(pictures.values())


def _make_row(
    title: str | None, defence: keras.Model, attacked: np.ndarray, labels: np.ndarray
) -> PictureRow:
    """Returns a row in which each image is followed by the restored one, if there is one."""
    shown, classifier, class_names = {"attacked": attacked}, defence, None
    if isinstance(defence, RestoredClassifier):
        class_names = getattr(defence, "class_names", None)
        known_labels = tf.constant(labels) if defence.needs_labels else None
        shown["restored"] = np.asarray(defence.restore_batch(tf.constant(attacked), known_labels))
        classifier = defence.classifier
    images = np.stack(list(shown.values()), axis=1)
    predicted = [predicted_labels(classifier, images).numpy() for images in shown.values()]
    return PictureRow(
        title=title,
        images=images.reshape(-1, *attacked.shape[1:]),
        states=list(shown) * len(labels),
        predicted=np.stack(predicted, axis=1).ravel(),
        labels=np.repeat(labels, len(shown)),
        class_names=class_names,
    )
