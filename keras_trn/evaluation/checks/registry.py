"""The registry of sanity checks: the decorator that registers a check, and the runner."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

from keras_trn.attacks.attack import Attack
from keras_trn.evaluation.checks.examination import Examination
from keras_trn.evaluation.checks.examination import UnsupportedThreatModelError
from keras_trn.evaluation.tables import markdown_table
from keras_trn.map_derivative import short_message

Subject = Literal["defence", "main attack", "every attack"]

_MAY_BE_CHANCE = (
    "the defence answers at random, see `deterministic`, which may be the cause; attack the mean "
    "of several runs, such as `WhiteboxFull(samples=20)`, before you draw conclusions"
)
_ALSO_RANDOM = "the defence also answers at random, see `deterministic`"


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """Holds the result of a sanity check.

    A warning is not evidence against the defence. It tells you not to trust the numbers of the
    report until you understand its cause.

    Args:
        name: The name of the check's function.
        status: `"PASS"`, `"WARN"` or `"not applicable"`.
        figure: The number that decided, or `None`.
        finding: One sentence: the measurement and, for a warning, its meaning and the fix.
        attack: The name of the checked attack, or `None` for a check of the defence.

    Example:
        ```python
        from keras_trn.evaluation.checks import CheckResult

        result = CheckResult("deterministic", "PASS", 0.0, "5 runs give the same logits.")
        assert result.status == "PASS"
        ```
    """

    name: str
    status: str
    figure: float | None
    finding: str
    attack: str | None = None


@dataclasses.dataclass(frozen=True)
class Finding:
    """Holds a check's measurement before it becomes a sentence.

    Args:
        is_fine: Whether the check passes.
        figure: The number that decided, or `None`.
        observation: The measurement as a sentence without its full stop.
        advice: The meaning of a failure and how to fix it.
        randomness: How the randomness of a defence relates to a failure: it `"explains"` it,
            `"adds"` to it, or is the `"subject"` of the check.

    Example:
        ```python
        from keras_trn.evaluation import checks

        mean = float(np.mean(images))
        finding = checks.Finding(mean > 0.01, mean, f"The mean pixel is {mean:.2f}")
        assert finding.is_fine
        ```
    """

    is_fine: bool
    figure: float | None
    observation: str
    advice: str = ""
    randomness: Literal["explains", "adds", "subject"] = "explains"


@dataclasses.dataclass(frozen=True)
class NotApplicable:
    """Tells why a check does not apply to a defence or an attack.

    Args:
        reason: A sentence without its full stop.

    Example:
        ```python
        from keras_trn.evaluation import checks

        outcome = checks.NotApplicable("The defence restores no images")
        ```
    """

    reason: str


Outcome = Finding | NotApplicable


class Check:
    """Runs a registered check on an `Examination`, and on an attack if it examines every one."""

    is_check = True

    def __init__(
        self, function: Callable[..., Outcome], finds: str, source: str, subject: Subject
    ) -> None:
        functools.update_wrapper(self, function)
        self.name, self.finds, self.source, self.subject = function.__name__, finds, source, subject
        self.module = function.__module__
        self.title = (function.__doc__ or "").strip().partition("\n")[0]
        self._function = function

    def __call__(self, examination: Examination, attack: Attack | None = None) -> CheckResult:
        attack = examination.attack if attack is None else attack
        arguments = [attack] if self.subject == "every attack" else []
        finding = self._function(examination, *arguments)
        name = None if self.subject == "defence" else attack.name
        if isinstance(finding, NotApplicable):
            return CheckResult(self.name, "not applicable", None, f"{finding.reason}.", name)
        figure = None if finding.figure is None else float(f"{finding.figure:.6g}")
        if finding.is_fine:
            return CheckResult(self.name, "PASS", figure, f"{finding.observation}.", name)
        text = f"{finding.observation}: {_advice(finding, examination)}."
        return CheckResult(self.name, "WARN", figure, text, name)

    def attempt(self, examination: Examination, attack: Attack | None = None) -> CheckResult:
        """Runs the check, and turns an error into a warning, so the report is not lost."""
        try:
            return self(examination, attack)
        except Exception as error:
            is_explained = isinstance(error, UnsupportedThreatModelError)
            reason = str(error) if is_explained else f"{short_message(error)}."
        # The main attack already gets this warning.
        status = "not applicable" if is_explained and attack is not None else "WARN"
        name = None if self.subject == "defence" else (attack or examination.attack).name
        return CheckResult(self.name, status, None, f"The check could not be made: {reason}", name)


ALL_CHECKS: dict[str, Check] = {}
"""All checks by name. Every module of this package adds its own; users may add more."""


def check(
    finds: str, source: str = "this package", subject: Subject = "defence"
) -> Callable[[Callable[..., Outcome]], Check]:
    """Registers a function as a sanity check for every report.

    The function receives an `Examination` and, if `subject` is `"every attack"`, an attack. It
    returns a `Finding`, or `NotApplicable` with the reason. The first line of its docstring is the
    title of the check.

    Args:
        finds: The faults that it finds, for the table of checks in the documentation.
        source: The paper or program that introduced it.
        subject: `"defence"`; `"main attack"`, for the first iterative attack of the report; or
            `"every attack"`, to run it for each attack to which it applies.

    Returns:
        The decorator, which turns the function into a `Check`.

    Example:
        ```python
        from keras_trn.evaluation import checks

        @checks.check(finds="images that are nearly black")
        def images_are_bright(examination):
            '''Checks that the images are not nearly black.'''
            mean = float(np.mean(examination.images))
            return checks.Finding(mean > 0.01, mean, f"The mean pixel is {mean:.2f}")

        del checks.ALL_CHECKS["images_are_bright"]
        ```
    """

    def register(function: Callable[..., Outcome]) -> Check:
        made = Check(function, finds, source, subject)
        ALL_CHECKS[made.name] = made
        return made

    return register


def run_checks(
    examination: Examination, progress: Callable[[str], object] | None = None
) -> list[CheckResult]:
    """Runs all checks: of the defence, of the main attack, and of every other attack.

    Args:
        examination: The `Examination`.
        progress: Function that receives the name of each check before it runs, such as
            `set_description` of a progress bar.

    Returns:
        A list of results: one for each check, and one more for each other attack to which it
        applies. A check that raises an error gives a warning.

    Example:
        ```python
        from keras_trn.evaluation import checks

        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=2)
        examination = checks.Examination(classifier, images, labels, attack, queries=4)
        for result in checks.run_checks(examination):
            print(result.status, result.name, result.finding)
        ```
    """
    results = []
    for check in _in_order():
        if progress is not None:
            progress(check.name)
        results.append(check.attempt(examination))
        if check.subject == "every attack":
            others = [check.attempt(examination, attack) for attack in examination.other_attacks]
            results += [result for result in others if result.status != "not applicable"]
    return results


def checks_table() -> str:
    """Returns the Markdown table of all checks for the documentation."""
    rows = [
        [
            f"[`{check.name}`][{check.module}.{check.name}]",
            check.finds,
            check.subject,
            check.source,
        ]
        for check in _in_order()
    ]
    return markdown_table(["Check", "What it finds", "Examines", "Source"], rows, "llll")


def _in_order() -> list[Check]:
    """Returns all checks, the checks of the defence first."""
    return sorted(ALL_CHECKS.values(), key=lambda check: check.subject != "defence")


def _advice(finding: Finding, examination: Examination) -> str:
    if finding.randomness == "subject" or not examination.is_random:
        return finding.advice
    return (
        _MAY_BE_CHANCE if finding.randomness == "explains" else f"{finding.advice}; {_ALSO_RANDOM}"
    )
