"""The base class of all restorers of this package."""

from typing import Any

import keras


class Restorer(keras.Model):
    """Restores images; the base class of the restorers of this package."""

    takes_gradient_maps = False

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Builds the network for the shapes of a saved one; raises an error if it cannot."""
        # `keras.Model` hides errors here, and then silently loads no weights.
        keras.layers.Layer.build_from_config(self, config)
