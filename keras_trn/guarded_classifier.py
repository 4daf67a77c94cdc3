"""A hardened restorer that decides the class, and a second restorer that restores the image."""

import math
from typing import Any
from typing import Self

import keras
import tensorflow as tf

from keras_trn.gradient_maps.gradient_map import GradientMap
from keras_trn.input_validation import check_range
from keras_trn.protected_classifier import ProtectedClassifier
from keras_trn.restored_classifier import RestoredClassifier
from keras_trn.types import Config


@keras.saving.register_keras_serializable(package="keras_trn")
class GuardedClassifier(RestoredClassifier):
    """Classifies behind a hardened restorer, and restores images with a second one.

    A hardened restorer withstands attackers who know everything, but its images lack details. A
    restorer that was trained against attackers who do not know of it restores the details, but
    falls to the others. This model combines them: the hardened restorer alone decides the class.
    `restore` tries the image of the second restorer, then the unrestored image. It returns the
    first one that the classifier gives this class, or else the image of the hardened one. So the
    robust accuracy is that of the hardened restorer, whatever an attacker does to the second.

    With `mixing`, the class also depends on the classifier's own belief about the unrestored
    image. That raises benign accuracy and costs robust accuracy. The cost is bounded: an attacker
    can move each probability by at most `mixing` more than without it.

    Source of the mixing: Bai et al., "MixedNUTS", arXiv 2402.02263.

    Args:
        hardened: A `ProtectedClassifier`, trained with `threat_model="whitebox_full"`.
        restorer: The restorer of another `ProtectedClassifier` of the same classifier.
        gradient_map: Its gradient map, if it takes one.
        mixing: The weight of the classifier's probabilities for the unrestored image, from 0 to
            less than 0.5. The probabilities for the restored image have the rest. Choose it on
            validation images under attack.
        **kwargs: The usual arguments of a Keras model (`name`).

    Call arguments:
        images: Shape `(batch, height, width, channels)`, in [0, 1].

    Returns:
        Logits: float32, of shape `(batch, num_classes)`; with `mixing`, log-probabilities.

    Raises:
        ValueError: If `hardened` is no `ProtectedClassifier`, restorer and gradient map do not fit
            each other, or `mixing` is out of range.

    Example:
        ```python
        hardened = keras_trn.ProtectedClassifier(classifier, keras_trn.RestorationAutoencoder())
        second = keras_trn.ProtectedClassifier(classifier)
        guarded = keras_trn.GuardedClassifier(hardened, second.restorer, second.gradient_map)
        assert keras.ops.all(guarded(images) == hardened(images))
        ```
    """

    def __init__(
        self,
        hardened: ProtectedClassifier,
        restorer: keras.Model,
        gradient_map: GradientMap | None = None,
        mixing: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if not isinstance(hardened, ProtectedClassifier):
            raise ValueError(
                "hardened must be a `keras_trn.ProtectedClassifier` that was trained with "
                f'`compile(threat_model="whitebox_full")`; received {hardened!r}.'
            )
        if gradient_map is None and getattr(restorer, "takes_gradient_maps", False):
            raise ValueError(
                "This restorer takes gradient maps: pass the map that it was trained with, as "
                "`GuardedClassifier(hardened, second.restorer, second.gradient_map)`."
            )
        super().__init__(hardened.classifier, **kwargs)
        self.hardened = hardened
        # It checks that restorer and gradient map fit, and runs them.
        self.second = ProtectedClassifier(hardened.classifier, restorer, gradient_map)
        self.mixing = check_range("mixing", mixing, 0, 0.499)
        self.class_names = hardened.class_names
        self.build((None, *self.image_shape))

    @property
    def forward_passes(self) -> int:  # type: ignore[override]
        """Counts the forward passes in one prediction."""
        return self.hardened.forward_passes + (self.mixing > 0)

    def call(self, images: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
        return self._decide(images, self.hardened.restore_batch(images))

    def _decide(self, images: tf.Tensor, restored: tf.Tensor) -> tf.Tensor:
        """Returns the logits, from the images before and after the hardened restorer."""
        logits = self._logits(restored)
        if self.mixing == 0:
            return logits
        # Probabilities of large logits round to 0, and their logarithms to minus infinity.
        shares = [
            tf.nn.log_softmax(logits) + math.log(1 - self.mixing),
            tf.nn.log_softmax(self._logits(images)) + math.log(self.mixing),
        ]
        return tf.reduce_logsumexp(tf.stack(shares), axis=0)

    def restore_batch(self, images: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
        """Restores a batch; as `RestoredClassifier.restore_batch`."""
        restored = self.hardened.restore_batch(images)
        decided = tf.argmax(self._decide(images, restored), axis=-1)
        # The later candidate is closer to the clean image, and is taken if it has the class.
        for candidate in (images, self.second.restore_batch(images)):
            keeps_class = tf.argmax(self._logits(candidate), axis=-1) == decided
            restored = tf.where(keeps_class[:, None, None, None], candidate, restored)
        return restored

    def get_config(self) -> Config:
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "hardened": serialize(self.hardened),
            "restorer": serialize(self.second.restorer),
            "gradient_map": serialize(self.second.gradient_map),
            "mixing": self.mixing,
        }

    @classmethod
    def from_config(cls, config: Config, custom_objects: Config | None = None) -> Self:
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in ("hardened", "restorer", "gradient_map")
        }
        return cls(**{**config, **parts})
