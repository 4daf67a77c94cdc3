"""Crafts adversarial images once, and measures every defence on them."""

import collections
import dataclasses
import functools
import json
import math
import time
import warnings

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_trn.evaluation.arguments import as_threat_models
from keras_trn.evaluation.arguments import check_image_shape
from keras_trn.evaluation.arguments import checked_attacks
from keras_trn.evaluation.arguments import checked_epsilons
from keras_trn.evaluation.arguments import describe_all
from keras_trn.evaluation.checkpoint import Checkpoint
from keras_trn.evaluation.checkpoint import Fingerprints
from keras_trn.evaluation.data import CheckedData
from keras_trn.evaluation.environment import describe_environment
from keras_trn.evaluation.examples import pack
from keras_trn.evaluation.map_gradient import PROBED_IMAGES
from keras_trn.evaluation.map_gradient import unsupported_reason
from keras_trn.evaluation.report import not_run_text
from keras_trn.graphs import compile_function
from keras_trn.logits import logits_function
from keras_trn.logits import predicted_labels
from keras_trn.metrics import peak_signal_to_noise_ratio
from keras_trn.metrics import structural_similarity
from keras_trn.restored_classifier import RestoredClassifier

# What float32 images can be off by, in units of their range or relative to a larger epsilon.
_ROUNDING_OF_DISTANCES = 1e-5
# An epsilon that NumPy has rounded to float32 is the same.
_SAME_EPSILON = 1e-6

BARE = "bare"


def measure(
    defences,
    dataset,
    attacks,
    threat_models=("oblivious",),
    epsilons=(),
    checkpoint=None,
    verbose=1,
):
    """Measures defences under attacks, cell by cell of a large table.

    What `keras_trn.evaluate` does before it checks itself and reports: for
    studies that compare many models and need no report of each.

    Where the adversarial images do not depend on the defence (`oblivious`,
    `transfer`), they are crafted once, and all defences are measured on the same
    ones. Otherwise they are crafted for each defence.

    Args:
        defences: Dictionary of Keras models from images to logits. The first is the
            bare classifier: the one that an oblivious attacker attacks, and whose
            predictions for the clean images `agreement` refers to.
        dataset: A `tf.data.Dataset` of batches of images in [0, 1] and labels, the
            same in the same order whenever it is run through; a
            `keras.utils.PyDataset` of them; or a pair of arrays. Sample weights are
            left out.
        attacks: List of attacks of `keras_trn.attacks`, or one of them.
        threat_models: List of `keras_trn.threat_models`, or their names, or one of them.
        epsilons: Further epsilons at which the first attack is run.
        checkpoint: Path of a file that keeps finished cells, see `keras_trn.evaluate`.
        verbose: 1 for a progress bar, 0 for none.

    Returns:
        A list of dictionaries, see `keras_trn.evaluation.Report`. Where `whitebox_full`
        cannot be run in full on a defence, its cells are left out, with a warning.

    Raises:
        ValueError: If the data are malformed or do not keep their order, an attack or threat
            model does not fit, or an attack leaves the ball of its epsilon.
        TypeError: If an attack does not tell all of its settings.

    Example:
        ```python
        train, validation, test = keras_trn.datasets.load("digits")
        attack = keras_trn.attacks.FastGradientMethod(epsilon=0.2)
        cells = keras_trn.evaluation.measure(
            {"bare": classifier}, test.take(1), attack, verbose=0
        )
        assert [cell["attack"] for cell in cells] == ["benign", "FGSM"]
        ```
    """
    measured = measure_all(defences, dataset, attacks, threat_models, epsilons, checkpoint, verbose)
    for missing in measured.not_run:
        warnings.warn(f"Not run: {not_run_text(missing)}", UserWarning, stacklevel=2)
    measured.warn_of_randomness(stacklevel=3)
    return measured.cells


@dataclasses.dataclass
class Measured:
    """What `measure_all` has measured, and what it could not.

    Args:
        cells: List of cells, see `keras_trn.evaluation.Report`.
        not_run: List of dictionaries with `defence`, `threat_model` and `reason`.
        data: The `CheckedData`.
        random_defences: Names of the defences that answer at random and whose results were
            kept in a file.
    """

    cells: list
    not_run: list
    data: CheckedData
    random_defences: list

    def warn_of_randomness(self, stacklevel):
        """Warns where results of a random model may come out of a checkpoint.

        Args:
            stacklevel: As of `warnings.warn`.
        """
        if self.random_defences:
            warnings.warn(
                f"{', '.join(map(repr, self.random_defences))} answers one image at random, now "
                "this way and now that. The checkpoint knows such a model by its weights and "
                "configuration alone, and gives back what one run of it was.",
                UserWarning,
                stacklevel=stacklevel,
            )


