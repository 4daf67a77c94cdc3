"""Holds the subject of all checks: a defence, images, attacks, and shared runs."""

import math
from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from cleverhans.tf2.utils import optimize_linear

from keras_trn import threat_models as known_threat_models
from keras_trn.attacks import Attack
from keras_trn.attacks import ProjectedGradientDescent
from keras_trn.attacks import Square
from keras_trn.attacks.norms import order_of
from keras_trn.attacks.number_of_steps import craft_after_steps
from keras_trn.evaluation.arguments import checked_attacks
from keras_trn.evaluation.checks.sampling import random_corners
from keras_trn.evaluation.checks.sampling import random_inside
from keras_trn.evaluation.map_gradient import MapSlopes
from keras_trn.evaluation.map_gradient import measure_once
from keras_trn.evaluation.map_gradient import unsupported_reason
from keras_trn.evaluation.passes import counted
from keras_trn.evaluation.randomness import ROUNDING_OF_LOGITS
from keras_trn.evaluation.randomness import largest_distance
from keras_trn.evaluation.randomness import repeated_logits
from keras_trn.graphs import GraphCache
from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_images
from keras_trn.input_validation import check_labels
from keras_trn.input_validation import check_whole_number
from keras_trn.logits import cross_entropy_direction
from keras_trn.logits import logits_function
from keras_trn.restored_classifier import RestoredClassifier
from keras_trn.threat_models import ThreatModel
from keras_trn.types import ArrayLike
from keras_trn.types import Classifier

# Checks stop an attack after these fractions of its steps.
_STAGES = (0.25, 0.5, 0.75)
# Multiples of epsilon at which to run the main attack, and other attacks.
_MAIN_EPSILONS = [0.25, 0.5, 1.0, 2.0]
_OTHER_EPSILONS = [0.5, 1.0]
# The threat models that attack a part of a restored classifier; the first is its classifier.
_PARTS = ("oblivious", "transfer_from_estimator", "transfer_without_map")
# The rounding error of a difference of two shares.
_ROUNDING_OF_SHARES = 1e-9


class UnsupportedThreatModelError(ValueError):
    """Tells why a check that needs `whitebox_full` cannot be made."""


