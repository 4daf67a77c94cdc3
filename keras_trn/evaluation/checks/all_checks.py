"""All checks in one run."""

from keras_trn.evaluation.checks.between_attacks import blackbox_not_stronger
from keras_trn.evaluation.checks.between_attacks import bpda_not_stronger
from keras_trn.evaluation.checks.between_attacks import random_noise_is_weaker
from keras_trn.evaluation.checks.between_attacks import whitebox_covers_blackbox
from keras_trn.evaluation.checks.binarization import binarization_test
from keras_trn.evaluation.checks.check_result import judged
from keras_trn.evaluation.checks.of_the_attack import attack_breaks_known_weak_defence
from keras_trn.evaluation.checks.of_the_attack import bare_classifier_falls
from keras_trn.evaluation.checks.of_the_attack import best_iterate_is_kept
from keras_trn.evaluation.checks.of_the_attack import iterative_beats_single_step
from keras_trn.evaluation.checks.of_the_attack import loss_rises_along_the_attack
from keras_trn.evaluation.checks.of_the_attack import monotone_in_epsilon
from keras_trn.evaluation.checks.of_the_attack import more_steps_never_weaker
from keras_trn.evaluation.checks.of_the_attack import perturbations_are_valid
from keras_trn.evaluation.checks.of_the_attack import unbounded_attack_succeeds
from keras_trn.evaluation.checks.of_the_model import batch_invariance
from keras_trn.evaluation.checks.of_the_model import deterministic
from keras_trn.evaluation.checks.of_the_model import dynamic_defence
from keras_trn.evaluation.checks.of_the_model import input_gradients
from keras_trn.evaluation.checks.of_the_model import outputs_are_logits
from keras_trn.evaluation.checks.of_the_model import restoration_switched_off

ALL_CHECKS = (
    outputs_are_logits,
    deterministic,
    input_gradients,
    dynamic_defence,
    blackbox_not_stronger,
    iterative_beats_single_step,
    more_steps_never_weaker,
    monotone_in_epsilon,
    unbounded_attack_succeeds,
    random_noise_is_weaker,
    whitebox_covers_blackbox,
    loss_rises_along_the_attack,
    best_iterate_is_kept,
    perturbations_are_valid,
    bare_classifier_falls,
    attack_breaks_known_weak_defence,
    binarization_test,
    bpda_not_stronger,
    restoration_switched_off,
    batch_invariance,
)


def run_checks(examination, progress=None):
    """Makes all checks, from those of the defence to those of attackers among each other.

    A check that fails with an error becomes a warning which names it, so that one
    defect does not cost the report.

    Args:
        examination: The `Examination`.
        progress: Function that is called with the name of each check before it is
            made, such as the `set_description` of a progress bar.

    Returns:
        A list of twenty `CheckResult`.

    Example:
        ```python
        import keras
        import keras_trn
        from keras_trn.evaluation import checks

        classifier = keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
        )
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
    except Exception as error:
        # The last line is the error's own, where TensorFlow puts a whole traceback before it.
        *_, message = ["", *str(error).strip().splitlines()]
        cause = f"{type(error).__name__}, {message.strip().rstrip('.')}"
        return judged(check.__name__, False, None, "The check could not be made", cause)
