"""Maps a function over batches, in this process or on the workers of a Ray cluster."""

import dataclasses
import os
from collections import deque
from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_range

# A worker that has finished a job finds the next one in its queue.
_JOBS_OF_A_WORKER = 2
# A job that ends so many workers would end all others, too.
_MOST_ATTEMPTS = 5
# These settings decide how TensorFlow computes, so all processes need the same.
_SHARED_ENVIRONMENT = ("KERAS_BACKEND", "TF_", "XLA_")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Describes the workers that share the work of `evaluate` or `cache_adversarial_examples`.

    `cluster="auto"` is short for `cluster=Cluster()`. Ray, `pip install "keras_trn[ray]"`, starts
    the workers: on the cluster that the environment variable `RAY_ADDRESS` names, or on this
    machine. The results are bit-identical to this process's on machines of one kind, whatever the
    number of workers, and whichever of them die.

    TensorFlow on a CPU rounds differently with another number of threads. So a worker has as many
    threads as this process by default. Set the environment variable `TF_NUM_INTRAOP_THREADS=1`
    for workers of one core each.

    Args:
        workers: Number of workers. By default as many as the cluster has room for.
        cpus_per_worker: Number of cores and threads of each worker. By default one core with a
            GPU. Without one, as many as TensorFlow uses in this process, as far as a machine has
            them.
        gpus_per_worker: Number of GPUs of each worker, or a fraction: with 0.25, four workers
            share a GPU. By default 1 if the cluster has GPUs, and 0 if it has none.

    Raises:
        ValueError: If an argument is malformed.

    Example:
        ```python
        one_core_each = keras_trn.Cluster(workers=4, cpus_per_worker=1)
        ```
    """

    workers: int | None = None
    cpus_per_worker: int | None = None
    gpus_per_worker: float | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "cpus_per_worker"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.gpus_per_worker is not None:
            check_range("gpus_per_worker", self.gpus_per_worker, 0, 1024)


def as_cluster(cluster: Cluster | str | None) -> Cluster | None:
    """Returns the argument `cluster` as a `Cluster`; refuses anything else, and a missing Ray."""
    if cluster is None:
        return None
    described = Cluster() if cluster == "auto" else cluster
    if not isinstance(described, Cluster):
        raise ValueError(
            "cluster must be None for this process, 'auto', or a `keras_trn.Cluster`; received "
            f"{cluster!r}."
        )
    _import_ray()
    return described


@dataclasses.dataclass
class Job:
    """Holds the arguments of one call, and a key by which its result is known."""

    key: Hashable
    arguments: tuple[Any, ...]


def map_jobs(
    function: Callable[..., Any], jobs: Iterable[Job], cluster: Cluster | None
) -> Iterator[tuple[Any, Any]]:
    """Yields the key and the result of each job, in the order in which the jobs finish.

    The result must depend on the arguments alone, as the job of a worker that died is given to
    another one. Jobs are drawn when a worker is free for them, so that few are held at a time.
    """
    if cluster is None:
        return ((job.key, function(*job.arguments)) for job in jobs)
    return _Workers(function, cluster).map(jobs)


# --- Ray ------------------------------------------------------------------------------


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            'A cluster needs Ray: `pip install "keras_trn[ray]"`, on each of its machines.'
        ) from error
    return ray


class _Server:
    """Holds the function on a worker; Ray makes an actor of it."""

    def load(self, function: Callable[..., Any]) -> None:
        """Takes the function, which may hold models."""
        self.function = function

    def call(self, *arguments: Any) -> Any:
        """Runs a job."""
        return self.function(*arguments)


@dataclasses.dataclass
class _Task:
    """A request to a worker: to load the function, or to run a job."""

    worker: Any
    job: Job | None = None
    attempt: int = 1


class _Workers:
    """Runs jobs on the workers of a Ray cluster, and replaces workers that die."""

    def __init__(self, function: Callable[..., Any], cluster: Cluster) -> None:
        self.ray = ray = _import_ray()
        if not ray.is_initialized():
            # The environment variable RAY_ADDRESS names a cluster to join.
            ray.init(include_dashboard=False, logging_level="WARNING")
        self.number, options = _resources(cluster, ray.nodes())
        self._make_worker = ray.remote(_Server).options(**options).remote
        self._function = ray.put(function)
        self._workers: list[Any] = []
        self._tasks: dict[Any, _Task] = {}

    def map(self, jobs: Iterable[Job]) -> Iterator[tuple[Any, Any]]:
        """Yields the key and the result of each job, see `map_jobs`."""
        fresh, again = iter(jobs), deque[_Task]()
        free: list[Any] = []

        def next_task() -> _Task | None:
            if again:
                return again.popleft()
            job = next(fresh, None)
            return None if job is None else _Task(None, job)

        try:
            upcoming = next_task()
            for _ in range(self.number if upcoming else 0):
                self._start_worker()
            while upcoming or any(task.job for task in self._tasks.values()):
                if upcoming and free:
                    # The worker that has least to do.
                    upcoming.worker = max(free, key=free.count)
                    free.remove(upcoming.worker)
                    self._submit(upcoming)
                    upcoming = next_task()
                    continue
                task, result, error = self._wait()
                if error is not None:
                    free = [worker for worker in free if worker is not task.worker]
                    self._replace(task, error)
                    if task.job:
                        again.append(dataclasses.replace(task, attempt=task.attempt + 1))
                        upcoming = upcoming or next_task()
                elif task.job is None:
                    free += [task.worker] * _JOBS_OF_A_WORKER
                else:
                    free.append(task.worker)
                    yield task.job.key, result
        finally:
            for worker in self._workers:
                self.ray.kill(worker)

    def _start_worker(self, attempt: int = 1) -> None:
        worker = self._make_worker()
        self._workers.append(worker)
        self._tasks[worker.load.remote(self._function)] = _Task(worker, attempt=attempt)

    def _submit(self, task: _Task) -> None:
        assert task.job is not None  # noqa: S101
        self._tasks[task.worker.call.remote(*task.job.arguments)] = task

    def _wait(self) -> tuple[_Task, Any, Exception | None]:
        """Returns the next task that ended, with its result or with what ended its worker."""
        (done,), _ = self.ray.wait(list(self._tasks), num_returns=1)
        task = self._tasks.pop(done)
        try:
            return task, self.ray.get(done), None
        except self.ray.exceptions.RayTaskError as error:
            # The function itself failed, and would fail again.
            raise error.cause from error
        except self.ray.exceptions.RayError as error:
            return task, None, error

    def _replace(self, task: _Task, error: Exception) -> None:
        """Starts a worker in the place of one that died, once; gives up after several attempts."""
        if task.attempt == _MOST_ATTEMPTS:
            what = "was starting" if task.job is None else f"ran the job {task.job.key!r}"
            raise RuntimeError(
                f"{_MOST_ATTEMPTS} workers died, one after the other, while each {what}. Has each "
                "machine the memory and the packages that it needs? Ray says of the last one: "
                f"{error}"
            ) from error
        if task.worker in self._workers:
            self._workers.remove(task.worker)
            self.ray.kill(task.worker)
            self._start_worker(1 if task.job else task.attempt + 1)


def _resources(cluster: Cluster, nodes: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
    """Returns the number of workers, and the options of each."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    of_each = [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in alive]
    gpus = cluster.gpus_per_worker
    if gpus is None:
        gpus = int(any(gpu >= 1 for _, gpu in of_each))
    threads = cluster.cpus_per_worker or (1 if gpus else _threads())
    cpus = cluster.cpus_per_worker or int(max(1, min(threads, max(cpu for cpu, _ in of_each))))
    room = sum(int(min(cpu / cpus, gpu / gpus if gpus else cpu)) for cpu, gpu in of_each)
    workers = cluster.workers or room
    if not workers:
        raise ValueError(
            f"No machine of the cluster has room for a worker of {cpus} cores and {gpus} GPUs. "
            f"The machines have (cores, GPUs): {of_each}."
        )
    environment = {
        name: value for name, value in os.environ.items() if name.startswith(_SHARED_ENVIRONMENT)
    }
    if not gpus:
        environment["TF_NUM_INTRAOP_THREADS"] = str(threads)
    elif gpus < 1:
        # Without this, the first worker takes all the memory of a GPU.
        environment["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    runtime = {"env_vars": environment}
    return workers, {"num_cpus": cpus, "num_gpus": gpus, "runtime_env": runtime}


def _threads() -> int:
    """Returns the number of threads that an operation has in this process."""
    set_by_call = tf.config.threading.get_intra_op_parallelism_threads()
    set_by_environment = int(os.environ.get("TF_NUM_INTRAOP_THREADS", 0))
    if hasattr(os, "sched_getaffinity"):
        return set_by_call or set_by_environment or len(os.sched_getaffinity(0))
    return set_by_call or set_by_environment or os.cpu_count() or 1
