"""What is examined, and the runs that its checks share."""

import dataclasses
import functools
import math

import numpy as np
import tensorflow as tf

from keras_trn import attacks
from keras_trn import threat_models as known_threat_models
from keras_trn.evaluation.arguments import check_image_shape
from keras_trn.evaluation.checks.sampling import random_corners
from keras_trn.evaluation.checks.sampling import random_inside
from keras_trn.evaluation.map_gradient import measure_map_motion
from keras_trn.evaluation.map_gradient import obstacle
from keras_trn.evaluation.randomness import ROUNDING_OF_LOGITS
from keras_trn.evaluation.randomness import largest_distance
from keras_trn.evaluation.randomness import repeated_logits
from keras_trn.graphs import GraphCache
from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_images
from keras_trn.input_validation import check_labels
from keras_trn.input_validation import check_whole_number
from keras_trn.logits import logits_function
from keras_trn.restored_classifier import RestoredClassifier

# The parts of the way at which an attack is looked at; each one has to be traced.
_PARTS_OF_THE_WAY = (0.25, 0.5, 0.75, 1.0)
# Multiples of the attack's epsilon at which it is run.
_PARTS_OF_EPSILON = (0.25, 0.5, 1.0, 2.0)
# Directions in which SPSA measures a slope for each of its steps.
_SAMPLES = 4
# Two shares may differ by one image and a rounding error.
_ROUNDING_OF_SHARES = 1e-9


class UnsupportedThreatModelError(ValueError):
    """Says why a check that attacks through everything cannot be made."""


