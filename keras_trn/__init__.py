"""Defends Keras image classifiers against gradient-based adversarial attacks."""

# ruff: noqa: E402
from keras_trn.keras_settings import check_backend as _check_backend

# Keras chooses its backend at its first import, which happens in the modules below.
_check_backend()

from keras_trn import attacks as attacks
from keras_trn import baselines as baselines
from keras_trn import callbacks as callbacks
from keras_trn import datasets as datasets
from keras_trn import evaluation as evaluation
from keras_trn import gradient_maps as gradient_maps
from keras_trn import layers as layers
from keras_trn import losses as losses
from keras_trn import metrics as metrics
from keras_trn import threat_models as threat_models
from keras_trn import visualization as visualization
from keras_trn.adversarial_cache import cache_adversarial_examples as cache_adversarial_examples
from keras_trn.calibration import Calibration as Calibration
from keras_trn.cluster import Cluster as Cluster
from keras_trn.evaluation import evaluate as evaluate
from keras_trn.guarded_classifier import GuardedClassifier as GuardedClassifier
from keras_trn.presets import list_presets as list_presets
from keras_trn.protected_classifier import ProtectedClassifier as ProtectedClassifier
from keras_trn.restoration_autoencoder import RestorationAutoencoder as RestorationAutoencoder
from keras_trn.restoration_network import (
    SingleStreamRestorationNetwork as SingleStreamRestorationNetwork,
)
from keras_trn.restoration_network import TwoStreamRestorationNetwork as TwoStreamRestorationNetwork
from keras_trn.restored_classifier import RestoredClassifier as RestoredClassifier
from keras_trn.version import __version__ as __version__

__all__ = [
    "Calibration",
    "Cluster",
    "GuardedClassifier",
    "ProtectedClassifier",
    "RestorationAutoencoder",
    "RestoredClassifier",
    "SingleStreamRestorationNetwork",
    "TwoStreamRestorationNetwork",
    "__version__",
    "attacks",
    "baselines",
    "cache_adversarial_examples",
    "callbacks",
    "datasets",
    "evaluate",
    "evaluation",
    "gradient_maps",
    "layers",
    "list_presets",
    "losses",
    "metrics",
    "threat_models",
    "visualization",
]
