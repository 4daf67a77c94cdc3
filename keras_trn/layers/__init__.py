"""Provides the building blocks of the restoration network."""

from keras_trn.layers.attack_gate import AttackGate as AttackGate
from keras_trn.layers.fusion_block import FusionBlock as FusionBlock
from keras_trn.layers.pixel_shuffle import PixelShuffle as PixelShuffle
from keras_trn.layers.pixel_shuffle import PixelUnshuffle as PixelUnshuffle
from keras_trn.layers.resampling import Downsample as Downsample
from keras_trn.layers.resampling import Upsample as Upsample
from keras_trn.layers.residual_block import ResidualBlock as ResidualBlock

__all__ = [
    "AttackGate",
    "Downsample",
    "FusionBlock",
    "PixelShuffle",
    "PixelUnshuffle",
    "ResidualBlock",
    "Upsample",
]
