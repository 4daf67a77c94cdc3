"""The defences to compare with, which have the same interface."""

from keras_trn.baselines.adversarial_training import (
    AdversariallyTrainedClassifier as AdversariallyTrainedClassifier,
)
from keras_trn.baselines.bit_depth_reduction import BitDepthReduction as BitDepthReduction
from keras_trn.baselines.jpeg_compression import JpegCompression as JpegCompression
from keras_trn.baselines.median_smoothing import MedianSmoothing as MedianSmoothing
from keras_trn.baselines.perturbation_elimination import (
    AdversarialPerturbationElimination as AdversarialPerturbationElimination,
)
from keras_trn.baselines.representation_guided_denoiser import (
    RepresentationGuidedDenoiser as RepresentationGuidedDenoiser,
)
from keras_trn.baselines.total_variation_minimization import (
    TotalVariationMinimization as TotalVariationMinimization,
)

__all__ = [
    "AdversarialPerturbationElimination",
    "AdversariallyTrainedClassifier",
    "BitDepthReduction",
    "JpegCompression",
    "MedianSmoothing",
    "RepresentationGuidedDenoiser",
    "TotalVariationMinimization",
]
