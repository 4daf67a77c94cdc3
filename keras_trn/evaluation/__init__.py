"""Measuring what a defence is worth."""

from keras_trn.evaluation.evaluator import evaluate as evaluate
from keras_trn.evaluation.report import Report as Report

__all__ = ["Report", "evaluate"]
