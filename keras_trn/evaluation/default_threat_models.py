"""Chooses the threat models of each defence."""

from collections.abc import Iterable
from collections.abc import Mapping

import keras

from keras_trn import threat_models as known_threat_models
from keras_trn.attacks import Attack
from keras_trn.evaluation.arguments import as_threat_models
from keras_trn.evaluation.fingerprints import Fingerprints
from keras_trn.threat_models import ThreatModel

# Runs per gradient of a random defence, for expectation over transformation.
SAMPLES_OF_RANDOM_DEFENCES = 20


def threat_models_of_each(
    defences: Mapping[str, keras.Model],
    threat_models: ThreatModel | str | Iterable[ThreatModel | str] | None,
    attacks: list[Attack],
    fingerprints: Fingerprints,
) -> dict[str, list[ThreatModel]]:
    """Returns the threat models of each defence, by its name.

    All defences get the user's choice. By default, attackers average several runs of a random
    defence, and another attacker knows its random numbers.
    """
    if threat_models is not None:
        return dict.fromkeys(defences, as_threat_models(threat_models))
    unaware = [
        known_threat_models.Oblivious(),
        known_threat_models.Oblivious(labels="predicted"),
    ]
    of_one_run = [*unaware, *_adaptive(samples=1)]
    of_many_runs = [
        *unaware,
        *_adaptive(samples=SAMPLES_OF_RANDOM_DEFENCES),
        known_threat_models.FixedRandomness(),
    ]
    return {
        name: _supported(of_many_runs if fingerprints.is_random(defence) else of_one_run, attacks)
        for name, defence in defences.items()
    }


def all_threat_models(of_each: Mapping[str, list[ThreatModel]]) -> list[ThreatModel]:
    """Returns the threat models of all defences, without duplicates."""
    return list(dict.fromkeys(one for chosen in of_each.values() for one in chosen))


def _adaptive(samples: int) -> list[ThreatModel]:
    return [
        known_threat_models.TransferFromEstimator(samples=samples),
        known_threat_models.TransferWithoutMap(samples=samples),
        known_threat_models.BPDA(samples=samples),
        known_threat_models.WhiteboxStopgrad(samples=samples),
        known_threat_models.WhiteboxFull(samples=samples),
        known_threat_models.Blackbox(samples=samples),
    ]


def _supported(threat_models: list[ThreatModel], attacks: list[Attack]) -> list[ThreatModel]:
    return [one for one in threat_models if any(one.supports(attack) for attack in attacks)]
