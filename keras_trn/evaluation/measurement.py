"""Crafts adversarial images once, and measures every defence on them."""

import collections
import dataclasses
import hashlib
import json
import math
import time

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_trn import threat_models as known_threat_models
from keras_trn.attacks import Mixture
from keras_trn.evaluation.backup import Backup
from keras_trn.evaluation.backup import fingerprint
from keras_trn.evaluation.environment import describe_environment
from keras_trn.evaluation.examples import pack
from keras_trn.graphs import compile_function
from keras_trn.logits import logits_function
from keras_trn.logits import predicted_labels
from keras_trn.metrics import peak_signal_to_noise_ratio
from keras_trn.metrics import structural_similarity
from keras_trn.restored_classifier import RestoredClassifier

BARE = "bare"


def measure(
    defences, dataset, attacks, threat_models=("oblivious",), epsilons=(), backup=None, verbose=1
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
            same in the same order whenever it is run through.
        attacks: List of attacks of `keras_trn.attacks`.
        threat_models: List of `keras_trn.threat_models`, or their names.
        epsilons: Further epsilons at which the first attack is run.
        backup: Path of a file that keeps finished cells, see `keras_trn.evaluate`.
        verbose: 1 for a progress bar, 0 for none.

    Returns:
        A list of dictionaries, see `keras_trn.evaluation.Report`.

    Raises:
        ValueError: If the dataset does not keep its order, or an attack or threat
            model does not fit.

    Example:
        ```python
        import keras
        import keras_trn

        classifier = keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
        )
        train, validation, test = keras_trn.datasets.load("digits")
        attack = keras_trn.attacks.FastGradientMethod(epsilon=0.2)
        cells = keras_trn.evaluation.measure(
            {"bare": classifier}, test.take(1), [attack], verbose=0
        )
        assert [cell["attack"] for cell in cells] == ["benign", "FGSM"]
        ```
    """
    check_dataset(dataset)
    threat_models = [known_threat_models.get(threat_model) for threat_model in threat_models]
    runs = plan(defences, attacks, threat_models, epsilons)
    data = _Data(dataset)
    images = data.first_images
    fingerprints = {name: fingerprint(model, images) for name, model in defences.items()}
    judges = {name: _Judge(model, images.shape[1:]) for name, model in defences.items()}
    bare = next(iter(judges.values()))
    backup = backup if isinstance(backup, Backup) else Backup(backup)
    versions = describe_environment()["versions"]
    cells = []
    with tqdm(total=len(runs) * data.batches, disable=not verbose, unit="batch") as progress:
        for run in runs:
            progress.set_description(run.title)
            description = {
                **run.settings(),
                "attack_class": str(type(run.attack)),
                "threat_model": run.threat_model and run.threat_model.get_config(),
                "threat_model_class": str(type(run.threat_model)),
                "defences": run.defences,
                "versions": versions,
                "data": data.digest,
                "models": [fingerprints[name] for name in [next(iter(judges)), *run.defences]],
                "target": run.target_fingerprint(images),
            }
            if backup.holds(description):
                progress.update(data.batches)
            cells += backup.get_or_compute(
                description, lambda run=run: _measure_run(run, judges, bare, data, progress)
            )
    return cells


def check_dataset(dataset):
    """Checks that data are a pipeline, which can be run through again and again.

    Args:
        dataset: What was given as data.

    Raises:
        ValueError: If it is not a `tf.data.Dataset`.
    """
    if not isinstance(dataset, tf.data.Dataset):
        raise ValueError(
            "The data must be a `tf.data.Dataset` of batches of images and labels, received "
            f"{type(dataset).__name__}. For arrays: "
            "`tf.data.Dataset.from_tensor_slices((images, labels)).batch(128)`."
        )


@dataclasses.dataclass
class Run:
    """One attack under one threat model, and the defences that are measured on it."""

    attack: object
    threat_model: object
    epsilon: float | None
    on_curve: bool
    defences: list
    target: object

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
            "on_curve": self.on_curve,
            "settings": {**config, "epsilon": epsilon},
            "samples": getattr(self.threat_model, "samples", 1),
        }

    def target_fingerprint(self, images):
        """Digests what is attacked, where it is none of the defences."""
        if isinstance(self.target, keras.Model):
            return fingerprint(self.target, images)
        return None


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
        ValueError: If an attack has no single epsilon, or a threat model admits
            none of the attacks.
    """
    for attack in attacks:
        if isinstance(attack, Mixture):
            raise ValueError(
                "A mixture gives each image another attack, and its accuracy is that of none of "
                f"them. List its attacks instead: `attacks={attack.attacks!r}`."
            )
        if isinstance(attack.epsilon, tuple):
            raise ValueError(
                f"{attack.name} draws its epsilon from {attack.epsilon}, and a result needs one "
                "epsilon that it is for. Use `attack.at_full_strength()`."
            )
    runs = [Run(None, None, None, False, list(defences), None)]
    for threat_model in threat_models:
        admitted = [attack for attack in attacks if threat_model.admits(attack)]
        if attacks and not admitted:
            names = ", ".join(attack.name for attack in attacks)
            raise ValueError(
                f"The threat model {threat_model.name!r} admits none of the attacks {names}. "
                "`blackbox` needs an attack that only queries, such as `Square`; every other "
                "threat model needs one that takes gradients, such as `ProjectedGradientDescent`."
            )
        for names, target in _targets(threat_model, defences):
            for attack in admitted:
                runs.append(Run(attack, threat_model, None, False, names, target))
            if admitted and admitted[0] is attacks[0]:
                for epsilon in epsilons:
                    if epsilon != attacks[0].epsilon:
                        runs.append(Run(attacks[0], threat_model, epsilon, True, names, target))
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


def _targets(threat_model, defences):
    """Yields what is attacked, with the names of the defences measured on the images."""
    bare = next(iter(defences.values()))
    if not threat_model.is_adaptive:
        yield list(defences), threat_model.target(bare)
        return
    for name, defence in defences.items():
        if threat_model.applies_to(defence):
            yield [name], threat_model.target(defence)


def _measure_run(run, judges, bare, data, progress):
    """The cells of one run: one for each defence."""
    started = time.perf_counter()
    measured = {name: [] for name in run.defences}
    for images, labels in data:
        benign_predictions = bare.predict(images)
        attacked, left_labels = images, benign_predictions
        if run.attack is not None:
            is_told = run.threat_model.labels == "true"
            left_labels = labels if is_told else predicted_labels(run.target, images)
            attacked = run.attack(run.target, images, left_labels, run.epsilon)
        for name in run.defences:
            measured[name].append(
                judges[name].measure(images, attacked, labels, benign_predictions, left_labels)
            )
        progress.update()
    seconds = round(time.perf_counter() - started, 2)
    return [
        {"defence": name, **run.settings(), **_summary(measured[name]), "seconds": seconds}
        for name in run.defences
    ]


def _summary(measured):
    """Means over the images of all batches; and for each image whether it was right."""
    columns = {name: np.concatenate([batch[name] for batch in measured]) for name in measured[0]}
    right = columns.pop("right")
    return {
        "examples": len(right),
        "accuracy": float(right.mean()),
        **{name: _mean(values) for name, values in columns.items()},
        "right": pack(right),
    }


def _mean(values):
    """The mean; `None`, as JSON has no other word for it, where it is no number."""
    mean = float(values.mean(dtype="float64"))
    return mean if math.isfinite(mean) else None


class _Judge:
    """Measures one defence on one batch, in compiled steps."""

    def __init__(self, defence, image_shape):
        self.defence = defence
        images = tf.TensorSpec((None, *image_shape), tf.float32)
        labels = tf.TensorSpec((None,), tf.int64)
        self.predict = compile_function(self._predict, [images])
        self._measure_graph = compile_function(
            self._measure, [images, images, labels, labels, labels]
        )

    def measure(self, images, attacked, labels, benign_predictions, left_labels):
        """Returns a dictionary of NumPy arrays, one number for each image."""
        measured = self._measure_graph(images, attacked, labels, benign_predictions, left_labels)
        return {name: values.numpy() for name, values in measured.items()}

    def _predict(self, images):
        return _predictions(logits_function(self.defence)(images), images)

    def _measure(self, images, attacked, labels, benign_predictions, left_labels):
        measured = {
            "attacked_psnr": peak_signal_to_noise_ratio(images, attacked),
            "attacked_ssim": structural_similarity(images, attacked),
        }
        if isinstance(self.defence, RestoredClassifier):
            # Only a study of an upper bound sees the labels that the attack leads away from.
            known_labels = left_labels if self.defence.needs_labels else None
            restored = self.defence.restorations(attacked, known_labels)
            logits = logits_function(self.defence.classifier)(restored)
            measured["restored_psnr"] = peak_signal_to_noise_ratio(images, restored)
            measured["restored_ssim"] = structural_similarity(images, restored)
        else:
            restored = attacked
            logits = logits_function(self.defence)(attacked)
        predictions = _predictions(logits, restored)
        return {
            "right": predictions == tf.cast(labels, tf.int64),
            "agreement": predictions == benign_predictions,
            **measured,
        }


def _predictions(logits, classified):
    """The predicted classes; -1, which is never right, where something is no number."""
    is_finite = tf.reduce_all(tf.math.is_finite(logits), axis=-1) & tf.reduce_all(
        tf.math.is_finite(classified), axis=[1, 2, 3]
    )
    return tf.where(is_finite, tf.argmax(logits, axis=-1), -1)


class _Data:
    """A dataset that is run through again and again, and has to be the same each time."""

    def __init__(self, dataset):
        self.dataset = dataset
        digest = hashlib.sha256()
        self.batch_digests = []
        for images, labels in dataset:
            if not self.batch_digests:
                self.first_images = tf.cast(images, tf.float32)
            digest.update(images.numpy().tobytes() + labels.numpy().tobytes())
            self.batch_digests.append(digest.hexdigest())
        self.batches = len(self.batch_digests)
        self.digest = digest.hexdigest()

    def __iter__(self):
        digest = hashlib.sha256()
        for (images, labels), expected in zip(self.dataset, self.batch_digests, strict=True):
            digest.update(images.numpy().tobytes() + labels.numpy().tobytes())
            if digest.hexdigest() != expected:
                raise ValueError(
                    "The dataset comes in another order each time, so that the results of one "
                    "image under several attacks cannot be put together. Shuffle it with "
                    "`reshuffle_each_iteration=False`, or not at all."
                )
            yield tf.cast(images, tf.float32), tf.cast(tf.reshape(labels, [-1]), tf.int64)
