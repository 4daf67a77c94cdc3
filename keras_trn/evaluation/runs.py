"""Plans the runs of an evaluation: which attack is run on which model."""

import collections
import dataclasses
import functools
import json
import math
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_trn.attacks import Attack
from keras_trn.evaluation.default_threat_models import all_threat_models
from keras_trn.evaluation.fingerprints import Fingerprints
from keras_trn.evaluation.passes import CountedTarget
from keras_trn.evaluation.passes import counted
from keras_trn.threat_models import ThreatModel
from keras_trn.types import Classifier
from keras_trn.types import Config

# NumPy may have rounded an epsilon to float32.
SAME_EPSILON = 1e-6

# The measurements of one defence under one attack and threat model: a row of the JSON file.
Cell = dict[str, Any]


@dataclasses.dataclass
class Run:
    """Describes one attack under one threat model, and the defences measured on its images."""

    defences: list[str]
    attack: Attack | None = None
    threat_model: ThreatModel | None = None
    attacked: keras.Model = None
    epsilon: float = 0.0
    in_epsilon_sweep: bool = False

    @functools.cached_property
    def target(self) -> Classifier | None:
        """The function that the attacker attacks."""
        return self.threat_model and self.threat_model.target(self.attacked)

    @functools.cached_property
    def counted_target(self) -> CountedTarget:
        """The target, with a count of the passes through it."""
        return counted(self.target)

    def __getstate__(self) -> Config:
        # A copy, such as a worker's, makes its own targets.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def craft(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Crafts adversarial images, and counts the passes if they are crafted for one defence."""
        if self.attack is None or self.threat_model is None:
            return images
        target = self.counted_target if self.threat_model.is_adaptive else self.target
        return self.attack(target, images, labels, self.epsilon)

    @property
    def first_defence_and_threat_model(self) -> tuple[str, str | None]:
        """The names of the defence, the first of several, and of the threat model."""
        return self.defences[0], None if self.threat_model is None else self.threat_model.name

    @property
    def fixes_randomness(self) -> bool:
        """Whether the defences draw the same random numbers in each call."""
        return self.threat_model is not None and self.threat_model.fixes_randomness

    @property
    def title(self) -> str:
        """The text at the progress bar."""
        if self.attack is None or self.threat_model is None:
            return "benign"
        defences = self.defences[0] if self.threat_model.is_adaptive else "all"
        return f"{self.threat_model.name}, {self.attack.name}, {defences}"

    def cell_settings(self) -> Config:
        """Returns the part of a cell that says which run it is of."""
        if self.attack is None or self.threat_model is None:
            return {"attack": "benign", "threat_model": None, "labels": None, "epsilon": 0.0}
        return {
            "attack": self.attack.name,
            "threat_model": self.threat_model.name,
            "labels": self.threat_model.labels,
            "norm": self.attack.norm,
            "epsilon": self.epsilon,
            "in_epsilon_sweep": self.in_epsilon_sweep,
            "settings": {**attack_settings(self.attack), "epsilon": self.epsilon},
            "samples": getattr(self.threat_model, "samples", 1),
        }

    def dependencies(
        self, defences: Mapping[str, keras.Model], fingerprints: Fingerprints
    ) -> Config:
        """Returns all that the results depend on, except for the data and the versions."""
        models = [next(iter(defences)), *self.defences]
        is_model = isinstance(self.target, keras.Model)
        return {
            **self.cell_settings(),
            "attack_class": str(type(self.attack)),
            "threat_model": self.threat_model and self.threat_model.get_config(),
            "threat_model_class": str(type(self.threat_model)),
            "defences": self.defences,
            "models": [fingerprints.of(defences[name]) for name in models],
            "target": fingerprints.of(self.target) if is_model else None,
        }


def attack_settings(attack: Attack) -> Config:
    """Returns the config of an attack in a form that JSON can hold, whatever its arguments are."""
    return keras.saving.serialize_keras_object(attack)["config"]


def plan_runs(
    defences: Mapping[str, keras.Model],
    attacks: list[Attack],
    threat_models: Mapping[str, list[ThreatModel]],
    epsilons: list[float],
) -> list[Run]:
    """Returns all runs of an evaluation, the benign one first.

    Refuses attacks that no run uses, and an ambiguous table. `threat_models` holds a list for
    each defence, by its name.
    """
    runs = [Run(list(defences))]
    for threat_model in all_threat_models(threat_models):
        supported = [attack for attack in attacks if threat_model.supports(attack)]
        if attacks and not supported:
            raise ValueError(
                f"The threat model {threat_model.name!r} supports none of the attacks "
                f"{', '.join(attack.name for attack in attacks)}. "
                "`blackbox` needs an attack that only queries, such as `Square`; every other "
                "threat model needs one that takes gradients, such as `ProjectedGradientDescent`."
            )
        swept = [attack for attack in supported if attack is attacks[0]]
        chosen = {
            name: defence
            for name, defence in defences.items()
            if threat_model in threat_models[name]
        }
        for names, attacked in _attacked_models(threat_model, chosen):
            make = functools.partial(Run, names, threat_model=threat_model, attacked=attacked)
            runs += [make(attack=attack, epsilon=attack.epsilon) for attack in supported]
            runs += [
                make(attack=attack, epsilon=epsilon, in_epsilon_sweep=True)
                for attack in swept
                for epsilon in epsilons
                if not math.isclose(epsilon, attack.epsilon, rel_tol=SAME_EPSILON)
            ]
    if attacks and len(runs) == 1:
        raise ValueError(_no_run_text(defences, all_threat_models(threat_models)))
    _check_rows_differ(runs[1:])
    return runs


def _attacked_models(
    threat_model: ThreatModel, defences: Mapping[str, keras.Model]
) -> Iterator[tuple[list[str], keras.Model]]:
    """Yields each model to attack, with the names of the defences measured on its images."""
    if not threat_model.is_adaptive:
        yield list(defences), next(iter(defences.values()))
        return
    for name, defence in defences.items():
        if threat_model.applies_to(defence):
            yield [name], defence


def _no_run_text(defences: Mapping[str, keras.Model], threat_models: list[ThreatModel]) -> str:
    """Returns the error message for attacks that no threat model runs."""
    if not threat_models:
        return "There are attacks but no threat model to run them under. Add one: `oblivious`."
    needs = dict.fromkeys(f"`{one.name}` needs {one.needs}" for one in threat_models)
    return (
        f"No threat model applies to {', '.join(defences)}, so no attack would be run: "
        f"{'; '.join(needs)}. `oblivious` applies to every defence."
    )


def _check_rows_differ(runs: list[Run]) -> None:
    rows = collections.Counter(
        json.dumps([{**run.cell_settings(), "settings": None}, run.defences]) for run in runs
    )
    for row, number in rows.items():
        if number > 1:
            settings, defences = json.loads(row)
            raise ValueError(
                f"{number} runs on {', '.join(defences)} would have the same row: "
                f"{settings['attack']} under {settings['threat_model']} at an epsilon of "
                f"{settings['epsilon']}. Leave one out, or give each `Transfer` another `name`."
            )


def missing_run_text(missing: Mapping[str, Any]) -> str:
    """Returns the end of a sentence on what was not run: on which defence, and why."""
    return f"`{missing['threat_model']}` on `{missing['defence']}`, because {missing['reason']}."
