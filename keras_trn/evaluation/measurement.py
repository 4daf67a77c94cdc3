"""Crafts adversarial images once, and measures every defence on them."""

import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_trn.attacks import Attack
from keras_trn.attacks.norms import distances_between
from keras_trn.attacks.norms import rounding_of_distances
from keras_trn.cluster import Cluster
from keras_trn.cluster import Job
from keras_trn.cluster import as_cluster
from keras_trn.cluster import map_jobs
from keras_trn.evaluation.arguments import checked_attacks
from keras_trn.evaluation.arguments import checked_epsilons
from keras_trn.evaluation.arguments import describe_all
from keras_trn.evaluation.checkpoint import Checkpoint
from keras_trn.evaluation.data import CheckedData
from keras_trn.evaluation.default_threat_models import threat_models_of_each
from keras_trn.evaluation.environment import describe_environment
from keras_trn.evaluation.fingerprints import Fingerprints
from keras_trn.evaluation.map_gradient import PROBED_IMAGES
from keras_trn.evaluation.map_gradient import unsupported_reason
from keras_trn.evaluation.packing import pack
from keras_trn.evaluation.packing import pack_bits
from keras_trn.evaluation.packing import unpack
from keras_trn.evaluation.randomness import unfixed_reason
from keras_trn.evaluation.runs import Cell
from keras_trn.evaluation.runs import Run
from keras_trn.evaluation.runs import missing_run_text
from keras_trn.evaluation.runs import plan_runs
from keras_trn.graphs import compile_function
from keras_trn.logits import logits_function
from keras_trn.logits import predicted_labels
from keras_trn.metrics import peak_signal_to_noise_ratio
from keras_trn.metrics import structural_similarity
from keras_trn.random_states import with_fixed_randomness
from keras_trn.restored_classifier import RestoredClassifier
from keras_trn.threat_models import ThreatModel
from keras_trn.types import ArrayLike
from keras_trn.types import Config
from keras_trn.types import ImageShape
from keras_trn.types import LabelledImages

BARE = "bare"


def measure(
    defences: Mapping[str, keras.Model],
    dataset: LabelledImages,
    attacks: Attack | Iterable[Attack],
    threat_models: ThreatModel | str | Iterable[ThreatModel | str] = ("oblivious",),
    epsilons: ArrayLike | float = (),
    checkpoint: str | Path | None = None,
    cluster: Cluster | str | None = None,
    verbose: int = 1,
) -> list[Cell]:
    """Measures defences under attacks, without sanity checks and without a report.

    For studies that compare many models. Adversarial images that do not depend on the
    defence (`oblivious`, `transfer`) are crafted once, and all defences are measured on
    them. Other images are crafted for each defence.

    Args:
        defences: Keras models from images to logits, by name. The first is the bare
            classifier: oblivious attackers attack it, and `agreement` refers to its
            predictions for the clean images.
        dataset: As in `keras_trn.evaluate`, as are the other arguments.
        attacks: One or several attacks, or none.
        threat_models: One or several threat models, or their names.
        epsilons: Further epsilons at which the first attack is run.
        checkpoint: Path of a file that keeps finished batches and cells.
        cluster: `None` for this process, or the workers as in `keras_trn.evaluate`.
        verbose: 1 for a progress bar, 0 for none.

    Returns:
        A list of cells, see `keras_trn.evaluation.Report`. If `whitebox_full` cannot be
        run in full on a defence, its cells are left out, with a warning.

    Raises:
        ValueError: If the data are malformed or do not keep their order, an attack or threat
            model does not fit, or an attack leaves the ball of its epsilon.
        TypeError: If the config of an attack lacks some of its settings.

    Example:
        ```python
        attack = keras_trn.attacks.FastGradientMethod(epsilon=0.2)
        defences = {"bare": classifier}
        cells = keras_trn.evaluation.measure(defences, (images, labels), attack, verbose=0)
        assert [cell["attack"] for cell in cells] == ["benign", "FGSM"]
        ```
    """
    measured = measure_all(
        defences,
        dataset,
        attacks,
        threat_models,
        epsilons,
        Checkpoint(checkpoint),
        cluster,
        verbose,
    )
    for missing in measured.not_run:
        warnings.warn(f"Not run: {missing_run_text(missing)}", UserWarning, stacklevel=2)
    measured.warn_of_randomness(stacklevel=3)
    return measured.cells


