"""All checks in one run."""

from keras_trn.evaluation.checks import attack_checks
from keras_trn.evaluation.checks import binarization
from keras_trn.evaluation.checks import cross_attack_checks
from keras_trn.evaluation.checks import model_checks
from keras_trn.evaluation.checks.check_result import CheckResult
from keras_trn.evaluation.checks.examination import UnsupportedThreatModelError
from keras_trn.evaluation.checks.registry import checks_of
from keras_trn.threat_models import short_message

# In the order in which they are made and reported.
_PARTS = (model_checks, attack_checks, binarization, cross_attack_checks)
ALL_CHECKS = tuple(check for part in _PARTS for check in checks_of(part))


def run_checks(examination, progress=None):
    """Makes all checks: of the defence, of the attack, and of attackers among each other.

    A check that fails with an error becomes a warning which names it, so that one
    defect does not cost the report.

    Args:
        examination: The `Examination`.
        progress: Function that is called with the name of each check before it is
            made, such as the `set_description` of a progress bar.

    Returns:
        A list of `CheckResult`, one for each of `ALL_CHECKS`.

    Example:
        ```python
        from keras_trn.evaluation import checks

        images, labels = keras.random.uniform((4, 8, 8, 1)), [3, 1, 4, 1]
        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=2)
        examination = checks.Examination(classifier, images, labels, attack, queries=4)
        for result in checks.run_checks(examination):
            print(result.status, result.name, result.finding)
        ```
    """
    results = []
    for check in ALL_CHECKS:
        if progress is not None:
            progress(check.__name__)
        results.append(_attempt(check, examination))
    return results


def _attempt(check, examination):
    try:
        return check(examination)
    except UnsupportedThreatModelError as error:
        return CheckResult(check.__name__, "WARN", None, f"The check could not be made: {error}")
    except Exception as error:
        finding = f"The check could not be made: {short_message(error)}."
        return CheckResult(check.__name__, "WARN", None, finding)
