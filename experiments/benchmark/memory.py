"""Measures how the peak memory of crafting and evaluating grows with the images."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras_trn
from experiments.benchmark.processes import in_new_process
from experiments.benchmark.settings import Settings
from experiments.benchmark.settings import load_preset
from experiments.benchmark.settings import make_attack
from experiments.benchmark.settings import random_dataset

# The loop of the attack holds one step at a time, so few of them are enough.
STEPS, CHECKED_IMAGES = 2, 10


def craft(images: int, batch_size: int) -> float:
    """Crafts adversarial examples into a folder; returns the peak memory of the process."""
    dataset = random_dataset(images, batch_size)
    with tempfile.TemporaryDirectory() as folder:
        keras_trn.cache_adversarial_examples(
            load_preset().classifier, dataset, make_attack(STEPS), folder, verbose=0
        )
    return peak_memory()


def evaluate(images: int, batch_size: int) -> float:
    """Evaluates the protected classifier; returns the peak memory of the process."""
    keras_trn.evaluate(
        load_preset(),
        random_dataset(images, batch_size),
        make_attack(STEPS),
        "oblivious",
        check_examples=CHECKED_IMAGES,
        verbose=0,
    )
    return peak_memory()


def peak_memory() -> float:
    """Returns the largest memory of this process so far, in MiB, as Linux tells it."""
    # `ru_maxrss` of a new process also counts the process that started it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    if peak is None:
        raise OSError("/proc/self/status does not tell the peak memory (VmHWM): run this on Linux.")
    return int(peak[1]) / 1024


def measure(settings: Settings) -> dict[str, Any]:
    """Measures each size in a process of its own."""
    return {
        "images": settings.memory_images,
        "crafting": _compare(craft, settings),
        "evaluating": _compare(evaluate, settings),
    }


def _compare(work: Callable[[int, int], float], settings: Settings) -> dict[str, Any]:
    few, many = (
        in_new_process(work, images, settings.data_batch_size) for images in settings.memory_images
    )
    return {"mebibytes": [round(few), round(many)], "growth": round(many / few, 3)}