@dataclasses.dataclass
class Measurements:
    """Holds what `measure_all` measured, and what it could not."""

    cells: list[Cell]
    runs: list[Run]
    not_run: list[dict[str, Any]]
    data: CheckedData
    random_defences: list[str]
    # The threat models of each defence, by its name.
    threat_models: dict[str, list[ThreatModel]]

    def warn_of_randomness(self, stacklevel: int) -> None:
        """Warns that a checkpoint holds results of random models."""
        if self.random_defences:
            warnings.warn(
                f"{', '.join(map(repr, self.random_defences))} answers one image at random. "
                "The checkpoint identifies such a model by its weights and configuration alone, "
                "and returns the results of its first run.",
                UserWarning,
                stacklevel=stacklevel,
            )


def measure_all(
    defences: Mapping[str, keras.Model],
    dataset: LabelledImages,
    attacks: Attack | Iterable[Attack],
    threat_models: ThreatModel | str | Iterable[ThreatModel | str] | None,
    epsilons: ArrayLike | float,
    checkpoint: Checkpoint,
    cluster: Cluster | str | None,
    verbose: int,
) -> Measurements:
    """Measures as `measure` does, and also returns what could not be measured.

    Without threat models, each defence gets its default ones.
    """
    workers = as_cluster(cluster)
    attacks = checked_attacks(attacks)
    epsilons = checked_epsilons(epsilons, attacks)
    image_shape, num_classes = describe_all(defences)
    data = CheckedData(dataset, image_shape, num_classes)
    for attack in attacks:
        attack.check_image_shape(data.image_shape)
    fingerprints = Fingerprints(tf.constant(data.first(data.batch_size)[0]))
    of_each = threat_models_of_each(defences, threat_models, attacks, fingerprints)
    runs = plan_runs(defences, attacks, of_each, epsilons)
    not_run = _find_missing_runs(runs, data, checkpoint, fingerprints)
    left_out = {(missing["defence"], missing["threat_model"]) for missing in not_run}
    runs = [run for run in runs if run.first_defence_and_threat_model not in left_out]
    cells = _measure_runs(runs, defences, data, checkpoint, fingerprints, workers, verbose)
    random_defences = [
        name
        for name, defence in defences.items()
        if defence in fingerprints.random_models and checkpoint.path is not None
    ]
    return Measurements(cells, runs, not_run, data, random_defences, of_each)


def _find_missing_runs(
    runs: list[Run], data: CheckedData, checkpoint: Checkpoint, fingerprints: Fingerprints
) -> list[dict[str, Any]]:
    """Lists which threat models cannot be run in full, on which defences and why."""
    images, _ = data.first(PROBED_IMAGES)
    versions = describe_environment()["versions"]
    adaptive = {
        run.first_defence_and_threat_model: (run, run.threat_model)
        for run in runs
        if run.threat_model and run.threat_model.is_adaptive
    }
    not_run = []
    for run, threat_model in adaptive.values():
        description = {"map slopes": fingerprints.of(run.attacked), "versions": versions}
        remember = functools.partial(checkpoint.get_or_compute, description)
        reason = unsupported_reason(threat_model, run.attacked, images, remember)
        reason = reason or unfixed_reason(threat_model, run.attacked, images)
        if reason is not None:
            defence, name = run.first_defence_and_threat_model
            not_run.append({"defence": defence, "threat_model": name, "reason": reason})
    return not_run


def _measure_runs(
    runs: list[Run],
    defences: Mapping[str, keras.Model],
    data: CheckedData,
    checkpoint: Checkpoint,
    fingerprints: Fingerprints,
    cluster: Cluster | None,
    verbose: int,
) -> list[Cell]:
    """Returns the cells of all runs; measures those that the checkpoint does not hold."""
    common = {"versions": describe_environment()["versions"], "data": data.digest}
    plans = [
        _Plan(run, {**run.dependencies(defences, fingerprints), **common}, data.batches, checkpoint)
        for run in runs
    ]
    measure = _BatchMeasurement(runs, defences, data.image_shape)
    with tqdm(total=len(runs) * data.batches, disable=not verbose, unit="batch") as progress:
        progress.update(sum(data.batches - len(plan.missing) for plan in plans))
        for plan in plans:
            plan.finish_if_complete()
        for (index, number), measured in map_jobs(measure, _jobs(plans, data), cluster):
            plans[index].keep(number, measured)
            progress.set_description(runs[index].title)
            progress.update()
    return [cell for plan in plans for cell in checkpoint.get(plan.dependencies)]