class Examination:
    """Holds a defence, labelled images and the attacks of a report, for all checks.

    It remembers runs, so that checks share their cost, and repeats them after a layer of the
    defence has changed. An image that is misclassified without any attack, or whose logits are
    not finite, counts as misclassified under every attack.

    The main attack is the first attack that follows gradients in many steps, without its
    restarts. If there is none, it is PGD with the epsilon of the first attack.

    Args:
        defence: A Keras model from images to logits: a plain classifier, or a
            `keras_trn.RestoredClassifier`.
        images: Clean images of shape `(number, height, width, channels)` in [0, 1]; a hundred
            are enough.
        labels: Their class indices, of shape `(number,)`.
        attacks: The attacks, or one attack, each with a single epsilon.
        threat_models: The threat models of the report, or their names. The checks use their
            numbers of samples.
        queries: Number of queries per image for the attack without gradients and for the random
            search.
        seed: Fixes all randomness, except in attacks that have their own seed.

    Raises:
        ValueError: If images, labels or attacks are malformed.

    Example:
        ```python
        from keras_trn.evaluation import checks

        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=4)
        examination = checks.Examination(classifier, images, labels, attack)
        assert examination.correct("whitebox_full").shape == (8,)
        ```
    """

    def __init__(
        self,
        defence: keras.Model,
        images: ArrayLike,
        labels: ArrayLike,
        attacks: Attack | Sequence[Attack],
        threat_models: Sequence[str | ThreatModel] = (),
        queries: int = 100,
        seed: int = 0,
    ) -> None:
        images = check_images(images)
        self.defence = defence
        self.is_restored = isinstance(defence, RestoredClassifier)
        self.classifier = defence.classifier if self.is_restored else defence
        self.images = tf.cast(images, tf.float32)
        num_classes = logits_function(defence)(self.images[:1]).shape[-1]
        check_labels(labels, num_classes, batch_size=len(images))
        self.labels = np.reshape(labels, -1).astype("int64")
        self.queries = check_count("queries", queries)
        self.seed = check_whole_number("seed", seed, 0, np.iinfo(np.int32).max)
        # Keeps the attacks of a report, which have a seed, together with their traced graphs.
        given = checked_attacks(attacks)
        seeded = [a if a.seed is not None else a.with_seed(self.seed) for a in given]
        self.attack = main_attack(seeded, self.seed)
        self.other_attacks = [attack for attack in seeded if attack is not self.attack]
        reported = [known_threat_models.get(threat_model) for threat_model in threat_models]
        self.threat_models = {model.name: model for model in reported if model.labels == "true"}
        self._other_threat_models: dict[str, ThreatModel] = {}
        self._graphs = GraphCache()

    # --- Models ---------------------------------------------------------------------------

    def logits(self, images: tf.Tensor, model: Classifier | None = None) -> np.ndarray:
        """Returns the logits of a model, by default of the defence, as an array."""
        return self.graph(self.defence if model is None else model)(images).numpy()

    def graph(self, model: Classifier) -> Any:
        """Compiles a model, or a function of images, once for any number of images."""
        return self._graphs.get("logits", model, lambda: logits_function(model), [self._signature])

    def target(self, threat_model: str) -> Classifier:
        """Returns the target of an attacker, given the name of the threat model.

        Raises:
            UnsupportedThreatModelError: If `whitebox_full` cannot be run in full.
        """
        if threat_model == "whitebox_full" and self.unsupported_reason is not None:
            raise UnsupportedThreatModelError(
                f"`whitebox_full` cannot be run on this defence, because {self.unsupported_reason}."
            )
        model = self._threat_model(threat_model)
        target = model.target(self.defence)
        # The report has traced the graphs of counted targets already.
        return counted(target) if model.is_adaptive else target

    def gradients(
        self, images: tf.Tensor, direction: Callable[[tf.Tensor], tf.Tensor]
    ) -> tf.Tensor:
        """Returns the gradient of `sum(logits * direction)` under `whitebox_full`."""
        target = self.target("whitebox_full")

        def gradient(images: tf.Tensor, direction: tf.Tensor) -> tf.Tensor:
            return logits_function(target).with_vjp(images)[1](direction)

        signature = [self._signature, tf.TensorSpec((None, None), tf.float32)]
        compiled = self._graphs.get("gradient", target, lambda: gradient, signature)
        return compiled(images, direction(self.graph(target)(images)))

    @property
    def parts(self) -> list[str]:
        """Returns the names of the threat models that attack only a part of the defence."""
        applying = [name for name in _PARTS if self._threat_model(name).applies_to(self.defence)]
        return applying if self.is_restored else []

    @property
    def map_slopes(self) -> MapSlopes | None:
        """Returns the measured slopes of the gradient map; `None` without a map to measure."""
        return measure_once(self._threat_model("whitebox_full"), self.defence, self.images)

    @property
    def unsupported_reason(self) -> str | None:
        """Tells why `whitebox_full` cannot run in full, without a full stop; `None` if it can."""
        return unsupported_reason(self._threat_model("whitebox_full"), self.defence, self.images)

    @property
    def runs(self) -> list[np.ndarray]:
        """Returns the logits of the same images from several runs."""
        return self._remember("runs", lambda: repeated_logits(self.defence, self.images))

    @property
    def is_random(self) -> bool:
        """Tells whether the defence gives the same images different answers."""
        accuracies = {int((run.argmax(axis=-1) == self.labels).sum()) for run in self.runs}
        return largest_distance(self.runs) > ROUNDING_OF_LOGITS or len(accuracies) > 1

    # --- Attacks --------------------------------------------------------------------------

    def adversarial(
        self, threat_model: str, attack: Attack | None = None, epsilon: float | None = None
    ) -> tf.Tensor:
        """Crafts adversarial images, only once for the same arguments.

        Args:
            threat_model: The name of a threat model.
            attack: By default the main attack.
            epsilon: By default the attack's epsilon.
        """
        attack = self.attack if attack is None else attack
        epsilon = attack.epsilon if epsilon is None else epsilon
        return self._remember(
            ("adversarial", threat_model, attack, epsilon),
            lambda: attack(self.target(threat_model), self.images, self.labels, epsilon),
        )

    def stages(self, attack: Any) -> list[tf.Tensor]:
        """Returns the images of an attack that `can_be_stopped` after each quarter of its steps."""
        # The length of a step must not depend on the number of steps.
        step_size = float(attack.step_size(1.0))
        steps = sorted({math.ceil(part * attack.steps) for part in _STAGES} - {attack.steps})
        stopped = [self._after_steps(attack, number, step_size) for number in steps]
        return [*stopped, self.adversarial("whitebox_full", attack)]

    def with_twice_the_steps(self, attack: Any) -> tf.Tensor:
        """Returns the images of an attack that `can_be_stopped` after twice as many steps."""
        steps = 2 * attack.steps
        step_size = float(attack.variant(steps=steps).step_size(1.0))
        return self._after_steps(attack, steps, step_size)

    def one_step(
        self, attack: Attack, images: tf.Tensor | None = None, labels: ArrayLike | None = None
    ) -> tf.Tensor:
        """Takes one step of an attack's epsilon along the gradient of the loss (FGSM)."""
        images = self.images if images is None else images
        labels = self.labels if labels is None else labels

        def direction(logits: tf.Tensor) -> tf.Tensor:
            return cross_entropy_direction(logits, tf.one_hot(labels, logits.shape[-1]))

        gradient = self.gradients(images, direction)
        step = optimize_linear(gradient, attack.epsilon, order_of(attack.norm))
        return tf.clip_by_value(images + step, 0.0, 1.0)

    @property
    def query_attack(self) -> Attack | None:
        """Returns `Square`, an attack without gradients, if it supports the main attack's norm."""
        return self._remember("query attack", self._make_query_attack)

    def epsilons(self, attack: Attack) -> list[float]:
        """Returns the rising epsilons at which checks run an attack."""
        multiples = _MAIN_EPSILONS if attack is self.attack else _OTHER_EPSILONS
        # A search for the smallest perturbation is expensive, and the same at any epsilon.
        multiples = [1.0] if attack.minimal_norm else multiples
        largest = self.unbounded_epsilon(attack)
        return sorted({min(multiple * attack.epsilon, largest) for multiple in multiples})

    def unbounded_epsilon(self, attack: Attack) -> float:
        """Returns the largest possible distance between two images."""
        return math.prod(self.images.shape[1:]) ** (1 / order_of(attack.norm))

    # --- Answers --------------------------------------------------------------------------

    def correct(
        self, threat_model: str, attack: Attack | None = None, epsilon: float | None = None
    ) -> np.ndarray:
        """Tells which images are classified correctly, both clean and under an attack.

        Takes the arguments of `adversarial`, and returns a boolean array of shape `(number,)`.
        """
        return self.withstands(self.adversarial(threat_model, attack, epsilon))

    def withstands(self, adversarial: tf.Tensor) -> np.ndarray:
        """Tells which images are classified correctly, both clean and perturbed."""
        return self.correct_without_attack & self.classified_correctly(adversarial)

    def correct_under_gradients(self, epsilon: float | None = None) -> np.ndarray:
        """Tells which images withstand `whitebox_full` and, with a restoration, `bpda`."""
        correct = self.correct("whitebox_full", epsilon=epsilon)
        return correct & self.correct("bpda", epsilon=epsilon) if self.is_restored else correct

    def correct_under_noise(self) -> np.ndarray:
        """Tells which images withstand the worst of many random perturbations."""
        return self._remember("noise", self._search_at_random)

    @property
    def correct_without_attack(self) -> np.ndarray:
        """Tells which clean images the defence classifies correctly."""
        return self._remember("clean", lambda: self.classified_correctly(self.images))

    @property
    def bare_correct(self) -> np.ndarray:
        """Tells which images the bare classifier classifies correctly, clean and attacked."""
        adversarial = self.adversarial("oblivious" if self.is_restored else "whitebox_full")
        clean = self.classified_correctly(self.images, self.classifier)
        return clean & self.classified_correctly(adversarial, self.classifier)

    def classified_correctly(
        self, images: tf.Tensor, model: Classifier | None = None
    ) -> np.ndarray:
        """Tells which images, in the order of the labels, a model classifies correctly."""
        return self._are_correct(self.logits(images, model))

    def losses(self, images: tf.Tensor) -> np.ndarray:
        """Returns the defence's cross-entropy for each image, in the order of the labels."""
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(self.labels, self.logits(images))
        return losses.numpy()

    def tolerance(self, share: float) -> float:
        """Rounds a tolerated share of the images up to one image."""
        return max(share, 1 / len(self.labels)) + _ROUNDING_OF_SHARES

    # --- Internals ------------------------------------------------------------------------

    @property
    def _signature(self) -> tf.TensorSpec:
        return tf.TensorSpec((None, *self.images.shape[1:]), tf.float32)

    def _threat_model(self, name: str) -> ThreatModel:
        """Returns the report's threat model of that name, or else the default one."""
        if name in self.threat_models:
            return self.threat_models[name]
        return self._other_threat_models.setdefault(name, known_threat_models.get(name))

    def _after_steps(self, attack: Any, steps: int, step_size: float) -> tf.Tensor:
        """Crafts images with another number of steps, and a step size relative to epsilon."""
        target = self.target("whitebox_full")
        return self._remember(
            ("after steps", attack, steps, step_size),
            lambda: craft_after_steps(attack, target, self.images, self.labels, steps, step_size),
        )

    def _make_query_attack(self) -> Attack | None:
        if self.attack.norm not in Square.norms:
            return None
        return Square(self.attack.epsilon, self.attack.norm, queries=self.queries, seed=self.seed)

    def _search_at_random(self) -> np.ndarray:
        correct, epsilon = self.correct_without_attack, tf.constant(self.attack.epsilon, tf.float32)
        answer = self.graph(self.defence)
        for query in range(self.queries):
            # Half of the points come from the whole ball, half are as far away as it allows.
            draw = random_inside if query % 2 else random_corners
            noisy = draw(self.images, epsilon, self.attack.norm, tf.constant([self.seed, query]))
            correct = correct & self._are_correct(answer(noisy).numpy())
        return correct

    def _are_correct(self, logits: np.ndarray) -> np.ndarray:
        return np.isfinite(logits).all(axis=-1) & (logits.argmax(axis=-1) == self.labels)

    def _remember(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        return self._graphs.remember(key, self.defence, compute)


def main_attack(attacks: Sequence[Attack], seed: int) -> Attack:
    """Returns the first attack that `can_be_stopped`, or else PGD with the first epsilon."""
    if not attacks:
        raise ValueError(
            "An examination needs an attack, and received none. Pass one such as "
            "`keras_trn.attacks.ProjectedGradientDescent(epsilon=8 / 255)`."
        )
    for attack in attacks:
        # One run is enough to examine the steps.
        single_run = attack.without_restarts()
        if can_be_stopped(single_run):
            return single_run
    return ProjectedGradientDescent(attacks[0].epsilon, attacks[0].norm, seed=seed)


def can_be_stopped(attack: Attack) -> bool:
    """Tells whether an attack follows gradients in steps and can stop after any of them."""
    follows_gradients = attack.is_iterative and not attack.gradient_free and not attack.minimal_norm
    is_single_run = attack.without_restarts() is attack
    return (
        follows_gradients
        and is_single_run
        and attack.runs_in_graph
        and hasattr(attack, "step_size")
    )
