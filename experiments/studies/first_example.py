"""Runs the first example of the README, and keeps its report.

`python -m experiments.studies.first_example results/first_example.json`
"""

import re
import sys
from pathlib import Path

from keras_trn.evaluation import Report

_PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def first_block(page: str) -> str:
    """Finds the first block of Python in a Markdown page."""
    match = _PYTHON.search(page)
    if match is None:
        raise ValueError("The page has no block of Python.")
    return match[1]


def run(page: str) -> Report:
    """Runs the first block of a page, and returns its report."""
    names = {"__name__": "__main__"}
    exec(compile(first_block(page), "the first example", "exec"), names)
    return names["report"]


if __name__ == "__main__":
    import keras

    keras.utils.set_random_seed(0)
    run(Path("README.md").read_text(encoding="utf-8")).to_json(sys.argv[1])