def measure_all(defences, dataset, attacks, threat_models, epsilons, checkpoint, verbose):
    """Measures as `measure` does, and tells what could not be measured.

    Args:
        defences: As of `measure`.
        dataset: As of `measure`.
        attacks: As of `measure`.
        threat_models: As of `measure`.
        epsilons: As of `measure`.
        checkpoint: Path of a file, or a `Checkpoint`.
        verbose: As of `measure`.

    Returns:
        A `Measured`.

    Raises:
        ValueError: As of `measure`.
    """
    attacks, epsilons = checked_attacks(attacks), checked_epsilons(epsilons, attacks)
    threat_models = as_threat_models(threat_models)
    image_shape, num_classes = describe_all(defences)
    runs = plan(defences, attacks, threat_models, epsilons)
    data = CheckedData(dataset, image_shape, num_classes)
    check_image_shape(attacks, data.image_shape)
    images, _ = data.first(data.batch_size)
    checkpoint = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
    fingerprints = Fingerprints(tf.constant(images))
    not_run = _not_run(runs, data, checkpoint, fingerprints)
    left_out = {(missing["defence"], missing["threat_model"]) for missing in not_run}
    runs = [run for run in runs if run.place not in left_out]
    cells = _measure_runs(runs, defences, data, checkpoint, fingerprints, verbose)
    random_defences = [
        name for name, defence in defences.items() if defence in fingerprints.random_models
    ]
    return Measured(cells, not_run, data, random_defences if checkpoint.path is not None else [])


def _not_run(runs, data, checkpoint, fingerprints):
    """Lists which threat models cannot be run in full, on which defences and why."""
    images, _ = data.first(PROBED_IMAGES)
    versions = describe_environment()["versions"]
    not_run = []
    for run in {run.place: run for run in runs[1:] if run.threat_model.is_adaptive}.values():
        description = {"map slopes": fingerprints.of(run.attacked), "versions": versions}
        remember = functools.partial(checkpoint.get_or_compute, description)
        reason = unsupported_reason(run.threat_model, run.attacked, images, remember)
        if reason is not None:
            defence, threat_model = run.place
            not_run.append({"defence": defence, "threat_model": threat_model, "reason": reason})
    return not_run


@dataclasses.dataclass
class Run:
    """One attack under one threat model, and the defences that are measured on it."""

    attack: object
    threat_model: object
    epsilon: float | None
    in_epsilon_sweep: bool
    defences: list
    attacked: object

    @functools.cached_property
    def target(self):
        """The function that the attacker attacks."""
        return self.threat_model and self.threat_model.target(self.attacked)

    @property
    def place(self):
        """Where the results stand in the report: the names of a defence and a threat model."""
        return self.defences[0], self.threat_model and self.threat_model.name

    @property
    def title(self):
        """What the progress bar says."""
        if self.attack is None:
            return "benign"
        names = self.defences[0] if self.threat_model.is_adaptive else "all"
        return f"{self.threat_model.name}, {self.attack.name}, {names}"

    def settings(self):
        """Returns what the results show of the run."""
        if self.attack is None:
            return {"attack": "benign", "threat_model": None, "labels": None, "epsilon": 0.0}
        epsilon = self.attack.epsilon if self.epsilon is None else self.epsilon
        config = keras.saving.serialize_keras_object(self.attack)["config"]
        return {
            "attack": self.attack.name,
            "threat_model": self.threat_model.name,
            "labels": self.threat_model.labels,
            "norm": self.attack.norm,
            "epsilon": epsilon,
            "in_epsilon_sweep": self.in_epsilon_sweep,
            "settings": {**config, "epsilon": epsilon},
            "samples": getattr(self.threat_model, "samples", 1),
        }

    def describe(self, defences, fingerprints):
        """Returns all that the results of the run depend on, but for the data.

        Args:
            defences: Dictionary of models, the bare classifier first.
            fingerprints: The `Fingerprints` of models.

        Returns:
            A dictionary that JSON can hold.
        """
        is_model = isinstance(self.target, keras.Model)
        models = [next(iter(defences)), *self.defences]
        return {
            **self.settings(),
            "attack_class": str(type(self.attack)),
            "threat_model": self.threat_model and self.threat_model.get_config(),
            "threat_model_class": str(type(self.threat_model)),
            "defences": self.defences,
            "models": [fingerprints.of(defences[name]) for name in models],
            "target": fingerprints.of(self.target) if is_model else None,
        }


