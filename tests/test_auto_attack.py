"""AutoAttack has the authors' parts and settings, and is at least as strong as PGD."""

import keras
import numpy as np
import pytest

from keras_trn import attacks
from tests.helpers import linear_classifier
from tests.helpers import predictions

EPSILONS = {"linf": 0.08, "l2": 0.5}
every_norm = pytest.mark.parametrize("norm", EPSILONS)

CE, DLR = {"loss": "cross_entropy"}, {"loss": "difference_of_logits_ratio"}
APGD_CE = ("APGD-CE", {**CE, "steps": 100, "targets": None})
APGD_T = ("APGD-T", {**DLR, "steps": 100, "targets": 9})
FAB_T = ("FAB-T", {"steps": 100, "targets": 9, "restarts": 1})
SQUARE = ("Square", {"queries": 5000})
# Of each part: the name, and the settings that the authors' code gives it.
VERSIONS = {
    "standard": [APGD_CE, APGD_T, FAB_T, SQUARE],
    "plus": [
        ("APGD-CE x5", {"restarts": 5}),
        ("APGD-DLR x5", {"restarts": 5}),
        ("FAB", {"steps": 100, "targets": None, "restarts": 5}),
        SQUARE,
        APGD_T,
        FAB_T,
    ],
    "rand": [("APGD-CE, 20 samples", {"samples": 20}), ("APGD-DLR, 20 samples", {"samples": 20})],
    # A version of this project, as its documentation describes it.
    "fast": [
        ("APGD-CE", {**CE, "steps": 20, "targets": None}),
        ("APGD-T", {**DLR, "steps": 30, "targets": 4}),
        ("Square", {"queries": 300}),
    ],
}
every_version = pytest.mark.parametrize("version", VERSIONS)


def made_cheaper(ensemble):
    """Returns the same parts in the same order, with fewer steps, targets and queries."""
    changes = {
        attacks.AutoProjectedGradientDescent: {"steps": 10},
        attacks.FastAdaptiveBoundary: {"steps": 10, "targets": 3},
        attacks.Square: {"queries": 50},
    }
    parts = [part.variant(**changes[type(part)]) for part in ensemble.attacks]
    return attacks.AttackEnsemble(parts, ensemble.name, ensemble.seed)


@every_norm
@every_version
def test_versions_have_the_parts_and_settings_of_the_authors(version, norm):
    ensemble = attacks.auto_attack(version, epsilon=0.25, norm=norm, seed=3)
    expected = VERSIONS[version]
    assert [part.name for part in ensemble.attacks] == [name for name, _ in expected]
    for part, (_, settings) in zip(ensemble.attacks, expected, strict=True):
        assert {name: getattr(part, name) for name in settings} == settings
        assert (part.epsilon, part.norm) == (0.25, norm)
    assert (ensemble.epsilon, ensemble.norm, ensemble.seed) == (0.25, norm, 3)


@pytest.mark.parametrize("version", ["plus", "rand"])
def test_repeated_parts_are_untargeted_apgd_with_both_losses(version):
    first, second, *_ = attacks.auto_attack(version).attacks
    for part, loss in ((first, CE), (second, DLR)):
        expected = attacks.AutoProjectedGradientDescent(8 / 255, steps=100, targets=None, **loss)
        assert part.attack.get_config() == expected.get_config()


def test_versions_have_names_of_their_own():
    names = [attacks.auto_attack(version).name for version in VERSIONS]
    assert names == ["AutoAttack", "AutoAttack plus", "AutoAttack rand", "AutoAttack fast"]


@pytest.mark.slow
@every_norm
def test_it_leaves_at_most_what_pgd_leaves(norm, classifier, digits):
    images, labels = digits[0][:40], digits[1][:40]
    epsilon = EPSILONS[norm]
    pgd = attacks.ProjectedGradientDescent(epsilon, norm=norm, steps=20, seed=0)
    ensemble = made_cheaper(attacks.auto_attack("standard", epsilon, norm, seed=0))
    withstood = [
        np.sum(predictions(classifier, attack(classifier, images, labels)) == labels)
        for attack in (pgd, ensemble)
    ]
    clean = np.sum(predictions(classifier, images) == labels)
    assert 0 < withstood[1] <= withstood[0] < clean


@pytest.mark.slow
@every_norm
def test_it_attacks_a_classifier_of_two_classes(norm, digits):
    keras.utils.set_random_seed(0)
    classifier = linear_classifier(num_classes=2)
    images = digits[0][:12]
    labels = predictions(classifier, images)
    largest = {"linf": 1.0, "l2": 8.0}[norm]
    ensemble = made_cheaper(attacks.auto_attack("standard", largest, norm, seed=0))
    adversarial = ensemble(classifier, images, labels)
    assert np.all(predictions(classifier, adversarial) != labels)


def test_unknown_version_is_refused():
    message = "version must be one of 'standard', 'plus', 'rand', 'fast', received 'best'"
    with pytest.raises(ValueError, match=message):
        attacks.auto_attack("best")
