"""Sanity checks of a defence, of an attack, and of attackers among each other."""

from keras_trn.evaluation.checks.all_checks import ALL_CHECKS as ALL_CHECKS
from keras_trn.evaluation.checks.all_checks import run_checks as run_checks
from keras_trn.evaluation.checks.attack_checks import (
    attack_breaks_known_weak_defence as attack_breaks_known_weak_defence,
)
from keras_trn.evaluation.checks.attack_checks import bare_classifier_falls as bare_classifier_falls
from keras_trn.evaluation.checks.attack_checks import best_iterate_is_kept as best_iterate_is_kept
from keras_trn.evaluation.checks.attack_checks import (
    iterative_beats_single_step as iterative_beats_single_step,
)
from keras_trn.evaluation.checks.attack_checks import (
    loss_rises_along_the_attack as loss_rises_along_the_attack,
)
from keras_trn.evaluation.checks.attack_checks import monotone_in_epsilon as monotone_in_epsilon
from keras_trn.evaluation.checks.attack_checks import (
    more_steps_never_weaker as more_steps_never_weaker,
)
from keras_trn.evaluation.checks.attack_checks import (
    perturbations_are_valid as perturbations_are_valid,
)
from keras_trn.evaluation.checks.attack_checks import (
    unbounded_attack_succeeds as unbounded_attack_succeeds,
)
from keras_trn.evaluation.checks.binarization import binarization_test as binarization_test
from keras_trn.evaluation.checks.check_result import CheckResult as CheckResult
from keras_trn.evaluation.checks.cross_attack_checks import (
    blackbox_not_stronger as blackbox_not_stronger,
)
from keras_trn.evaluation.checks.cross_attack_checks import bpda_not_stronger as bpda_not_stronger
from keras_trn.evaluation.checks.cross_attack_checks import (
    random_noise_is_weaker as random_noise_is_weaker,
)
from keras_trn.evaluation.checks.cross_attack_checks import (
    whitebox_covers_blackbox as whitebox_covers_blackbox,
)
from keras_trn.evaluation.checks.examination import Examination as Examination
from keras_trn.evaluation.checks.model_checks import batch_invariance as batch_invariance
from keras_trn.evaluation.checks.model_checks import (
    classifier_beats_chance as classifier_beats_chance,
)
from keras_trn.evaluation.checks.model_checks import deterministic as deterministic
from keras_trn.evaluation.checks.model_checks import dynamic_defence as dynamic_defence
from keras_trn.evaluation.checks.model_checks import input_gradients as input_gradients
from keras_trn.evaluation.checks.model_checks import (
    map_gradient_is_complete as map_gradient_is_complete,
)
from keras_trn.evaluation.checks.model_checks import outputs_are_logits as outputs_are_logits
from keras_trn.evaluation.checks.model_checks import (
    restoration_switched_off as restoration_switched_off,
)

__all__ = [
    "ALL_CHECKS",
    "CheckResult",
    "Examination",
    "attack_breaks_known_weak_defence",
    "bare_classifier_falls",
    "batch_invariance",
    "best_iterate_is_kept",
    "binarization_test",
    "blackbox_not_stronger",
    "bpda_not_stronger",
    "classifier_beats_chance",
    "deterministic",
    "dynamic_defence",
    "input_gradients",
    "iterative_beats_single_step",
    "loss_rises_along_the_attack",
    "map_gradient_is_complete",
    "monotone_in_epsilon",
    "more_steps_never_weaker",
    "outputs_are_logits",
    "perturbations_are_valid",
    "random_noise_is_weaker",
    "restoration_switched_off",
    "run_checks",
    "unbounded_attack_succeeds",
    "whitebox_covers_blackbox",
]
