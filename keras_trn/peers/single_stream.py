"""The restorer of the learned peers, which knows of no gradients."""

from keras_trn.restoration_network import TwoStreamRestorationNetwork


def checked_restorer(restorer):
    """Returns the single-stream restorer that was given, or else a new one.

    Args:
        restorer: A `TwoStreamRestorationNetwork` with `gradient_stream=False`, or
            `None`.

    Returns:
        A single-stream restorer.

    Raises:
        ValueError: If the restorer has a gradient stream.
    """
    if restorer is None:
        return TwoStreamRestorationNetwork(gradient_stream=False)
    if restorer.gradient_stream:
        raise ValueError(
            "This peer restores images without their gradient maps, and the restorer has a "
            "gradient stream. Build it with `TwoStreamRestorationNetwork(gradient_stream=False)`, "
            "or take its `single_stream_peer`."
        )
    return restorer
