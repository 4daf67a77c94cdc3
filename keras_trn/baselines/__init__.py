"""Provides baseline defences with the interface of a `ProtectedClassifier`."""

from keras_trn.baselines.adversarial_training import (
    AdversariallyTrainedClassifier as AdversariallyTrainedClassifier,
)
from keras_trn.baselines.bit_depth_reduction import BitDepthReduction as BitDepthReduction
from keras_trn.baselines.jpeg_compression import JpegCompression as JpegCompression
from keras_trn.baselines.median_smoothing import MedianSmoothing as MedianSmoothing
from keras_trn.baselines.total_variation_minimization import (
    TotalVariationMinimization as TotalVariationMinimization,
)

__all__ = [
    "AdversariallyTrainedClassifier",
    "BitDepthReduction",
    "JpegCompression",
    "MedianSmoothing",
    "TotalVariationMinimization",
]
