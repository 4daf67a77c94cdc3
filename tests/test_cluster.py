"""Workers of a Ray cluster give the results of one process, also when some of them die."""

import multiprocessing
import sys
import threading
import time
from importlib.util import find_spec

import psutil
import pytest

import keras_trn
from keras_trn import attacks
from keras_trn.cluster import Cluster
from keras_trn.cluster import Job
from keras_trn.cluster import as_cluster
from keras_trn.cluster import map_jobs
from tests.helpers import KillsItsProcess
from tests.helpers import in_batches
from tests.helpers import random_images
from tests.interrupted_runs import Crafting
from tests.interrupted_runs import Evaluation

needs_ray = pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed")


# --- Without Ray ----------------------------------------------------------------------


def test_jobs_run_in_this_process_one_at_a_time():
    drawn = []

    def jobs():
        for number in range(3):
            drawn.append(number)
            yield Job(number, (number, 1))

    results = map_jobs(lambda a, b: (a + b, len(drawn)), jobs(), None)
    assert list(results) == [(0, (1, 1)), (1, (2, 2)), (2, (3, 3))]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"workers": 0}, "workers must be a whole number"),
        ({"cpus_per_worker": 0.5}, "cpus_per_worker must be a whole number"),
        ({"gpus_per_worker": -1}, "gpus_per_worker must be a number from 0"),
    ],
)
def test_malformed_resources_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        Cluster(**arguments)


def test_anything_but_a_cluster_is_refused(classifier, digits, tmp_path):
    attack = attacks.FastGradientMethod(0.1)
    with pytest.raises(ValueError, match=r"cluster must be None.*received 'local'"):
        keras_trn.evaluate(classifier, digits, attack, cluster="local")
    with pytest.raises(ValueError, match=r"cluster must be None.*received 2"):
        keras_trn.cache_adversarial_examples(classifier, digits, attack, tmp_path, cluster=2)


def test_missing_ray_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install \"keras_trn\[ray\]\""):
        as_cluster("auto")


# --- With Ray -------------------------------------------------------------------------


