"""The one signature of all attacks."""

import functools
import inspect
import math
import warnings

import numpy as np
import tensorflow as tf

from keras_trn.attacks.norms import keep_inside
from keras_trn.classifier_interface import squashing_head
from keras_trn.graphs import GraphCache
from keras_trn.input_validation import check_image_type
from keras_trn.input_validation import check_images
from keras_trn.input_validation import check_labels
from keras_trn.input_validation import check_range
from keras_trn.input_validation import check_seed
from keras_trn.input_validation import with_known_shape
from keras_trn.logits import differentiable_logits_function
from keras_trn.logits import logits_function

# The largest perturbation that can make a difference to images in [0, 1]. An L2
# distance has no such bound, as it grows with the number of pixels.
_LARGEST_EPSILON = {"linf": 1.0, "l2": math.inf}


class Attack:
    """Crafts adversarial images within a distance of the clean ones.

    The base of all attacks: it settles labels and epsilon, checks the input,
    and runs the attack as one graph, traced once for a classifier and an image
    shape, whatever the batch size. A subclass writes `craft`.

    Args:
        epsilon: The largest distance between a clean and an adversarial image,
            in units of the image range [0, 1]; or a pair `(low, high)`, from
            which an epsilon is drawn uniformly for each image. 0 leaves images
            as they are.
        norm: What epsilon measures: `"linf"`, the largest change of a pixel, or
            `"l2"`, the Euclidean length of the change of the whole image.
        seed: Whole number that fixes what is random in the attack. By default
            each call differs, as `keras.utils.set_random_seed` governs.

    Call arguments:
        classifier: A Keras model that returns logits, or any callable from images
            to logits: what the attacker differentiates.
        images: Clean images of shape `(batch, height, width, channels)` in [0, 1].
        labels: Class indices of shape `(batch,)` that the attack leads away from.
            By default those the classifier predicts, so that the perturbation
            carries nothing of the truth that the classifier does not know.
        epsilon: Overrides the attack's own: a number, or one number per image.
        seed: Overrides the attack's own, for this call; not inside a graph.

    Returns:
        A float32 tensor of adversarial images of the shape of `images`, in [0, 1].

    Raises:
        ValueError: If epsilon is negative or too large, the norm unknown, or the
            images or labels malformed.

    Example:
        ```python
        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.1, steps=5)
        adversarial = attack(classifier, images)
        assert keras.ops.max(keras.ops.abs(adversarial - images)) <= 0.1 + 1e-6
        ```
    """

    # Whether the attack only asks for logits, and never for a gradient.
    gradient_free = False
    # Whether it can be traced, whether it takes `steps`, and whether it depends on a seed.
    runs_in_graph = True
    is_iterative = False
    is_random = False
    # Whether it searches for the smallest perturbation that changes the answer.
    minimal_norm = False

    def __init__(self, epsilon, norm="linf", seed=None):
        if norm not in _LARGEST_EPSILON:
            raise ValueError(f"norm must be 'linf' or 'l2', received {norm!r}.")
        self.norm = norm
        self.epsilon = self._checked_epsilon(epsilon)
        self.seed = check_seed(seed)
        if isinstance(self.epsilon, tuple) and (
            len(self.epsilon) != 2 or self.epsilon[0] > self.epsilon[1]
        ):
            raise ValueError(
                "epsilon must be a number or a pair (low, high) with low <= high, "
                f"received {epsilon!r}."
            )
        self._graphs = GraphCache()

    def craft(self, logits, images, labels, epsilon, random_seed):
        """Writes the attack down: what a subclass must say.

        Args:
            logits: Function from images to logits.
            images: Float32 tensor of clean images.
            labels: Int64 tensor of shape `(batch,)`.
            epsilon: Float32 tensor of shape `(batch, 1, 1, 1)`.
            random_seed: Int32 tensor of shape `(2,)`, for stateless random numbers.

        Returns:
            The adversarial images.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define `craft`.")

    def perturb(self, logits, images, labels, epsilon, random_seed):
        """Crafts adversarial images, and brings back what leaves the ball or [0, 1].

        Args:
            logits: Function from images to logits.
            images: Float32 tensor of clean images.
            labels: Int64 tensor of shape `(batch,)`.
            epsilon: Float32 tensor of shape `(batch, 1, 1, 1)`.
            random_seed: Int32 tensor of shape `(2,)`, for stateless random numbers.

        Returns:
            The adversarial images, within epsilon of the clean ones, and in [0, 1].
        """
        adversarial = self.craft(logits, images, labels, epsilon, random_seed)
        return keep_inside(adversarial, images, epsilon, self.norm)

    def __call__(self, classifier, images, labels=None, epsilon=None, seed=None):
        images = tf.convert_to_tensor(images)
        seed = self.seed if seed is None else check_seed(seed)
        if not tf.executing_eagerly():
            check_image_type(images)
            images = with_known_shape(tf.cast(images, tf.float32))
            logits = differentiable_logits_function(classifier)
            return self._craft(logits, images, *self._draw(images, epsilon, seed), labels)
        images = tf.cast(check_images(images), tf.float32)
        if labels is not None:
            check_labels(labels, self._num_classes(classifier, images), batch_size=len(images))
            labels = tf.cast(tf.reshape(labels, [-1]), tf.int64)
        if epsilon is not None:
            epsilon = self._checked_epsilon(np.ravel(epsilon))
            if len(epsilon) not in (1, len(images)):
                raise ValueError(f"Received {len(images)} images but {len(epsilon)} epsilons.")
        # Drawn outside the graph, which would keep the global seed it was traced with.
        epsilon, random_seed = self._draw(images, epsilon, seed)
        return self._run(classifier, images, labels, epsilon, random_seed)

    def _num_classes(self, classifier, images):
        """How many classes a classifier knows, for which it is asked once."""

        def count():
            return logits_function(classifier)(images[:1]).shape[-1]

        return self._graphs.remember("classes", classifier, count)

    def _run(self, classifier, images, labels, epsilon, random_seed):
        """Runs the attack on input that is checked: as a graph, unless a subclass knows better."""
        if labels is None:
            return self._graph(classifier, images, "predicted")(images, epsilon, random_seed)
        return self._graph(classifier, images, "given")(images, epsilon, random_seed, labels)

    def _craft(self, logits, images, epsilon, random_seed, labels=None):
        """Crafts in graph mode; labels default to those predicted."""
        if labels is None:
            labels = tf.argmax(logits(images), axis=-1)
        labels = tf.cast(tf.reshape(labels, [-1]), tf.int64)
        return self.perturb(logits, images, labels, epsilon, random_seed)

    def _graph(self, classifier, images, label_source):
        """The compiled attack for a classifier and an image shape."""
        image_shape = tuple(images.shape[1:])
        signature = [
            tf.TensorSpec((None, *image_shape), tf.float32),
            tf.TensorSpec((None, 1, 1, 1), tf.float32),
            tf.TensorSpec((2,), tf.int32),
        ]
        if label_source == "given":
            signature.append(tf.TensorSpec((None,), tf.int64))
        return self._graphs.get(
            (image_shape, label_source),
            (self, classifier),
            lambda: functools.partial(self._craft, _attackable(classifier)),
            signature,
        )

    def _draw(self, images, epsilon, seed):
        """Draws what is random: an epsilon for each image, and the seed of the attack."""
        return self._epsilon_per_image(images, epsilon, seed), self._random_seed(seed=seed)

    def _epsilon_per_image(self, images, epsilon, seed=None):
        """One epsilon for each image: given, drawn from the range, or the same for all."""
        batch_size = tf.shape(images)[0]
        if epsilon is None and isinstance(self.epsilon, tuple):
            epsilon = self.draw_epsilon(batch_size, self._random_seed(stream=1, seed=seed))
        elif epsilon is None:
            epsilon = self.epsilon
        epsilon = tf.reshape(tf.cast(epsilon, tf.float32), [-1])
        return tf.reshape(tf.broadcast_to(epsilon, [batch_size]), [-1, 1, 1, 1])

    def draw_epsilon(self, number, random_seed):
        """Draws an epsilon for each of several images, from the range if there is one.

        Args:
            number: Number of images.
            random_seed: Two whole numbers, as TensorFlow's stateless random numbers take.

        Returns:
            A float32 tensor of shape `(number,)`.
        """
        low, high = self.epsilon if isinstance(self.epsilon, tuple) else (self.epsilon,) * 2
        return tf.random.stateless_uniform([number], random_seed, low, high, alg="philox")

    def _random_seed(self, stream=0, seed=None):
        """A seed for TensorFlow's stateless random numbers."""
        if seed is not None:
            return tf.constant([seed, stream])
        return tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)

    def _checked_epsilon(self, epsilon):
        """The epsilon, or each of several, as Python's numbers."""
        if isinstance(epsilon, (list, tuple, np.ndarray)) and np.shape(epsilon) != ():
            return tuple(map(self._checked_epsilon, epsilon))
        return check_range(
            f"epsilon of an {self.norm} attack", epsilon, 0, _LARGEST_EPSILON[self.norm]
        )

    def with_largest_epsilon(self):
        """Returns the same attack with the upper end of its range as epsilon."""
        epsilon = self.epsilon[1] if isinstance(self.epsilon, tuple) else self.epsilon
        return self._copy(epsilon=epsilon)

    def with_seed(self, seed):
        """Returns the same attack with a seed, unless it has one of its own.

        Args:
            seed: Whole number that fixes what is random in the attack.
        """
        # Always another one: it keeps the graphs of all that it attacks as long as it lives.
        return self._copy(seed=seed if self.seed is None else self.seed)

    def _copy(self, **changes):
        """Makes the same attack with other arguments."""
        config = self.get_config()
        parameters = inspect.signature(type(self)).parameters.values()
        named = {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        if missing := named - set(config):
            raise TypeError(
                f"The attack {self.name} cannot be copied: `get_config` lacks the arguments "
                f"{', '.join(sorted(missing))} of its constructor. Write `def get_config(self): "
                f"return {{**super().get_config(), {_as_items(missing)}}}`."
            )
        try:
            return type(self).from_config({**config, **changes})
        except TypeError as error:
            raise TypeError(
                f"The attack {self.name} cannot be made from what `get_config` returns: {error}."
            ) from error

    @property
    def name(self):
        """What the attack is called in tables."""
        return type(self).__name__

    def get_config(self):
        """Returns the constructor's arguments."""
        return {"epsilon": self.epsilon, "norm": self.norm, "seed": self.seed}

    @classmethod
    def from_config(cls, config):
        """Makes an attack from what `get_config` returned."""
        return cls(**config)

    def __repr__(self):
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


def _attackable(classifier):
    """The logits to be attacked, with a warning where they are none."""
    if squashing := squashing_head(classifier):
        warnings.warn(
            f"The attacked classifier ends in a {squashing}: its gradient vanishes where a "
            "probability is near 0 or 1, and the attack finds too little. Attack its logits: "
            "`classifier.layers[-1].activation = keras.activations.linear`.",
            stacklevel=5,
        )
    return differentiable_logits_function(classifier)


def _as_items(names):
    return ", ".join(f"'{name}': self.{name}" for name in sorted(names))
