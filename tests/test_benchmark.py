"""The benchmark compares like with like, and writes what it measured."""

import json
import resource
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import attacks
from experiments.benchmark import memory
from experiments.benchmark import photographs
from experiments.benchmark import restoring
from experiments.benchmark import workers
from experiments.benchmark.ratios import ratio
from experiments.benchmark.settings import Settings
from experiments.benchmark.settings import load_preset
from experiments.benchmark.settings import make_attack
from experiments.benchmark.settings import random_batch
from experiments.benchmark.settings import random_dataset
from experiments.recipes.fashion_mnist import EPSILON
from experiments.studies.cost import count_operations

RESULTS = Path(__file__).parent.parent / "results"
TINY = Settings(
    batch_size=4,
    steps=2,
    repeats=1,
    quick_repeats=1,
    fitted_batches=1,
    data_batch_size=2,
    evaluated_images=4,
    worker_images=6,
)


@pytest.fixture(scope="module")
def preset():
    return load_preset()


def test_ratio_is_that_of_times_taken_in_turn():
    # The machine was twice as slow in the second turn.
    assert ratio({"a": [3.0, 6.0, 3.0], "b": [2.0, 4.0, 2.0]}, "a", "b") == 1.5


def test_random_images_are_the_same_each_time():
    dataset = random_dataset(images=6, batch_size=2)
    first, second = (np.concatenate([images for images, _ in dataset]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first.reshape(6, -1), axis=0)) == 6


@pytest.mark.slow
@pytest.mark.parametrize("package", ["cleverhans", "art", "foolbox"])
def test_each_package_takes_the_steps_of_ours(package, preset):
    images, labels = random_batch(4)
    step_size = make_attack(steps=2).step_size(EPSILON)
    descent = getattr(attacks, f"{package}_descent")
    adversarial = descent(preset.classifier, images, labels, 2, step_size)()
    moved = np.abs(np.asarray(adversarial) - images)
    # Two steps of epsilon reach the border of the ball from any start.
    inside = (images.numpy() > EPSILON) & (images.numpy() < 1 - EPSILON)
    assert moved.max() < EPSILON + 1e-5
    assert np.mean(moved[inside] > EPSILON - 1e-5) > 0.3


def test_operations_of_the_parts_are_those_of_the_whole(preset):
    parts = restoring.parts_of(preset)
    names = ("bare", "classifier_passes", "first_restoration", "two_streams")
    whole, *counts = (
        count_operations(function, (1, *shape))
        for function, shape in (parts[name] for name in ("protected", *names))
    )
    assert sum(counts) == pytest.approx(whole, rel=0.01)


@pytest.mark.slow
def test_work_in_one_process_is_timed_after_the_first_batch():
    timed = workers.run(workers.craft, TINY, cluster=None)
    assert timed["images_of_each_worker"] == [TINY.worker_images]
    seconds = (TINY.worker_images - TINY.data_batch_size) / timed["images_per_second"]
    assert 0 < seconds < timed["seconds_with_start"] + 0.05


def test_rate_of_workers_is_that_while_all_of_them_work():
    # The second worker starts later, and the first one is faster until then.
    early = [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0]
    late = [3.0, 4.0, 5.0]
    assert workers.rate_together([early, late]) == 2.0
    with pytest.raises(ValueError, match=r"finished 1 batches.*worker_images"):
        workers.rate_together([early, [5.0]])


def test_peak_memory_is_in_mebibytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    resident = pages * resource.getpagesize() / 2**20
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    assert resident - 1 <= memory.peak_memory() <= largest + 1


def test_hours_follow_from_the_seconds_of_an_image():
    hours = photographs.simulate({"seconds_per_image": 36.0}, speedup_of_two=1.8)["hours"]
    core_hours = photographs.IMAGENET_IMAGES / 100
    assert hours["1"] == pytest.approx(core_hours, abs=0.1)
    assert hours["10"] == pytest.approx(core_hours / 9, abs=0.1)


@pytest.mark.slow
def test_it_writes_what_it_measures(monkeypatch, tmp_path):
    known = json.loads((RESULTS / "benchmark.json").read_text(encoding="utf-8"))
    known["photographs"] = known["imagenet"]
    # They start processes, or build a large network.
    for name in ("workers", "memory", "photographs"):
        monkeypatch.setitem(benchmark.MEASUREMENTS, name, lambda _, name=name: known[name])
    monkeypatch.setattr(benchmark, "in_new_process", lambda measure, *given: measure(*given))
    path = tmp_path / "benchmark.json"
    benchmark.main(path, TINY)
    results = json.loads(path.read_text())
    assert set(results) >= set(known) - {"photographs"}
    assert set(results["attacks"]["over_passes"]) == {"keras_trn", "CleverHans", "ART", "Foolbox"}
    ratios = [
        *results["attacks"]["over_passes"].values(),
        *results["restoring"]["batch"]["over_bare"].values(),
        results["training"]["step_over_passes"],
        results["evaluating"]["evaluation_over_passes"],
    ]
    assert min(ratios) > 0 and np.isfinite(ratios).all()
    assert (
        results["restoring"]["operations_over_bare"] == (known["restoring"]["operations_over_bare"])
    )
    for suffix, text in benchmark.texts(results).items():
        assert (tmp_path / f"benchmark{suffix}.md").read_text() == text + "\n"


def test_tables_are_those_of_the_committed_results():
    results = json.loads((RESULTS / "benchmark.json").read_text(encoding="utf-8"))
    for suffix, text in benchmark.texts(results).items():
        assert (RESULTS / f"benchmark{suffix}.md").read_text(encoding="utf-8") == text + "\n"