class _Plan:
    """Collects the measured batches of one run, so that a killed run continues with the rest."""

    def __init__(
        self, run: Run, dependencies: Config, batches: int, checkpoint: Checkpoint
    ) -> None:
        self.run = run
        self.dependencies = dependencies
        self._parts = [{**dependencies, "batch": number} for number in range(batches)]
        self._checkpoint = checkpoint
        is_finished = checkpoint.holds(dependencies)
        self.missing = {
            number
            for number, part in enumerate(self._parts)
            if not is_finished and not checkpoint.holds(part)
        }

    def keep(self, number: int, measured: dict[str, Any]) -> None:
        """Keeps what was measured of a batch."""
        self._checkpoint.keep(self._parts[number], measured)
        self.missing.remove(number)
        self.finish_if_complete()

    def finish_if_complete(self) -> None:
        """Puts the cells together, one for each defence, once all batches are measured."""
        if self.missing:
            return
        self._checkpoint.get_or_compute(self.dependencies, self._make_cells)
        self._checkpoint.forget(self._parts)

    def _make_cells(self) -> list[Cell]:
        batches = [self._checkpoint.get(part) for part in self._parts]
        run, cells = self.run, []
        for name in run.defences:
            columns = [
                {key: unpack(text) for key, text in batch["defences"][name].items()}
                for batch in batches
            ]
            cell = {"defence": name, **run.cell_settings(), **_summarize(columns)}
            if run.threat_model is not None and run.threat_model.is_adaptive:
                for kind in ("forward_passes", "backward_passes"):
                    total = sum(batch[kind] for batch in batches)
                    cell[kind] = round(total / cell["examples"], 2)
            cell["seconds"] = round(sum(batch["seconds"] for batch in batches), 2)
            cells.append(cell)
        return cells


def _jobs(plans: list[_Plan], data: CheckedData) -> Iterator[Job]:
    """Yields the batches that are still to be measured, run by run."""
    for index, plan in enumerate(plans):
        missing = frozenset(plan.missing)
        if missing:
            for number, (images, labels) in enumerate(data):
                if number in missing:
                    yield Job((index, number), (index, images, labels))


class _BatchMeasurement:
    """Crafts the adversarial images of a batch, and measures the defences on them.

    It is copied to the workers of a cluster before it is called.
    """

    def __init__(
        self, runs: list[Run], defences: Mapping[str, keras.Model], image_shape: ImageShape
    ) -> None:
        self._runs = runs
        self._defences = dict(defences)
        self._image_shape = image_shape

    @functools.cached_property
    def _meters(self) -> dict[bool, dict[str, "_Meter"]]:
        """The meters by whether they fix the randomness, and by the defence."""
        return {
            fixes: {
                name: _Meter(model, self._image_shape, fixes)
                for name, model in self._defences.items()
            }
            for fixes in (False, True)
        }

    def __call__(self, index: int, images: tf.Tensor, labels: tf.Tensor) -> dict[str, Any]:
        """Returns what was measured of one batch by one of the runs, as JSON can hold it."""
        run = self._runs[index]
        return _measure_batch(run, self._meters[run.fixes_randomness], images, labels)


def _measure_batch(
    run: Run, meters: dict[str, "_Meter"], images: tf.Tensor, labels: tf.Tensor
) -> dict[str, Any]:
    """Returns what was measured of one batch, as JSON can hold it."""
    started = time.perf_counter()
    bare = next(iter(meters.values()))
    benign_predictions = bare.predict(images)
    adversarial, attacked_labels = images, benign_predictions
    passes_before = run.counted_target.passes
    if run.attack is not None and run.threat_model is not None:
        knows_labels = run.threat_model.labels == "true"
        attacked_labels = labels if knows_labels else predicted_labels(run.target, images)
        adversarial = run.craft(images, attacked_labels)
        _check_adversarial(run.attack, run.epsilon, images, adversarial)
    forward, backward = np.subtract(run.counted_target.passes, passes_before).tolist()
    measured = {}
    for name in run.defences:
        columns = meters[name].measure(
            images, adversarial, labels, benign_predictions, attacked_labels
        )
        measured[name] = {key: pack(values) for key, values in columns.items()}
    return {
        "defences": measured,
        "forward_passes": forward,
        "backward_passes": backward,
        "seconds": time.perf_counter() - started,
    }