class Examination:
    """A defence, a few labelled images, and the attack by which it is evaluated.

    The subject of all checks. It remembers what it has run, so that checks which
    look at the same run from several sides pay for it once; where a layer of the
    defence has changed since, it runs it again.

    Whatever an attack finds, the attacker may also leave the image as it is: an
    image that is wrong by itself counts as wrong under every attack. So does one
    with a logit that is not finite.

    Args:
        defence: A Keras model from images to logits: a plain classifier, or a
            `keras_trn.RestoredClassifier`.
        images: Array of clean images of shape `(number, height, width, channels)`
            in [0, 1]; a hundred are enough.
        labels: Their class indices, of shape `(number,)`.
        attack: An attack of several steps along gradients with one epsilon, such
            as `keras_trn.attacks.ProjectedGradientDescent(epsilon=8 / 255)`.
        threat_models: The threat models of the report, or their names. Where one of
            them runs a random defence several times for each gradient, so do the
            checks.
        queries: How often an attack without gradients, and a random search, may
            ask for the logits of an image.
        seed: Whole number that fixes all that is random, unless the attack has a
            seed of its own.

    Raises:
        ValueError: If the images or labels are malformed, or the attack takes no
            steps along gradients, or has a range of epsilons.

    Example:
        ```python
        from keras_trn.evaluation import checks

        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=4)
        examination = checks.Examination(classifier, images, labels, attack)
        assert examination.correct("whitebox_full").shape == (8,)
        ```
    """

    def __init__(self, defence, images, labels, attack, threat_models=(), queries=100, seed=0):
        _check_attack(attack)
        images = check_images(images)
        self.defence = defence
        self.is_restored = isinstance(defence, RestoredClassifier)
        self.classifier = defence.classifier if self.is_restored else defence
        self.images = tf.cast(images, tf.float32)
        num_classes = logits_function(defence)(self.images[:1]).shape[-1]
        check_labels(labels, num_classes, batch_size=len(images))
        self.labels = np.reshape(labels, -1).astype("int64")
        self.attack = attack.with_seed(seed)
        threat_models = [known_threat_models.get(threat_model) for threat_model in threat_models]
        self.threat_models = {
            threat_model.name: threat_model
            for threat_model in threat_models
            if threat_model.labels == "true"
        }
        self.queries = check_count("queries", queries)
        self.seed = check_whole_number("seed", seed, 0, np.iinfo(np.int32).max)
        self._other_threat_models = {}
        self._graphs = GraphCache()

    # --- Attacks ----------------------------------------------------------------------

    @functools.cached_property
    def single_step(self):
        """The attack of one step with the same epsilon."""
        return attacks.FastGradientMethod(self.attack.epsilon, self.attack.norm)

    @functools.cached_property
    def doubled(self):
        """The same attack with twice as many steps."""
        return self._variant(steps=2 * self.attack.steps)

    @functools.cached_property
    def query_attack(self):
        """The attack without gradients with the same epsilon; `None` where there is none.

        It is `Square`. Images that are too small or too oblong for squares are attacked by
        `SPSA` with as many queries, which knows the L-infinity norm alone.
        """
        epsilon, norm = self.attack.epsilon, self.attack.norm
        square = attacks.Square(epsilon, norm, queries=self.queries, seed=self.seed)
        try:
            check_image_shape([square], tuple(self.images.shape[1:]))
        except ValueError:
            if norm != "linf":
                return None
            steps = max(1, self.queries // (2 * _SAMPLES + 1))
            return attacks.SPSA(epsilon, steps=steps, samples=_SAMPLES, seed=self.seed)
        return square

    @functools.cached_property
    def stages(self):
        """The same attack stopped on its way; the last stage is the attack itself."""
        # The length of a step must not depend on where the attack is stopped.
        step_size = self.attack.step_size(1.0)
        steps = sorted({math.ceil(part * self.attack.steps) for part in _PARTS_OF_THE_WAY})
        stopped = [self._variant(steps=n, relative_step_size=step_size) for n in steps[:-1]]
        return [*stopped, self.attack]

    @property
    def epsilons(self):
        """Rising epsilons around the attack's own, at which it is run too."""
        wanted = [part * self.attack.epsilon for part in _PARTS_OF_EPSILON]
        return sorted({min(epsilon, self.unbounded_epsilon) for epsilon in wanted})

    @property
    def unbounded_epsilon(self):
        """The epsilon within which every image can be reached from every other."""
        if self.attack.norm == "linf":
            return 1.0
        return math.sqrt(math.prod(self.images.shape[1:]))

    def _variant(self, **changes):
        return self.attack.variant(**changes)

    # --- Runs -------------------------------------------------------------------------

    def logits(self, images, model=None):
        """Asks for logits, in one compiled graph for each model.

        Args:
            images: Tensor of images.
            model: A Keras model; by default the defence.

        Returns:
            An array of shape `(number of images, num_classes)`.
        """
        model = self.defence if model is None else model
        return self.graph(model)(images).numpy()

    def graph(self, model):
        """Compiles a model for any number of images, once.

        Args:
            model: A Keras model, or a function from images to a tensor.

        Returns:
            The compiled function of a tensor of images.
        """
        signature = [tf.TensorSpec((None, *self.images.shape[1:]), tf.float32)]
        return self._graphs.get("logits", model, lambda: logits_function(model), signature)

    def target(self, threat_model):
        """The function that an attacker attacks: the same object as long as the defence is.

        Args:
            threat_model: The name of a threat model.

        Returns:
            A function from images to logits, or a Keras model.

        Raises:
            UnsupportedThreatModelError: If it is `whitebox_full`, and cannot be run in full.
        """
        if threat_model == "whitebox_full":
            self.check_obstacle()
        return self._threat_model(threat_model).target(self.defence)

    def _threat_model(self, name):
        """The threat model of the report by its name, or else the simplest of that name."""
        if name in self.threat_models:
            return self.threat_models[name]
        return self._other_threat_models.setdefault(name, known_threat_models.get(name))

    @property
    def map_motion(self):
        """How fast the gradient map moves, a `MapMotion`; `None` where there is none to measure."""
        full = self._threat_model("whitebox_full")
        slopes = full.map_slopes(self.defence)
        if slopes is None or full.obstacle(self.defence) is not None:
            return None
        return self._remembered(
            "map motion", lambda: measure_map_motion(self.defence, slopes, self.images)
        )

    @property
    def obstacle(self):
        """Why `whitebox_full` cannot be run in full; `None` if nothing is in the way."""
        full = self._threat_model("whitebox_full")
        return obstacle(
            full, self.defence, self.images, lambda _: dataclasses.asdict(self.map_motion)
        )

    def check_obstacle(self):
        """Checks that the defence can be differentiated in full.

        Raises:
            UnsupportedThreatModelError: If it cannot.
        """
        if self.obstacle is not None:
            raise UnsupportedThreatModelError(
                f"`whitebox_full` cannot be run on this defence, as {self.obstacle}."
            )

    def adversarial(self, threat_model, attack=None, epsilon=None):
        """Crafts adversarial images, once.

        Args:
            threat_model: The name of a threat model.
            attack: By default the attack of the examination.
            epsilon: By default that of the attack.

        Returns:
            A tensor of the shape of the images.
        """
        attack = self.attack if attack is None else attack
        epsilon = attack.epsilon if epsilon is None else epsilon
        return self._remembered(
            ("adversarial", threat_model, attack, epsilon),
            lambda: attack(self.target(threat_model), self.images, self.labels, epsilon),
        )

    def correct(self, threat_model, attack=None, epsilon=None):
        """Tells which images the defence gets right, as they are and under the attack.

        Args:
            threat_model: The name of a threat model.
            attack: By default the attack of the examination.
            epsilon: By default that of the attack.

        Returns:
            A boolean array of shape `(number of images,)`.
        """
        adversarial = self.adversarial(threat_model, attack, epsilon)
        return self.correct_without_attack & self.classified_correctly(adversarial)

    def correct_under_gradients(self, epsilon=None):
        """Tells which images withstand all attackers who differentiate the defence.

        This is the attacker's best with gradients: per image the worse for the
        defence of `whitebox_full` and, where there is a restoration, `bpda`.

        Args:
            epsilon: By default that of the attack.

        Returns:
            A boolean array of shape `(number of images,)`.
        """
        right = self.correct("whitebox_full", epsilon=epsilon)
        return right & self.correct("bpda", epsilon=epsilon) if self.is_restored else right

    def correct_under_noise(self):
        """Tells which images withstand the worst of many random perturbations.

        Half of them are drawn from the whole ball, and half as far from the image
        as the ball allows.

        Returns:
            A boolean array of shape `(number of images,)`.
        """
        return self._remembered("noise", self._search_at_random)

    @property
    def runs(self):
        """The logits of the same images from several runs: a list of arrays."""
        return self._remembered("runs", lambda: repeated_logits(self.defence, self.images))

    @property
    def is_random(self):
        """Whether the defence answers the same images in several ways."""
        right = {int((run.argmax(axis=-1) == self.labels).sum()) for run in self.runs}
        return largest_distance(self.runs) > ROUNDING_OF_LOGITS or len(right) > 1

    @property
    def correct_without_attack(self):
        """Which images the defence gets right without any attack."""
        return self._remembered("as they are", lambda: self.classified_correctly(self.images))

    @property
    def bare_correct(self):
        """Which images the bare classifier gets right, as they are and under the attack."""
        threat_model = "oblivious" if self.is_restored else "whitebox_full"
        adversarial = self.adversarial(threat_model)
        as_they_are = self.classified_correctly(self.images, self.classifier)
        return as_they_are & self.classified_correctly(adversarial, self.classifier)

    def classified_correctly(self, images, model=None):
        """Tells which answers are right.

        Args:
            images: Tensor of perturbed images, in the order of the labels.
            model: A Keras model; by default the defence.

        Returns:
            A boolean array of shape `(number of images,)`.
        """
        return self._are_correct(self.logits(images, model))

    def _are_correct(self, logits):
        return np.isfinite(logits).all(axis=-1) & (logits.argmax(axis=-1) == self.labels)

    def losses(self, images):
        """Measures the defence's cross-entropy for the true labels.

        Args:
            images: Tensor of perturbed images, in the order of the labels.

        Returns:
            An array of shape `(number of images,)`.
        """
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(self.labels, self.logits(images))
        return losses.numpy()

    def at_least_one_image(self, share):
        """Rounds a tolerance up to one image, as fewer images cannot tell less apart.

        Args:
            share: A share of the images.

        Returns:
            That share, or that of one image where it is larger.
        """
        return max(share, 1 / len(self.labels)) + _ROUNDING_OF_SHARES

    def _search_at_random(self):
        right, epsilon = self.correct_without_attack, tf.constant(self.attack.epsilon, tf.float32)
        answer = self.graph(self.defence)
        for query in range(self.queries):
            draw = random_inside if query % 2 else random_corners
            noisy = draw(self.images, epsilon, self.attack.norm, tf.constant([self.seed, query]))
            right = right & self._are_correct(answer(noisy).numpy())
        return right

    def _remembered(self, key, compute):
        return self._graphs.remember(key, self.defence, compute)


def _check_attack(attack):
    is_fit = attack.is_iterative and not attack.gradient_free
    if not is_fit or isinstance(attack.epsilon, tuple):
        raise ValueError(
            "An examination needs an attack of several steps along gradients with one epsilon, "
            f"such as `ProjectedGradientDescent(epsilon=8 / 255, steps=20)`; received {attack!r}."
        )
