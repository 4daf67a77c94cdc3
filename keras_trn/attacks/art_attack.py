"""What all attacks by the Adversarial Robustness Toolbox (ART) have in common."""

import contextlib
import random
import warnings

import numpy as np
import tensorflow as tf

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.norms import project
from keras_trn.logits import differentiable_logits_function

# Images that ART differentiates at a time.
BATCH_SIZE = 128


class ArtAttack(Attack):
    """An attack by ART, which runs in NumPy and asks a compiled classifier.

    It cannot be part of a graph, and so not be trained against. Images that are
    misclassified already are left as they are, and so are those with an epsilon
    of 0. ART takes one epsilon at a time: images with different epsilons are
    attacked one group after the other. A subclass writes `make_attack`.

    Source: Nicolae et al., "Adversarial Robustness Toolbox", arXiv 1807.01069.

    Args:
        epsilon: Largest distance, in units of the image range [0, 1]; or a pair
            `(low, high)` to draw from for each image.
        norm: `"linf"` or `"l2"`.
        seed: Whole number that fixes what is random.

    Raises:
        ValueError: If an argument is malformed.
        RuntimeError: If the attack is called inside a graph.
    """

    # Whether ART looks for the smallest perturbation it can find, whatever epsilon is.
    minimal_norm = False
    # What ART differentiates, if the attack wants a loss: from one-hot labels and logits.
    loss_function = None

    def make_attack(self, estimator, epsilon):
        """Makes the attack of ART: what a subclass must write.

        Args:
            estimator: The classifier as ART's `TensorFlowV2Classifier`.
            epsilon: Largest distance, a number above 0.

        Returns:
            An `art.attacks.EvasionAttack`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define `make_attack`.")

    def craft(self, logits, images, labels, epsilon, random_seed):
        raise RuntimeError(
            f"{self.name} runs in NumPy, and not inside a graph such as a training step or a "
            "Mixture. Evaluate with it outside of graphs, and train against an attack that is a "
            f"graph: `keras_trn.attacks.ProjectedGradientDescent(epsilon, norm={self.norm!r})`."
        )

    def _run(self, classifier, images, labels, epsilon, random_seed):
        estimator = self._estimator(classifier, images)
        predicted = tf.argmax(estimator.predict(images.numpy()), axis=-1)
        labels = predicted if labels is None else labels
        attacked = (predicted == labels).numpy() & (epsilon.numpy().ravel() > 0)
        strengths = tf.zeros_like(epsilon) if self.minimal_norm else epsilon
        strengths = strengths.numpy().ravel()

        adversarial = images.numpy()
        one_hot = tf.one_hot(labels, estimator.nb_classes).numpy()
        with _global_random_state(random_seed.numpy()):
            for strength in np.unique(strengths[attacked]):
                group = attacked & (strengths == strength)
                attack = self.make_attack(estimator, float(strength))
                adversarial[group] = attack.generate(images.numpy()[group], one_hot[group])
        return project(tf.constant(adversarial), images, epsilon, self.norm)

    def _estimator(self, classifier, images):
        """The classifier as ART's, made once for a classifier and an image shape."""
        image_shape = tuple(images.shape[1:])
        key = (classifier, image_shape)
        if key not in self._graphs:
            self._graphs[key] = self._make_estimator(classifier, image_shape)
        return self._graphs[key]

    def _make_estimator(self, classifier, image_shape):
        images = tf.TensorSpec((None, *image_shape), tf.float32)
        logits = tf.function(
            differentiable_logits_function(classifier), input_signature=[images], autograph=False
        )
        (_, num_classes) = logits.get_concrete_function().output_shapes
        estimator = import_art().estimators.classification.TensorFlowV2Classifier(
            # ART also sends images of 64 bits, and says that it does not train.
            model=lambda images, training: logits(tf.cast(images, tf.float32)),
            nb_classes=num_classes,
            input_shape=image_shape,
            loss_object=_Loss(self.loss_function),
            clip_values=(0.0, 1.0),
            preprocessing=None,
        )
        # ART traces the first anew for each number of images, and runs the second eagerly: both
        # take many times as long.
        estimator.predict = lambda x, **_: logits(tf.cast(x, tf.float32)).numpy()
        estimator.class_gradient = _make_class_gradient(logits, num_classes)
        return estimator


def _make_class_gradient(logits, num_classes):
    """The gradients of the logits as ART asks for them: of all classes, or of one."""

    @tf.function(reduce_retracing=True, autograph=False)
    def gradient(images, direction):
        with tf.GradientTape() as tape:
            tape.watch(images)
            scores = logits(images)
        directions = tf.broadcast_to(direction, tf.shape(scores))
        return tape.gradient(scores, images, output_gradients=directions)

    def class_gradient(x, label=None):
        images = tf.cast(x, tf.float32)
        labels = range(num_classes) if label is None else [label]
        directions = tf.one_hot(tf.constant(labels), num_classes)
        return np.stack([gradient(images, direction) for direction in directions], axis=1)

    return class_gradient


class _Loss:
    """A loss whose reduction ART sets as it pleases.

    The sum, unlike the mean, gives an image the same gradient in every batch.
    """

    reduction = "sum"

    def __init__(self, function):
        self.function = function

    def __call__(self, labels, logits):
        losses = self.function(labels, logits)
        return losses if self.reduction == "none" else tf.reduce_sum(losses)


def import_art():
    """Imports ART, which takes a while, when it is first needed.

    Returns:
        The package `art`.
    """
    with warnings.catch_warnings():
        # ART misses PyTorch, which none of these attacks needs.
        warnings.simplefilter("ignore", UserWarning)
        import art.attacks.evasion
        import art.estimators.classification
    return art


@contextlib.contextmanager
def _global_random_state(seed):
    """Seeds what ART draws from, and puts it back as it was."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    np.random.seed(seed.astype("uint32"))
    random.seed(seed.tobytes())
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
