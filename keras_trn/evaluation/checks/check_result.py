"""What a sanity check found."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """What a sanity check found, to print and to save.

    A check that does not pass says nothing against the defence: it says that the
    numbers of its report are not to be believed before its cause is fixed.

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
