"""Estimates gradient maps, the second input of the Two-stream Restoration Network."""

from keras_trn.gradient_maps.estimated_label import EstimatedLabel as EstimatedLabel
from keras_trn.gradient_maps.fixed_labels import PredictedLabel as PredictedLabel
from keras_trn.gradient_maps.fixed_labels import TrueLabel as TrueLabel
from keras_trn.gradient_maps.fixed_labels import UniformLabel as UniformLabel
from keras_trn.gradient_maps.gradient_map import GradientMap as GradientMap

__all__ = [
    "EstimatedLabel",
    "GradientMap",
    "PredictedLabel",
    "TrueLabel",
    "UniformLabel",
]
