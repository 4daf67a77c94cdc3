"""Measurements in processes of their own, which no earlier measurement has warmed or filled."""

import concurrent.futures
import multiprocessing
from collections.abc import Callable
from typing import Any


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function of a module in a new process, and returns its result."""
    spawning = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawning) as pool:
        return pool.submit(function, *arguments).result()
