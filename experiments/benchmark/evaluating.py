"""Compares evaluating one attack with the attack, and with the passes that it needs."""

from typing import Any

from experiments.benchmark.attacks import attack_passes
from experiments.benchmark.ratios import medians
from experiments.benchmark.ratios import ratio
from experiments.benchmark.settings import Settings
from experiments.benchmark.settings import load_preset
from experiments.benchmark.settings import make_attack
from experiments.benchmark.settings import random_dataset
from experiments.studies.cost import seconds_in_turn
from keras_trn.evaluation import measure as evaluate_attack


def measure(settings: Settings) -> dict[str, Any]:
    """Times the row of one attack in an evaluation, without checks; its calls; and its passes."""
    classifier, attack = load_preset().classifier, make_attack(settings.steps)
    dataset = random_dataset(settings.evaluated_images, settings.data_batch_size).cache()
    passes_of_each = [attack_passes(classifier, images, settings.steps) for images, _ in dataset]

    def passes() -> None:
        for passes_of_batch in passes_of_each:
            passes_of_batch()

    def attacks() -> None:
        for images, labels in dataset:
            attack(classifier, images, labels)

    def evaluation() -> float:
        cells = evaluate_attack({"bare": classifier}, dataset, attack, verbose=0)
        return cells[-1]["seconds"]

    functions = {"passes": passes, "attack": attacks, "evaluation": evaluation}
    seconds = seconds_in_turn(functions, settings.repeats)
    return {
        "images": settings.evaluated_images,
        "seconds": medians(seconds),
        "evaluation_over_passes": ratio(seconds, "evaluation", "passes"),
        "evaluation_over_attack": ratio(seconds, "evaluation", "attack"),
    }
