"""Attacks a defence as its attackers would, checks the attacks, and reports both."""

import dataclasses
import hashlib
import time

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_trn import threat_models as known_threat_models
from keras_trn.evaluation.arguments import as_threat_models
from keras_trn.evaluation.arguments import checked_attacks
from keras_trn.evaluation.arguments import checked_epsilons
from keras_trn.evaluation.checkpoint import Checkpoint
from keras_trn.evaluation.checkpoint import Fingerprints
from keras_trn.evaluation.checks import ALL_CHECKS
from keras_trn.evaluation.checks import CheckResult
from keras_trn.evaluation.checks import Examination
from keras_trn.evaluation.checks import run_checks
from keras_trn.evaluation.checks.examination import main_attack
from keras_trn.evaluation.environment import describe_environment
from keras_trn.evaluation.measurement import BARE
from keras_trn.evaluation.measurement import measure_all
from keras_trn.evaluation.report import Picture
from keras_trn.evaluation.report import Report
from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_whole_number
from keras_trn.logits import predicted_labels
from keras_trn.restored_classifier import RestoredClassifier

PROTECTED = "protected"
_SHOWN_IMAGES = 4


def evaluate(
    defence,
    dataset,
    attacks,
    threat_models=None,
    baselines=None,
    epsilons=(),
    check_examples=100,
    checkpoint=None,
    seed=0,
    verbose=1,
):
    """Evaluates a defence, and checks the evaluation.

    Runs every attack under every threat model that supports it, reports accuracy,
    the worst case per image, and how close the restored images are to the clean
    ones; and runs the sanity checks of `keras_trn.evaluation.checks`, which tell
    whether the attacks were strong enough to be believed.

    Any Keras classifier can be evaluated, protected or not. What an oblivious
    attacker attacks is the bare classifier: the one behind the restoration, where
    there is one.

    A perturbation that was crafted with the true label carries that label, and a
    restorer can read it there. `Oblivious(labels="predicted")` and
    `Transfer(another_classifier, labels="predicted")` give it less to read.

    Args:
        defence: The model to evaluate, from images to logits: a
            `keras_trn.ProtectedClassifier`, another `RestoredClassifier`, or any
            Keras classifier.
        dataset: A `tf.data.Dataset` of batches of images in [0, 1] and labels, the
            same in the same order whenever it is run through; a
            `keras.utils.PyDataset` of them; or a pair of arrays. Sample weights are
            left out.
        attacks: List of attacks of `keras_trn.attacks`, each with one epsilon, or
            one of them.
        threat_models: List of `keras_trn.threat_models`, or their names, or one of
            them; by default all that need nothing further, and `blackbox` where an
            attack only queries.
        baselines: Dictionary of other models to measure in the same run, on the same
            images and, where they do not depend on the defence, on the same
            adversarial images; such as `keras_trn.baselines.JpegCompression(classifier)`.
        epsilons: Further epsilons at which the first attack is run, for accuracy
            against epsilon. A threat model that does not support it has no curve.
        check_examples: Number of images, from the start of the data, on which the
            sanity checks are run.
        checkpoint: Path of a file that keeps what is finished. Where the evaluation is
            interrupted, the same call continues where it stopped; results of other
            weights, data or settings are not taken for these.
        seed: Fixes what is random in attacks that have no seed of their own.
        verbose: 1 for a progress bar, 0 for none.

    Returns:
        A `keras_trn.evaluation.Report`. What could not be run in full, such as
        `whitebox_full` on a defence whose gradient map has no gradient, is left out
        of the table and named below it.

    Raises:
        ValueError: If data, attacks, threat models or baselines are malformed, the
            dataset does not keep its order, or an attack leaves the ball of its
            epsilon.
        TypeError: If an attack does not tell all of its settings.

    Example:
        ```python
        train, validation, test = keras_trn.datasets.load("digits")
        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=5)
        jpeg = keras_trn.baselines.JpegCompression(classifier)
        report = keras_trn.evaluate(
            jpeg, test.take(1), [attack], ["oblivious", "bpda"], check_examples=8, verbose=0
        )
        assert report.worst() <= report.cell("PGD-5", "oblivious")["accuracy"]
        ```
    """
    started = time.perf_counter()
    check_examples = check_count("check_examples", check_examples)
    seed = check_whole_number("seed", seed, 0, np.iinfo(np.int32).max)
    attacks = checked_attacks(attacks)
    if not attacks:
        raise ValueError(
            "There is nothing to evaluate a defence with, as there are no attacks: "
            "`attacks=[keras_trn.attacks.ProjectedGradientDescent(epsilon=8 / 255)]`."
        )
    attacks = [attack.with_seed(seed) for attack in attacks]
    epsilons = checked_epsilons(epsilons, attacks)
    threat_models = _threat_models(threat_models, attacks)
    defences, evaluated = _defences(defence, baselines or {})
    checkpoint = Checkpoint(checkpoint)
    measured = measure_all(defences, dataset, attacks, threat_models, epsilons, checkpoint, verbose)
    measured.warn_of_randomness(stacklevel=3)
    images, labels = measured.data.first(check_examples)
    checked_attack = main_attack(attacks, seed)
    checks = _checks(defences, images, labels, attacks, threat_models, checkpoint, seed, verbose)
    pictures = _pictures(
        defences[evaluated],
        images,
        labels,
        attacks,
        _run_on(evaluated, threat_models, measured.not_run),
    )
    return Report(
        defences=list(defences),
        evaluated=evaluated,
        cells=measured.cells,
        checks=checks,
        settings={
            "threat_models": [threat_model.get_config() for threat_model in threat_models],
            "epsilons": epsilons,
            "seed": seed,
            "check_examples": len(images),
            "checked_attack": checked_attack.name,
            "checked_attack_settings": checked_attack.get_config(),
            "batch_size": measured.data.batch_size,
            "calibrations": _calibrations(defences),
        },
        environment=describe_environment(),
        seconds=time.perf_counter() - started,
        pictures=pictures,
        not_run=measured.not_run,
    )