def started(make_nodes, attempts=3):
    """Starts two machines. Ray allows each 30 seconds, which a busy computer may exceed."""
    try:
        nodes = make_nodes(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        nodes.add_node(num_cpus=1)
        return nodes
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        if attempts == 1:
            pytest.skip("This computer is too busy for Ray, which did not start in 30 seconds")
        return started(make_nodes, attempts - 1)


@pytest.fixture(scope="module")
def nodes():
    """Starts Ray's test cluster: two machines of one core each, which are processes here."""
    import ray
    from ray.cluster_utils import Cluster as Nodes

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # A worker imports TensorFlow before it registers, which takes long on a busy computer.
        patch.setenv("RAY_worker_register_timeout_seconds", "240")
        nodes = started(Nodes)
        patch.setenv("RAY_ADDRESS", nodes.address)
        yield nodes
        ray.shutdown()
        nodes.shutdown()


def without_times(report):
    content = report.to_dict()
    cells = [{**cell, "seconds": None} for cell in content["cells"]]
    return {**content, "cells": cells, "seconds": None, "environment": None}


def kill_a_worker():
    """Kills one of the processes that run jobs."""
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[0].startswith("ray::_Server"):
            return process.kill()
    raise AssertionError("there is no worker")


@needs_ray
@pytest.mark.slow
def test_report_is_that_of_one_process_where_a_worker_is_killed(
    classifier, digits, protect, nodes, tmp_path, monkeypatch
):
    # This process runs the checks, with a cluster or without.
    monkeypatch.setattr("keras_trn.evaluation.evaluator.run_checks", lambda examination: [])
    data = in_batches(16, digits[0][:100], digits[1][:100])
    arguments = {
        "attacks": attacks.ProjectedGradientDescent(0.2, steps=3),
        "threat_models": ["oblivious", "whitebox_full"],
        "check_examples": 2,
        "verbose": 0,
    }
    checkpoint = tmp_path / "report.jsonl"

    killed = []

    def kill_in_the_middle():
        # What is measured of a batch; this process writes other lines before it starts workers.
        while not (checkpoint.exists() and '"defences"' in checkpoint.read_text()):
            time.sleep(0.01)
        kill_a_worker()
        killed.append(True)

    defence = protect(classifier)
    killer = threading.Thread(target=kill_in_the_middle, daemon=True)
    killer.start()
    shared = keras_trn.evaluate(defence, data, cluster="auto", checkpoint=checkpoint, **arguments)
    killer.join(timeout=60)
    assert killed
    alone = keras_trn.evaluate(defence, data, **arguments)
    assert without_times(shared) == without_times(alone)


@needs_ray
@pytest.mark.slow
def test_job_of_a_killed_worker_is_given_to_another(nodes, tmp_path):
    images = random_images(20, 8, 8, 1)
    jobs = [Job(number, (number, images[number])) for number in range(20)]
    results = dict(map_jobs(KillsItsProcess(tmp_path, 4, times=2), iter(jobs), Cluster()))
    assert results == {number: images[number].sum() for number in range(20)}
    assert len(list(tmp_path.iterdir())) == 2


@needs_ray
@pytest.mark.slow
def test_job_that_kills_every_worker_and_errors_of_jobs_are_raised(nodes, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_trn.cluster._MOST_ATTEMPTS", 2)
    function = KillsItsProcess(tmp_path, 4, times=100)
    # One job needs one worker at a time, and each imports TensorFlow.
    alone = Cluster(workers=1)
    with pytest.raises(ValueError, match=r"^This number is negative\.$"):
        list(map_jobs(function, [Job("bad", (-1, random_images(1, 8, 8, 1)))], alone))
    with pytest.raises(RuntimeError, match=r"2 workers died.*while each ran the job 'fatal'"):
        list(map_jobs(function, [Job("fatal", (4, random_images(1, 8, 8, 1)))], alone))


@needs_ray
@pytest.mark.slow
def test_machine_without_room_is_refused(nodes):
    with pytest.raises(ValueError, match="has room for a worker of 64 cores"):
        list(map_jobs(len, [], Cluster(cpus_per_worker=64)))


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("make", [Crafting, Evaluation])
def test_killed_run_continues_on_the_cluster(make, classifier, nodes, tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    for path in (whole, folder):
        path.mkdir()
        classifier.save(path / "classifier.keras")
    make()(whole)
    run = make("auto")
    process = multiprocessing.get_context("spawn").Process(target=run, args=(folder,))
    process.start()
    while process.is_alive() and not run.progress(folder):
        time.sleep(0.01)
    process.kill()
    process.join()
    begun = run.progress(folder)
    assert 0 < begun < run.progress(whole)
    # It may go on with another number of workers.
    make(Cluster(workers=1))(folder)
    assert run.result(folder) == run.result(whole)


@needs_ray
@pytest.mark.slow
def test_examples_are_the_same_where_a_machine_fails(classifier, digits, nodes, tmp_path):
    """Runs last: afterwards, the cluster has one machine."""

    def craft(name, **arguments):
        attack = [
            attacks.FastGradientMethod((0.0, 0.2)),
            attacks.ProjectedGradientDescent(0.2, steps=9),
        ]
        keras_trn.cache_adversarial_examples(
            classifier, digits, attack, tmp_path / name, shard_size=8, verbose=0, **arguments
        )
        return {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}

    def fail_in_the_middle():
        while len(list((tmp_path / "shared").glob("round-*"))) < 10:
            time.sleep(0.01)
        nodes.remove_node(nodes.worker_nodes.copy().pop(), allow_graceful=False)

    failure = threading.Thread(target=fail_in_the_middle, daemon=True)
    failure.start()
    shared = craft("shared", cluster="auto")
    failure.join(timeout=60)
    assert not nodes.worker_nodes
    alone = craft("alone")
    assert len(alone) == 46
    assert {name: shared[name] for name in alone} == alone
    # A machine that fails may leave the shard that it was writing.
    assert all(".unfinished" in name for name in set(shared) - set(alone))
