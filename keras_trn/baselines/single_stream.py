"""What the learned baselines share: a restorer that knows of no gradients."""

from keras_trn.protected_classifier import ProtectedClassifier
from keras_trn.restoration_network import TwoStreamRestorationNetwork


class SingleStreamBaseline(ProtectedClassifier):
    """A classifier behind a single-stream restorer; a subclass says what that learns from.

    Args:
        classifier: A built Keras model from images to logits.
        restorer: A `TwoStreamRestorationNetwork` with `gradient_stream=False`, the
            default.
        **kwargs: The usual arguments of a Keras model (`name`).

    Raises:
        ValueError: If the restorer is no restoration network, or has a gradient stream.
    """

    def __init__(self, classifier, restorer=None, **kwargs):
        super().__init__(classifier, _checked_restorer(restorer), **kwargs)

    def get_config(self):
        config = super().get_config()
        del config["gradient_map"]
        return config


def _checked_restorer(restorer):
    """Returns the single-stream restorer that was given, or else a new one."""
    if restorer is None:
        return TwoStreamRestorationNetwork(gradient_stream=False)
    if not hasattr(restorer, "gradient_stream"):
        raise ValueError(
            "restorer must be a `keras_trn.TwoStreamRestorationNetwork(gradient_stream=False)`, "
            f"received {restorer!r}."
        )
    if restorer.gradient_stream:
        raise ValueError(
            "This baseline restores images without their gradient maps, and the restorer has a "
            "gradient stream. Build it with `TwoStreamRestorationNetwork(gradient_stream=False)`, "
            "or take its `single_stream_baseline`."
        )
    return restorer
