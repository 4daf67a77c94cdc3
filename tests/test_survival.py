"""A run that is killed at any moment continues where it was, with the same result.

`KILLS=20 pytest tests/test_survival.py` kills each run 20 times.
"""

import multiprocessing
import os
import shutil
import time

import numpy as np
import pytest

from tests.interrupted_runs import Crafting
from tests.interrupted_runs import Evaluation
from tests.interrupted_runs import Training

KILLS = int(os.environ.get("KILLS", 3))


@pytest.fixture(scope="module")
def processes():
    """Starts processes at once: they are copies of one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.interrupted_runs"])
    return context


@pytest.mark.slow
@pytest.mark.parametrize(
    "run", [Crafting(), Training(), Evaluation()], ids=lambda run: type(run).__name__
)
def test_killed_run_ends_with_the_same_result(run, classifier, processes, tmp_path):
    def start(folder):
        folder.mkdir(exist_ok=True)
        if not (folder / "classifier.keras").exists():
            classifier.save(folder / "classifier.keras")
        process = processes.Process(target=run, args=(folder,))
        process.start()
        return process

    def finish(folder):
        started = time.perf_counter()
        process = start(folder)
        process.join()
        assert process.exitcode == 0
        return time.perf_counter() - started

    seconds = finish(tmp_path / "whole")
    whole = run.result(tmp_path / "whole")
    generator = np.random.default_rng(0)
    killed, folder = 0, tmp_path / "killed"
    while killed < KILLS:
        before = run.progress(folder)
        process = start(folder)
        process.join(generator.uniform(0, seconds))
        process.kill()
        process.join()
        if process.exitcode == 0:
            # It was too fast to be killed: begin again.
            assert run.result(folder) == whole
            shutil.rmtree(folder)
        else:
            killed += 1
            print(f"kill {killed}: {before} -> {run.progress(folder)} pieces")
            assert run.progress(folder) >= before
    finish(folder)
    assert run.result(folder) == whole
