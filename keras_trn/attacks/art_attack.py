"""What all attacks by the Adversarial Robustness Toolbox (ART) have in common."""

import contextlib
import random
import warnings

import numpy as np
import tensorflow as tf
from tqdm import TqdmWarning

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.norms import project
from keras_trn.graphs import compile_function
from keras_trn.logits import differentiable_logits_function


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
    runs_in_graph = False
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
                # The caller has chosen how many images fit into memory at a time.
                attack.set_params(batch_size=int(group.sum()))
                adversarial[group] = attack.generate(images.numpy()[group], one_hot[group])
        return project(tf.constant(adversarial), images, epsilon, self.norm)

    def _estimator(self, classifier, images):
        """The classifier as ART's, for an image shape."""
        image_shape = tuple(images.shape[1:])
        return self._graphs.remember(
            ("estimator", image_shape),
            classifier,
            lambda: self._make_estimator(classifier, image_shape),
        )

    def _make_estimator(self, classifier, image_shape):
        compiled = _CompiledClassifier(classifier, image_shape, self.loss_function)
        estimator = import_art().estimators.classification.TensorFlowV2Classifier(
            # ART says that it does not train.
            model=lambda images, training: compiled.logits(images),
            nb_classes=compiled.num_classes,
            input_shape=image_shape,
            clip_values=(0.0, 1.0),
            preprocessing=None,
        )
        # ART's own are traced anew for each number of images or run eagerly, also take the
        # gradients of the weights, and take as many forward passes as there are classes.
        estimator.predict = lambda x, **_: compiled.logits(x).numpy()
        estimator.compute_loss = lambda x, y, **_: compiled.losses(x, y).numpy()
        estimator.loss_gradient = lambda x, y, **_: compiled.loss_gradient(x, y).numpy()
        estimator.class_gradient = lambda x, label=None, **_: compiled.class_gradient(x, label)
        return estimator


class _CompiledClassifier:
    """What ART asks of a classifier, each a graph for any number of images."""

    def __init__(self, classifier, image_shape, loss_function):
        self._logits = differentiable_logits_function(classifier)
        self._loss_function = loss_function
        self._images = tf.TensorSpec((None, *image_shape), tf.float32)
        self._logits_graph = compile_function(self._logits, [self._images])
        (_, self.num_classes) = self._logits_graph.get_concrete_function().output_shapes
        scores = tf.TensorSpec((None, self.num_classes), tf.float32)
        self._losses_graph = compile_function(self._losses, [self._images, scores])
        self._loss_gradient_graph = compile_function(self._loss_gradient, [self._images, scores])
        self._class_gradients_graph = compile_function(
            self._class_gradients, [self._images, scores]
        )

    def logits(self, images):
        """The logits, of images that ART also sends in 64 bits."""
        return self._logits_graph(tf.cast(images, tf.float32))

    def losses(self, images, one_hot):
        """The loss of each image."""
        return self._losses_graph(tf.cast(images, tf.float32), tf.cast(one_hot, tf.float32))

    def loss_gradient(self, images, one_hot):
        """The gradient of the loss of each image."""
        return self._loss_gradient_graph(tf.cast(images, tf.float32), tf.cast(one_hot, tf.float32))

    def class_gradient(self, images, label=None):
        """The gradients of the logits: of all classes, or of one."""
        labels = range(self.num_classes) if label is None else [label]
        directions = tf.one_hot(tf.constant(labels), self.num_classes)
        return self._class_gradients_graph(tf.cast(images, tf.float32), directions).numpy()

    def _losses(self, images, one_hot):
        return self._loss_function(one_hot, self._logits(images))

    def _loss_gradient(self, images, one_hot):
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.reduce_sum(self._losses(images, one_hot))
        return tape.gradient(loss, images)

    def _class_gradients(self, images, directions):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(images)
            scores = self._logits(images)

        def gradient(direction):
            everywhere = tf.broadcast_to(direction, tf.shape(scores))
            return tape.gradient(scores, images, output_gradients=everywhere)

        gradients = tf.map_fn(gradient, directions, parallel_iterations=1)
        return tf.transpose(gradients, [1, 0, 2, 3, 4])


def import_art():
    """Imports ART, which takes a while, when it is first needed.

    Returns:
        The package `art`.
    """
    with warnings.catch_warnings():
        # ART misses PyTorch, and ipywidgets in a notebook; none of these attacks needs them.
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", TqdmWarning)
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
