"""Checks a defence, and the attacks on it, for signs of a wrong evaluation.

A check is a function in a module of this package. The decorator
`keras_trn.evaluation.checks.check` registers it and makes it available here by its name.
"""

import importlib
import pkgutil

from keras_trn.evaluation.checks.examination import Examination as Examination
from keras_trn.evaluation.checks.registry import ALL_CHECKS as ALL_CHECKS
from keras_trn.evaluation.checks.registry import Check as Check
from keras_trn.evaluation.checks.registry import CheckResult as CheckResult
from keras_trn.evaluation.checks.registry import Finding as Finding
from keras_trn.evaluation.checks.registry import NotApplicable as NotApplicable
from keras_trn.evaluation.checks.registry import check as check
from keras_trn.evaluation.checks.registry import run_checks as run_checks

__all__ = [
    "ALL_CHECKS",
    "CheckResult",
    "Examination",
    "Finding",
    "NotApplicable",
    "check",
    "run_checks",
]

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)


def __getattr__(name: str) -> Check:
    if name in ALL_CHECKS:
        return ALL_CHECKS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *ALL_CHECKS])