def _calibrations(defences):
    """What `ProtectedClassifier.calibrate` found for each defence that was calibrated."""
    found = {name: getattr(defence, "calibration", None) for name, defence in defences.items()}
    return {name: dataclasses.asdict(one) for name, one in found.items() if one is not None}


def _threat_models(threat_models, attacks):
    if threat_models is not None:
        return as_threat_models(threat_models)
    oblivious = known_threat_models.Oblivious
    every = [
        oblivious(),
        oblivious(labels="predicted"),
        known_threat_models.BPDA(),
        known_threat_models.WhiteboxStopgrad(),
        known_threat_models.WhiteboxFull(),
        known_threat_models.Blackbox(),
    ]
    return [model for model in every if any(model.supports(attack) for attack in attacks)]


def _defences(defence, baselines):
    """All models by their names, the bare classifier first; and the name of the evaluated one."""
    for name in (BARE, PROTECTED):
        if name in baselines:
            raise ValueError(f"A baseline cannot be called {name!r}, which is a column of its own.")
    if isinstance(defence, RestoredClassifier):
        return {BARE: defence.classifier, PROTECTED: defence, **baselines}, PROTECTED
    return {BARE: defence, **baselines}, BARE


def _run_on(name, threat_models, not_run):
    """The threat models that were run on a defence."""
    left_out = {missing["threat_model"] for missing in not_run if missing["defence"] == name}
    return [threat_model for threat_model in threat_models if threat_model.name not in left_out]


def _checks(defences, images, labels, attacks, threat_models, checkpoint, seed, verbose):
    """The results of the sanity checks of each defence."""
    results, fingerprints = {}, Fingerprints(tf.constant(images))
    with tqdm(total=len(defences), disable=not verbose, unit="defence") as progress:
        for name, defence in defences.items():
            progress.set_description(f"checks, {name}")
            if getattr(defence, "needs_labels", False):
                # A study of an upper bound, which nobody can attack.
                results[name] = []
                progress.update()
                continue
            description = {
                "checks": [threat_model.get_config() for threat_model in threat_models],
                "model": fingerprints.of(defence),
                "names": list(ALL_CHECKS),
                "attacks": [[str(type(attack)), attack.get_config()] for attack in attacks],
                "images": hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest(),
                "seed": seed,
                "versions": describe_environment()["versions"],
            }
            examination = Examination(defence, images, labels, attacks, threat_models, seed=seed)
            saved = checkpoint.get_or_compute(
                description,
                lambda examination=examination: [
                    vars(result) for result in run_checks(examination)
                ],
            )
            results[name] = [CheckResult(**result) for result in saved]
            progress.update()
    return results


def _pictures(defence, images, labels, attacks, threat_models):
    """A few images: benign, adversarial, and restored."""
    images, labels = images[:_SHOWN_IMAGES], labels[:_SHOWN_IMAGES]
    pictures = [_picture("benign", defence, images, labels)]
    for threat_model in threat_models:
        admitted = [attack for attack in attacks if threat_model.supports(attack)]
        # What an attack on predicted labels makes of an image looks much the same.
        if admitted and threat_model.applies_to(defence) and threat_model.labels == "true":
            target = threat_model.target(defence)
            attacked = admitted[0](target, images, labels).numpy()
            pictures.append(_picture(threat_model.name, defence, attacked, labels))
    return pictures


def _picture(title, defence, attacked, labels):
    """Each image before the defence, followed by the restored one."""
    images, classifier = [attacked], defence
    if isinstance(defence, RestoredClassifier):
        known_labels = tf.constant(labels) if defence.needs_labels else None
        restored = defence.restore_batch(tf.constant(attacked), known_labels)
        images, classifier = [attacked, np.asarray(restored)], defence.classifier
    columns = [predicted_labels(classifier, shown).numpy() for shown in images]
    return Picture(
        title=title,
        images=_alternate(images),
        states=["attacked", "restored"][: len(images)] * len(labels),
        taken_for=_alternate(columns),
        labels=np.repeat(labels, len(images)),
    )


def _alternate(arrays):
    """The first of each array, then the second of each, and so on."""
    return np.stack(arrays, axis=1).reshape(-1, *arrays[0].shape[1:])
