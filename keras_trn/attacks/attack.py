"""The base class of all attacks."""

import functools
import inspect
import math
import warnings
from typing import Any
from typing import Self

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.norms import keep_inside
from keras_trn.classifier_interface import check_number_types
from keras_trn.classifier_interface import known_image_shape
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
from keras_trn.types import ArrayLike
from keras_trn.types import Classifier
from keras_trn.types import Config
from keras_trn.types import ImageShape
from keras_trn.types import Logits

# A number, or a pair (low, high).
Epsilon = Any

# The largest perturbation that images in [0, 1] allow. The other norms grow with the number
# of pixels, so they have no fixed bound.
_LARGEST_EPSILON = {"linf": 1.0, "l2": math.inf, "l1": math.inf}


class Attack:
    """Crafts adversarial images within a distance of the clean ones.

    A subclass writes `craft`. The base class checks the input and fills in labels and epsilon.
    It compiles `craft` once for each classifier and image shape. It projects the result into
    the ball of radius epsilon and into [0, 1].

    A subclass declares its capabilities with these attributes:

    - `gradient_free` (False): it queries logits and takes no gradient.
    - `runs_in_graph` (True): `craft` consists of TensorFlow operations. Otherwise it receives
      eager tensors and can use NumPy, but cannot be used in training.
    - `is_iterative` (False): it has an attribute and an argument `steps`, and a method
      `step_size(epsilon)`. An argument `relative_step_size` fixes the step size for any `steps`.
    - `is_random` (True): it uses `random_seed`.
    - `stays_in_ball` (True): its images lie within epsilon. Otherwise use it only in training.
    - `minimal_norm` (False): it searches for the smallest perturbation, whatever epsilon is.
    - `norms` (`("linf", "l2", "l1")`): the norms that it supports.

    Args:
        epsilon: Largest distance between a clean and an adversarial image, in units of the
            image range [0, 1]. From a pair `(low, high)`, the attack draws an epsilon uniformly
            for each image. 0 leaves images unchanged.
        norm: How to measure the distance: `"linf"`, the largest change of a pixel; `"l2"`, the
            Euclidean length of the change of the image; or `"l1"`, the sum of all changes. Some
            attacks do not support all of them.
        seed: Whole number that fixes all randomness, including the drawn epsilons. By default
            calls differ, and `keras.utils.set_random_seed` controls them.

    Call arguments:
        classifier: A Keras model that returns logits, or any function from images to logits that
            consists of TensorFlow operations. Pass the same function in each call, because every
            new one costs a new graph, which the attack keeps.
        images: Clean images of shape `(batch, height, width, channels)` in [0, 1].
        labels: Class indices of shape `(batch,)` that the attack steers away from. By default
            the predicted ones, which do not leak the true labels.
        epsilon: Overrides the attack's own epsilon: a number, or one number per image.
        seed: Overrides the attack's own seed for this call; not inside a graph.

    Returns:
        A float32 tensor of adversarial images of the shape of `images`, in [0, 1].

    Raises:
        ValueError: If epsilon is negative or too large, the norm is unknown, or the images or
            labels are malformed.
        RuntimeError: If an attack that does not run in a graph is called inside one.

    Example:
        ```python
        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.1, steps=5)
        adversarial = attack(classifier, images)
        assert keras.ops.max(keras.ops.abs(adversarial - images)) <= 0.1 + 1e-6
        ```
    """

    gradient_free = False
    runs_in_graph = True
    is_iterative = False
    is_random = True
    stays_in_ball = True
    minimal_norm = False
    norms: tuple[str, ...] = ("linf", "l2", "l1")

    def __init__(self, epsilon: Epsilon, norm: str = "linf", seed: int | None = None) -> None:
        if norm not in self.norms:
            names = " or ".join(map(repr, self.norms))
            raise ValueError(f"norm of {type(self).__name__} must be {names}, received {norm!r}.")
        self.norm: Any = norm
        self.epsilon = self.check_epsilon(epsilon)
        self.seed = check_seed(seed)
        if isinstance(self.epsilon, tuple) and (
            len(self.epsilon) != 2 or self.epsilon[0] > self.epsilon[1]
        ):
            raise ValueError(
                "epsilon must be a number or a pair (low, high) with low <= high, "
                f"received {epsilon!r}."
            )
        self._graphs = GraphCache()

    def craft(
        self, logits: Logits, images: Tensor, labels: Tensor, epsilon: Tensor, random_seed: Tensor
    ) -> Tensor:
        """Crafts adversarial images; a subclass must define it, and `perturb` projects them.

        Args:
            logits: Function from images to logits.
            images: Float32 tensor of clean images.
            labels: Int64 tensor of shape `(batch,)`.
            epsilon: Float32 tensor of shape `(batch, 1, 1, 1)`.
            random_seed: Int32 tensor of shape `(2,)`, for stateless random numbers.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define `craft`.")

    def perturb(
        self, logits: Logits, images: Tensor, labels: Tensor, epsilon: Tensor, random_seed: Tensor
    ) -> Tensor:
        """Calls `craft` and projects its images into the ball and [0, 1]."""
        if not (self.runs_in_graph or tf.executing_eagerly()):
            raise RuntimeError(
                f"{self.name} runs in NumPy, and not inside a graph such as a training step. "
                "Evaluate with it outside of graphs, and train against an attack that runs in one: "
                f"`keras_trn.attacks.ProjectedGradientDescent(epsilon, norm={self.norm!r})`."
            )
        adversarial = self.craft(logits, images, labels, epsilon, random_seed)
        return keep_inside(tf.ensure_shape(adversarial, images.shape), images, epsilon, self.norm)

    def __call__(
        self,
        classifier: Classifier,
        images: ArrayLike,
        labels: ArrayLike | None = None,
        epsilon: Any = None,
        seed: int | None = None,
    ) -> Tensor:
        if isinstance(classifier, type) or not callable(classifier):
            raise ValueError(
                "classifier must be a Keras model or a function from images to logits, received "
                f"{classifier!r}."
            )
        seed = self.seed if seed is None else check_seed(seed)
        if not tf.executing_eagerly():
            images = tf.convert_to_tensor(images)
            check_image_type(images)
            images = with_known_shape(tf.cast(images, tf.float32))
            logits = differentiable_logits_function(classifier)
            return self._craft(logits, images, *self._draw(images, epsilon, seed), labels)
        images = tf.cast(check_images(images, known_image_shape(classifier)), tf.float32)
        self.check_image_shape(tuple(images.shape[1:]))
        num_classes = self._num_classes(classifier, images)
        if labels is not None:
            labels = check_labels(labels, num_classes, batch_size=len(images))
            labels = tf.cast(tf.reshape(labels, [-1]), tf.int64)
        if epsilon is not None:
            epsilon = self.check_epsilon(np.ravel(epsilon))
            if len(epsilon) not in (1, len(images)):
                raise ValueError(f"Received {len(images)} images but {len(epsilon)} epsilons.")
        # Drawn outside the graph, which would freeze the global seed at tracing.
        epsilon, random_seed = self._draw(images, epsilon, seed)
        return self._run(classifier, images, epsilon, random_seed, labels)

    def _num_classes(self, classifier: Classifier, images: Tensor) -> int:
        """Counts the classes of a classifier; queries it only once."""

        def count() -> int:
            shape = logits_function(classifier)(images[:1]).shape
            if len(shape) != 2:
                raise ValueError(
                    "The classifier must return logits of shape (batch, num_classes); it returned "
                    f"the shape {tuple(shape)} for one image."
                )
            if shape[-1] < 2:
                raise ValueError(
                    "An attack needs the logits of at least two classes; the classifier returned "
                    f"the shape {tuple(shape)} for one image. Give a binary classifier two "
                    "outputs, `Dense(2)`."
                )
            return shape[-1]

        return self._graphs.remember("classes", classifier, count)

    def _run(
        self,
        classifier: Classifier,
        images: Tensor,
        epsilon: Tensor,
        random_seed: Tensor,
        labels: Tensor | None,
    ) -> Tensor:
        """Runs the attack on checked input, in a compiled graph if the attack allows it."""
        image_shape = tuple(images.shape[1:])
        signature = self.signature(image_shape)
        if not self.runs_in_graph:
            logits = self._graphs.get(
                ("logits", image_shape), classifier, lambda: attackable(classifier), signature[:1]
            )
            return self._craft(logits, images, epsilon, random_seed, labels)
        given = [images, epsilon, random_seed, *([] if labels is None else [labels])]
        graph = self._graphs.get(
            ("craft", image_shape, len(given)),
            (self, classifier),
            lambda: functools.partial(self._craft, attackable(classifier)),
            signature[: len(given)],
        )
        return graph(*given)

    @staticmethod
    def signature(image_shape: ImageShape) -> list[tf.TensorSpec]:
        """Describes the inputs of a graph: images, epsilons, a random seed and labels."""
        return [
            tf.TensorSpec((None, *image_shape), tf.float32),
            tf.TensorSpec((None, 1, 1, 1), tf.float32),
            tf.TensorSpec((2,), tf.int32),
            tf.TensorSpec((None,), tf.int64),
        ]

    def _craft(
        self,
        logits: Logits,
        images: Tensor,
        epsilon: Tensor,
        random_seed: Tensor,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Crafts adversarial images; labels default to the predicted ones."""
        if labels is None:
            labels = tf.argmax(logits(images), axis=-1)
        labels = tf.cast(tf.reshape(labels, [-1]), tf.int64)
        return self.perturb(logits, images, labels, epsilon, random_seed)

    def _draw(
        self, images: Tensor, epsilon: ArrayLike | None, seed: int | None
    ) -> tuple[Tensor, Tensor]:
        """Draws an epsilon for each image, and the seed of the attack."""
        return self._epsilon_per_image(images, epsilon, seed), self._random_seed(seed)

    def _epsilon_per_image(
        self, images: Tensor, epsilon: ArrayLike | None, seed: int | None
    ) -> Tensor:
        """Returns an epsilon for each image: given, drawn, or the attack's own."""
        batch_size = tf.shape(images)[0]
        if epsilon is None and isinstance(self.epsilon, tuple):
            epsilon = self.draw_epsilon(batch_size, self._random_seed(seed, stream=1))
        elif epsilon is None:
            epsilon = self.epsilon
        epsilon = tf.reshape(tf.cast(epsilon, tf.float32), [-1])
        return tf.reshape(tf.broadcast_to(epsilon, [batch_size]), [-1, 1, 1, 1])

    @staticmethod
    def _random_seed(seed: int | None, stream: int = 0) -> Tensor:
        """Makes a seed for TensorFlow's stateless random numbers."""
        if seed is not None:
            return tf.constant([seed, stream])
        return tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)

    def draw_epsilon(self, number: int, random_seed: ArrayLike) -> Tensor:
        """Draws epsilons for a number of images, from the range if epsilon is one."""
        low, high = self.epsilon if isinstance(self.epsilon, tuple) else (self.epsilon,) * 2
        return tf.random.stateless_uniform([number], random_seed, low, high, alg="philox")

    def check_epsilon(self, epsilon: ArrayLike | float) -> Any:
        """Returns one or more epsilons as Python numbers, or raises a `ValueError`."""
        if isinstance(epsilon, (list, tuple, np.ndarray)) and np.shape(epsilon) != ():
            return tuple(map(self.check_epsilon, epsilon))
        return check_range(
            f"epsilon of an {self.norm} attack", epsilon, 0, _LARGEST_EPSILON[self.norm]
        )

    def check_image_shape(self, image_shape: ImageShape) -> None:
        """Raises a `ValueError` if the attack does not support this image shape; override it."""

    def with_largest_epsilon(self) -> Self:
        """Returns the same attack with the upper end of its range as epsilon."""
        epsilon = self.epsilon[1] if isinstance(self.epsilon, tuple) else self.epsilon
        return self.variant(epsilon=epsilon)

    def parts(self) -> "list[Attack]":
        """Returns the attacks that training draws from: this attack, unless it is a mixture."""
        return [self]

    def without_restarts(self) -> "Attack":
        """Returns the attack that runs once."""
        return self

    def with_seed(self, seed: int | None) -> Self:
        """Returns the same attack with a seed, unless it already has one."""
        # Always a new attack, because an attack keeps the graphs of every target it has met.
        return self.variant(seed=seed if self.seed is None else self.seed)

    def variant(self, **changes: Any) -> Self:
        """Returns the same attack with other arguments, such as `steps`."""
        config = self.get_config()
        if missing := set(_arguments(type(self))) - set(config):
            items = ", ".join(f"'{name}': self.{name}" for name in sorted(missing))
            raise TypeError(
                f"The attack {self.name} cannot be copied: `get_config` lacks the arguments "
                f"{', '.join(sorted(missing))} of its constructor. Write `def get_config(self): "
                f"return {{**super().get_config(), {items}}}`."
            )
        try:
            return type(self).from_config({**config, **changes})
        except TypeError as error:
            raise TypeError(
                f"The attack {self.name} cannot be rebuilt from its `get_config`: {error}."
            ) from error

    @property
    def name(self) -> str:
        """Returns the attack's name in tables."""
        return type(self).__name__

    def get_config(self) -> Config:
        """Returns the constructor's arguments, from the attributes of the same names."""
        names = _arguments(type(self))
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Makes an attack from the result of `get_config`."""
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


def _arguments(cls: type) -> list[str]:
    """Lists a constructor's arguments, and its base classes' if it passes arguments on."""
    names: list[str] = []
    for base in cls.__mro__:
        constructor = vars(base).get("__init__", _passes_on)
        _, *parameters = inspect.signature(constructor).parameters.values()
        named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        names = named + names
        if len(named) == len(parameters):
            break
    return list(dict.fromkeys(names))


def _passes_on(self: Any, *args: Any, **kwargs: Any) -> None:
    """Has the signature of a constructor that passes everything on."""


def attackable(classifier: Classifier) -> Logits:
    """Returns the logits to attack, and warns if they are probabilities."""
    check_number_types(classifier)
    if squashing := squashing_head(classifier):
        warnings.warn(
            f"The attacked classifier ends in a {squashing}: its gradient vanishes when a "
            "probability is near 0 or 1, and the attack becomes too weak. Attack its logits: "
            "`classifier.layers[-1].activation = keras.activations.linear`.",
            stacklevel=5,
        )
    return differentiable_logits_function(classifier)