def plan(defences, attacks, threat_models, epsilons):
    """Lists all runs of an evaluation, the benign one first.

    Args:
        defences: Dictionary of models, the bare classifier first.
        attacks: List of attacks, each with one epsilon.
        threat_models: List of threat models.
        epsilons: Further epsilons for the first attack.

    Returns:
        A list of `Run`s.

    Raises:
        ValueError: If a threat model supports none of the attacks, or a table could not tell
            two runs apart.
    """
    runs = [Run(None, None, None, False, list(defences), None)]
    own = attacks[0].epsilon if attacks else None
    other_epsilons = [e for e in epsilons if not math.isclose(e, own, rel_tol=_SAME_EPSILON)]
    for threat_model in threat_models:
        admitted = [attack for attack in attacks if threat_model.supports(attack)]
        if attacks and not admitted:
            names = ", ".join(attack.name for attack in attacks)
            raise ValueError(
                f"The threat model {threat_model.name!r} supports none of the attacks {names}. "
                "`blackbox` needs an attack that only queries, such as `Square`; every other "
                "threat model needs one that takes gradients, such as `ProjectedGradientDescent`."
            )
        for names, attacked in _attacked(threat_model, defences):
            for attack in admitted:
                runs.append(Run(attack, threat_model, None, False, names, attacked))
            if admitted and admitted[0] is attacks[0]:
                for epsilon in other_epsilons:
                    runs.append(Run(attacks[0], threat_model, epsilon, True, names, attacked))
    _check_rows(runs)
    return runs


def _check_rows(runs):
    """Refuses runs that a table could not tell apart."""
    rows = collections.Counter()
    for run in runs[1:]:
        settings = {**run.settings(), "settings": None}
        rows[json.dumps([settings, run.defences])] += 1
    for row, number in rows.items():
        if number > 1:
            settings, defences = json.loads(row)
            raise ValueError(
                f"{number} runs on {', '.join(defences)} would have the same row: "
                f"{settings['attack']} under {settings['threat_model']} at an epsilon of "
                f"{settings['epsilon']}. Leave one out, or give a `Transfer` a `name` of its own."
            )


def _attacked(threat_model, defences):
    """Yields what is attacked, with the names of the defences measured on the images."""
    if not threat_model.is_adaptive:
        yield list(defences), next(iter(defences.values()))
        return
    for name, defence in defences.items():
        if threat_model.applies_to(defence):
            yield [name], defence


# --- Measuring ----------------------------------------------------------------------------


def _measure_runs(runs, defences, data, checkpoint, fingerprints, verbose):
    """The cells of all runs, as far as the checkpoint does not hold them."""
    common = {"versions": describe_environment()["versions"], "data": data.digest}
    meters = {name: _Meter(model, data.image_shape) for name, model in defences.items()}
    bare = next(iter(meters.values()))
    cells = []
    with tqdm(total=len(runs) * data.batches, disable=not verbose, unit="batch") as progress:
        for run in runs:
            progress.set_description(run.title)
            description = {**run.describe(defences, fingerprints), **common}
            if checkpoint.holds(description):
                progress.update(data.batches)
            cells += checkpoint.get_or_compute(
                description, lambda run=run: _measure_run(run, meters, bare, data, progress)
            )
    return cells


def _measure_run(run, meters, bare, data, progress):
    """The cells of one run: one for each defence."""
    started = time.perf_counter()
    measured = {name: [] for name in run.defences}
    for images, labels in data:
        benign_predictions = bare.predict(images)
        attacked, source_labels = images, benign_predictions
        if run.attack is not None:
            is_told = run.threat_model.labels == "true"
            source_labels = labels if is_told else predicted_labels(run.target, images)
            attacked = run.attack(run.target, images, source_labels, run.epsilon)
            _check_adversarial(run, images, attacked)
        for name in run.defences:
            measured[name].append(
                meters[name].measure(images, attacked, labels, benign_predictions, source_labels)
            )
        progress.update()
    seconds = round(time.perf_counter() - started, 2)
    return [
        {"defence": name, **run.settings(), **_summary(measured[name]), "seconds": seconds}
        for name in run.defences
    ]


