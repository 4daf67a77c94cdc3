"""What a sanity check found."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """What a sanity check found, to print and to save.

    A check that does not pass says nothing against the defence: it says that the
    numbers beside it are not to be believed before its cause is fixed.

    Args:
        name: The name of the check's function.
        status: `"PASS"`, `"WARN"` or `"not applicable"`.
        figure: The number that decided, or `None` where there is none.
        finding: One sentence: what was measured and, for a warning, what it means
            and how to fix it.

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


def judged(name, is_well, figure, measured, warning):
    """The result of a check that could be made.

    Args:
        name: The name of the check's function.
        is_well: Whether the check passes.
        figure: The number that decided, or `None`.
        measured: What was measured: a sentence without its full stop.
        warning: What it means where the check does not pass, and how to fix it.

    Returns:
        A `CheckResult`.
    """
    figure = None if figure is None else float(f"{figure:.6g}")
    if is_well:
        return CheckResult(name, "PASS", figure, f"{measured}.")
    return CheckResult(name, "WARN", figure, f"{measured}: {warning}.")


def not_applicable(name, reason):
    """The result of a check that makes no sense for this defence.

    Args:
        name: The name of the check's function.
        reason: Why: a sentence without its full stop.

    Returns:
        A `CheckResult`.
    """
    return CheckResult(name, "not applicable", None, f"{reason}.")
