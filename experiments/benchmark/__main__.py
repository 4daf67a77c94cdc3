"""Measures what the package costs, and writes the results and their tables.

    python -m experiments.benchmark results/benchmark.json

It compares, in one run and in turn:

- PGD of this package, CleverHans, ART and Foolbox with the passes of PGD;
- protected with bare predictions, next to their operations;
- a training step and an evaluation with the passes that they need;
- one worker with two;
- the memory for few images with the memory for many.

The images are random, so it needs no data. It needs Linux, Ray, ART and Foolbox, and an idle
machine.
"""

import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.benchmark import attacks
from experiments.benchmark import evaluating
from experiments.benchmark import memory
from experiments.benchmark import photographs
from experiments.benchmark import restoring
from experiments.benchmark import tables
from experiments.benchmark import training
from experiments.benchmark import workers
from experiments.benchmark.processes import in_new_process
from experiments.benchmark.settings import Settings
from experiments.writing import write_results
from keras_trn.evaluation.environment import describe_environment

MEASUREMENTS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "attacks": attacks.measure,
    "restoring": restoring.measure,
    "training": training.measure,
    "evaluating": evaluating.measure,
    "workers": workers.measure,
    "memory": memory.measure,
    "photographs": photographs.measure,
}


def main(path: Path, settings: Settings | None = None) -> None:
    """Takes all measurements, and writes them."""
    started = time.perf_counter()
    settings = settings or Settings()
    results: dict[str, Any] = {"settings": dataclasses.asdict(settings)}
    for name, measure in MEASUREMENTS.items():
        results[name] = in_new_process(measure, settings)
    results["imagenet"] = photographs.simulate(
        results.pop("photographs"), results["workers"]["crafting"]["speedup"]
    )
    results["seconds"] = round(time.perf_counter() - started)
    results["environment"] = describe_environment()
    write_results(path, results, texts(results))


def texts(results: dict[str, Any]) -> dict[str, str]:
    """Returns the tables by the ends of their files' names."""
    return {
        "": tables.comparisons(results),
        "_parts": tables.parts(results),
        "_imagenet": f"{tables.imagenet(results)}\n\n{tables.assumption_of_imagenet(results)}",
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