def _check_adversarial(run, images, attacked):
    """Refuses adversarial images that a row of the table would be wrong about."""
    name, norm, epsilon = run.attack.name, run.attack.norm, run.settings()["epsilon"]
    if attacked.shape != images.shape:
        raise ValueError(
            f"The attack {name} must return images of the shape {tuple(images.shape)} that it was "
            f"given; it returned {tuple(attacked.shape)}."
        )
    pixels, clean = np.asarray(attacked, "float64"), np.asarray(images, "float64")
    moved = (pixels - clean).reshape(len(pixels), -1)
    distances = np.linalg.norm(moved, np.inf if norm == "linf" else 2, axis=-1)
    # A pixel that is no number makes an image count as wrong, and has no distance.
    distance = np.max(distances, where=np.isfinite(distances), initial=0.0)
    low, high = (extreme(pixels[np.isfinite(pixels)], initial=0.5) for extreme in (np.min, np.max))
    tolerance = _ROUNDING_OF_DISTANCES * max(1.0, epsilon)
    if distance > epsilon + tolerance:
        raise ValueError(
            f"The attack {name} leaves the ball of its epsilon: it moves an image by "
            f"{distance:.3g} in the {norm} norm, and its epsilon is {epsilon:.3g}. Write it as "
            "`craft` of a subclass of `keras_trn.attacks.Attack`, which brings images back, and "
            "leave `__call__` as it is."
        )
    if low < -tolerance or high > 1 + tolerance:
        raise ValueError(
            f"The attack {name} leaves the range [0, 1] of images: it returns values from "
            f"{low:.3g} to {high:.3g}. Clip them, `tf.clip_by_value(images, 0.0, 1.0)`."
        )


def _summary(measured):
    """Means over the images of all batches; and for each image whether it was right."""
    columns = {name: np.concatenate([batch[name] for batch in measured]) for name in measured[0]}
    right = columns.pop("correct")
    return {
        "examples": len(right),
        "accuracy": float(right.mean()),
        **{name: _mean(values) for name, values in columns.items()},
        "correct": pack(right),
    }


def _mean(values):
    """The mean; `None`, as JSON has no other word for it, where it is no number."""
    mean = float(values.mean(dtype="float64"))
    return mean if math.isfinite(mean) else None


class _Meter:
    """Measures one defence on one batch, in compiled steps."""

    def __init__(self, defence, image_shape):
        self.defence = defence
        images = tf.TensorSpec((None, *image_shape), tf.float32)
        labels = tf.TensorSpec((None,), tf.int64)
        self.predict = compile_function(self._predict, [images])
        self._measure_graph = compile_function(
            self._measure, [images, images, labels, labels, labels]
        )

    def measure(self, images, attacked, labels, benign_predictions, source_labels):
        """Returns a dictionary of NumPy arrays, one number for each image."""
        measured = self._measure_graph(images, attacked, labels, benign_predictions, source_labels)
        return {name: values.numpy() for name, values in measured.items()}

    def _predict(self, images):
        return _predictions(logits_function(self.defence)(images), images)

    def _measure(self, images, attacked, labels, benign_predictions, source_labels):
        measured = {
            "attacked_psnr": peak_signal_to_noise_ratio(images, attacked),
            "attacked_ssim": structural_similarity(images, attacked),
        }
        if isinstance(self.defence, RestoredClassifier):
            # Only a study of an upper bound sees the labels that the attack leads away from.
            known_labels = source_labels if self.defence.needs_labels else None
            restored = self.defence.restore_batch(attacked, known_labels)
            logits = logits_function(self.defence.classifier)(restored)
            measured["restored_psnr"] = peak_signal_to_noise_ratio(images, restored)
            measured["restored_ssim"] = structural_similarity(images, restored)
        else:
            restored = attacked
            logits = logits_function(self.defence)(attacked)
        predictions = _predictions(logits, restored)
        return {
            "correct": predictions == tf.cast(labels, tf.int64),
            "agreement": predictions == benign_predictions,
            **measured,
        }


def _predictions(logits, classified):
    """The predicted classes; -1, which is never right, where something is no number."""
    is_finite = tf.reduce_all(tf.math.is_finite(logits), axis=-1) & tf.reduce_all(
        tf.math.is_finite(classified), axis=[1, 2, 3]
    )
    return tf.where(is_finite, tf.argmax(logits, axis=-1), -1)
