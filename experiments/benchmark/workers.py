"""Measures how crafting and evaluating scale with the workers of a Ray cluster.

Each worker has one core. Its first batch, for which it starts and compiles, is left out.
"""

import os
import tempfile
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import keras_trn
from experiments.benchmark.settings import Settings
from experiments.benchmark.settings import load_preset
from experiments.benchmark.settings import make_attack
from experiments.benchmark.settings import random_dataset
from keras_trn import adversarial_cache
from keras_trn.cluster import Cluster
from keras_trn.cluster import Job
from keras_trn.cluster import map_jobs
from keras_trn.digests import digest_of_json
from keras_trn.evaluation import measurement

# The results, as a digest, of what is measured with a cluster.
Work = Callable[[Settings, Cluster | None], str]


class Timed:
    """Runs a job, and tells which process did, and when it was finished."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> tuple[int, float, Any]:
        result = self.function(*arguments)
        return os.getpid(), time.time(), result


def craft(settings: Settings, cluster: Cluster | None) -> str:
    """Caches adversarial examples, in shards of one batch."""
    dataset = random_dataset(settings.worker_images, settings.data_batch_size)
    with tempfile.TemporaryDirectory() as folder:
        keras_trn.cache_adversarial_examples(
            load_preset().classifier,
            dataset,
            make_attack(settings.steps),
            folder,
            shard_size=settings.data_batch_size,
            verbose=0,
            cluster=cluster,
        )
        # The name of each shard holds a digest of its content.
        return digest_of_json(sorted(path.name for path in Path(folder).iterdir()))


def evaluate(settings: Settings, cluster: Cluster | None) -> str:
    """Evaluates an attack on the bare and on the protected classifier."""
    protected = load_preset()
    cells = measurement.measure(
        {"bare": protected.classifier, "protected": protected},
        random_dataset(settings.worker_images, settings.data_batch_size),
        make_attack(settings.steps),
        cluster=cluster,
        verbose=0,
    )
    return digest_of_json([{**cell, "seconds": None} for cell in cells])


def run(work: Work, settings: Settings, cluster: Cluster | None) -> dict[str, Any]:
    """Returns the throughput of all workers together, and a digest of the results."""
    finished: dict[int, list[float]] = {}

    def timed_jobs(
        function: Callable[..., Any], jobs: Iterable[Job], cluster: Cluster | None
    ) -> Iterator[tuple[Any, Any]]:
        for key, (worker, when, result) in map_jobs(Timed(function), jobs, cluster):
            # An evaluation runs its batches without an attack first.
            if work is craft or key[0] > 0:
                finished.setdefault(worker, []).append(when)
            yield key, result

    started = time.time()
    with (
        mock.patch.object(adversarial_cache, "map_jobs", timed_jobs),
        mock.patch.object(measurement, "map_jobs", timed_jobs),
    ):
        digest = work(settings, cluster)
    if cluster and len(finished) != cluster.workers:
        raise ValueError(
            f"{len(finished)} of {cluster.workers} workers worked: take more images, with "
            "`worker_images`."
        )
    images_per_second = settings.data_batch_size * rate_together([*finished.values()])
    return {
        "images_per_second": round(images_per_second, 2),
        "images_of_each_worker": [
            settings.data_batch_size * len(times) for times in finished.values()
        ],
        "seconds_with_start": round(time.time() - started, 1),
        "digest": digest,
    }


def rate_together(finished: Sequence[list[float]]) -> float:
    """Returns the batches that all workers finish in a second, while all of them work.

    Takes the times at which each worker finished a batch. The first one only starts the clock.
    """
    start, end = max(map(min, finished)), min(map(max, finished))
    rates = []
    for times in finished:
        together = [when for when in times if start <= when <= end]
        if len(together) < 2:
            raise ValueError(
                f"A worker finished {len(together)} batches while all worked, and at least 2 are "
                "needed: take more images, with `worker_images`."
            )
        rates.append((len(together) - 1) / (max(together) - min(together)))
    return sum(rates)


def compare(work: Work, settings: Settings) -> dict[str, Any]:
    """Measures one worker and two, in turn, and returns the best run of each."""
    runs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for _ in range(settings.worker_repeats):
        for number, of_number in runs.items():
            of_number.append(run(work, settings, Cluster(workers=number, cpus_per_worker=1)))
    digests = {one.pop("digest") for of_number in runs.values() for one in of_number}
    alone, shared = (max(one, key=lambda of: of["images_per_second"]) for one in runs.values())
    return {
        "one_worker": alone,
        "two_workers": shared,
        "speedup": round(shared["images_per_second"] / alone["images_per_second"], 3),
        "same_results": len(digests) == 1,
    }


def measure(settings: Settings) -> dict[str, Any]:
    """Measures crafting and evaluating."""
    works: dict[str, Work] = {"crafting": craft, "evaluating": evaluate}
    return {name: compare(work, settings) for name, work in works.items()}
