"""The base of attacks by the Adversarial Robustness Toolbox (ART)."""

import contextlib
import random
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import Tensor
from tqdm import TqdmWarning

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.norms import project
from keras_trn.types import Logits


class ArtAttack(Attack):
    """Runs an attack of ART (arXiv 1807.01069) on images that are classified correctly.

    Other images, and those with an epsilon of 0, are unchanged. ART takes one epsilon at a time:
    images with different epsilons are attacked one group after the other.
    """

    runs_in_graph = False
    # What ART differentiates, if the attack wants a loss: from one-hot labels and logits.
    loss_function: Any = None
    # For how many calls the logits of an image are remembered.
    remembered_calls = 0

    def make_attack(self, estimator: Any, epsilon: float) -> Any:
        """Makes the `EvasionAttack` of ART for an epsilon above 0: what a subclass must write."""
        raise NotImplementedError(f"{type(self).__name__} does not define `make_attack`.")

    def craft(
        self, logits: Logits, images: Tensor, labels: Tensor, epsilon: Tensor, random_seed: Tensor
    ) -> Tensor:
        estimator = self._estimator(logits, images)
        estimator.forget()
        predicted = tf.argmax(estimator.predict(images.numpy()), axis=-1)
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

    def _estimator(self, logits: Logits, images: Tensor) -> Any:
        """Returns the classifier for ART, made once for a classifier and an image shape."""
        import_art()
        from keras_trn.attacks.art_estimator import Estimator

        image_shape = tuple(images.shape[1:])
        return self._graphs.remember(
            ("estimator", image_shape),
            (self, logits),
            lambda: Estimator(logits, image_shape, self.loss_function, self.remembered_calls),
        )


def import_art() -> ModuleType:
    """Imports ART, which takes a while, when it is first needed."""
    with warnings.catch_warnings():
        # ART misses PyTorch, and ipywidgets in a notebook; none of these attacks needs them.
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", TqdmWarning)
        import art.attacks.evasion
        import art.estimators.classification
    return art


@contextlib.contextmanager
def _global_random_state(seed: np.ndarray) -> Iterator[None]:
    """Seeds the global generators that ART draws from, and restores them afterwards."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    np.random.seed(seed.astype("uint32"))
    random.seed(seed.tobytes())
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
