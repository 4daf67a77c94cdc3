"""Evaluates a defence and checks that the evaluation can be trusted."""

from keras_trn.evaluation import checks as checks
from keras_trn.evaluation.evaluator import evaluate as evaluate
from keras_trn.evaluation.measurement import measure as measure
from keras_trn.evaluation.report import Report as Report

__all__ = ["Report", "checks", "evaluate", "measure"]
