"""What makes a function a check, and what all checks have in common."""

import dataclasses
import functools

from keras_trn.evaluation.checks.check_result import CheckResult

_MAY_BE_CHANCE = (
    "the defence answers at random, see `deterministic`, which may be the cause; attack the mean "
    "of several runs, such as `WhiteboxFull(samples=20)`, before anything else is concluded"
)
_ALSO_RANDOM = "the defence also answers at random, see `deterministic`"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a check measured, before it is put into a sentence.

    Args:
        passed: Whether the check passes.
        figure: The number that decided, or `None`.
        measured: What was measured: a sentence without its full stop.
        warning: What it means where the check does not pass, and how to fix it.
        random_explains: Whether the defence can fail by being random alone; `None` for the
            check of randomness itself.
    """

    passed: bool
    figure: float | None
    measured: str
    warning: str = ""
    random_explains: bool | None = True


@dataclasses.dataclass(frozen=True)
class NotApplicable:
    """What a check says that makes no sense for a defence.

    Args:
        reason: Why: a sentence without its full stop.
    """

    reason: str


def check(function):
    """Makes a check of a function, to be made with all others.

    What a warning means is another matter where the defence answers at random: two runs then
    differ by themselves. So the warning names that as the likely cause.

    Args:
        function: Function from an `Examination` to a `Finding` or `NotApplicable`. Its name is
            that of the check.

    Returns:
        A function from an `Examination` to a `CheckResult`.
    """

    @functools.wraps(function)
    def checked(examination):
        finding = function(examination)
        if isinstance(finding, NotApplicable):
            return CheckResult(function.__name__, "not applicable", None, f"{finding.reason}.")
        return _result(function.__name__, finding, examination)

    checked.is_check = True
    return checked


def checks_of(module):
    """Lists the checks that a module defines.

    Args:
        module: A Python module.

    Returns:
        A list of functions, in the order of their definition.
    """
    return [
        value
        for value in vars(module).values()
        if getattr(value, "is_check", False) and value.__module__ == module.__name__
    ]


def _result(name, finding, examination):
    figure = None if finding.figure is None else float(f"{finding.figure:.6g}")
    if finding.passed:
        return CheckResult(name, "PASS", figure, f"{finding.measured}.")
    warning = _warning(finding, examination)
    return CheckResult(name, "WARN", figure, f"{finding.measured}: {warning}.")


def _warning(finding, examination):
    """What the finding means, and that the defence is random where it is."""
    if finding.random_explains is None or not examination.is_random:
        return finding.warning
    return _MAY_BE_CHANCE if finding.random_explains else f"{finding.warning}; {_ALSO_RANDOM}"