def _check_adversarial(
    attack: Attack, epsilon: float, images: tf.Tensor, adversarial: tf.Tensor
) -> None:
    """Refuses adversarial images outside of the ball or of [0, 1]: their row would be wrong."""
    if adversarial.shape != images.shape:
        raise ValueError(
            f"The attack {attack.name} must return images of the shape {tuple(images.shape)} that "
            f"it was given; it returned {tuple(adversarial.shape)}."
        )
    pixels = np.asarray(adversarial, "float64")
    distances = distances_between(pixels, images, attack.norm)
    # An image with a pixel that is not finite counts as incorrect, and has no distance.
    distance = np.max(distances, where=np.isfinite(distances), initial=0.0)
    low, high = (extreme(pixels[np.isfinite(pixels)], initial=0.5) for extreme in (np.min, np.max))
    tolerance = rounding_of_distances(epsilon)
    if distance > epsilon + tolerance:
        raise ValueError(
            f"The attack {attack.name} leaves the ball of its epsilon: it moves an image by "
            f"{distance:.3g} in the {attack.norm} norm, and its epsilon is {epsilon:.3g}. Write "
            "it as `craft` of a subclass of `keras_trn.attacks.Attack`, which projects images "
            "into the ball, and do not override `__call__`."
        )
    if low < -tolerance or high > 1 + tolerance:
        raise ValueError(
            f"The attack {attack.name} leaves the range [0, 1] of images: it returns values from "
            f"{low:.3g} to {high:.3g}. Clip them, `tf.clip_by_value(images, 0.0, 1.0)`."
        )


def _summarize(batches: list[dict[str, np.ndarray]]) -> Cell:
    """Returns the means over all images, and whether each was classified correctly."""
    columns = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    correct = columns.pop("correct")
    return {
        "examples": len(correct),
        "accuracy": float(correct.mean()),
        **{name: _finite_mean(values) for name, values in columns.items()},
        "correct": pack_bits(correct),
    }


def _finite_mean(values: np.ndarray) -> float | None:
    mean = float(values.mean(dtype="float64"))
    # JSON has no NaN.
    return mean if math.isfinite(mean) else None


class _Meter:
    """Measures one defence on one batch, in compiled steps."""

    def __init__(
        self, defence: keras.Model, image_shape: ImageShape, fixes_randomness: bool
    ) -> None:
        self.defence = defence
        measure = self._measure
        if fixes_randomness:
            measure = with_fixed_randomness(defence, measure)
        images = tf.TensorSpec((None, *image_shape), tf.float32)
        labels = tf.TensorSpec((None,), tf.int64)
        self.predict = compile_function(self._predict, [images])
        self._measure_graph = compile_function(measure, [images, images, labels, labels, labels])

    def measure(self, *batch: tf.Tensor) -> dict[str, np.ndarray]:
        """Returns arrays with one number for each image; takes the arguments of `_measure`."""
        return {name: values.numpy() for name, values in self._measure_graph(*batch).items()}

    def _predict(self, images: tf.Tensor) -> tf.Tensor:
        return _finite_predictions(logits_function(self.defence)(images), images)

    def _measure(
        self,
        images: tf.Tensor,
        adversarial: tf.Tensor,
        labels: tf.Tensor,
        benign_predictions: tf.Tensor,
        attacked_labels: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        shown = {"attacked": adversarial}
        classifier, classified = self.defence, adversarial
        if isinstance(self.defence, RestoredClassifier):
            # Only a study of an upper bound is told the labels that the attack starts from.
            known_labels = attacked_labels if self.defence.needs_labels else None
            shown["restored"] = self.defence.restore_batch(adversarial, known_labels)
            # A subclass with another `call` need not answer as the classifier on this image.
            if type(self.defence).call is RestoredClassifier.call:
                classifier, classified = self.defence.classifier, shown["restored"]
        predictions = _finite_predictions(logits_function(classifier)(classified), classified)
        return {
            "correct": predictions == labels,
            "agreement": predictions == benign_predictions,
            **{f"{name}_psnr": peak_signal_to_noise_ratio(images, x) for name, x in shown.items()},
            **{f"{name}_ssim": structural_similarity(images, x) for name, x in shown.items()},
        }


def _finite_predictions(logits: tf.Tensor, classified: tf.Tensor) -> tf.Tensor:
    """Returns the predicted classes; -1 where an image or its logits are not finite."""
    is_finite = tf.reduce_all(tf.math.is_finite(logits), axis=-1) & tf.reduce_all(
        tf.math.is_finite(classified), axis=[1, 2, 3]
    )
    return tf.where(is_finite, tf.argmax(logits, axis=-1), -1)
