"""Runs the first example of the README, and keeps its report.

`python -m experiments.studies.first_example results/first_example.json`
"""

import sys
from pathlib import Path
from typing import Any

from experiments.page_blocks import find_blocks
from keras_trn.evaluation import Report


def run(page: str) -> Report:
    """Runs the first block of a page, and returns its report."""
    names: dict[str, Any] = {"__name__": "__main__"}
    find_blocks(page)[0].run(names, "the first example")
    return names["report"]


if __name__ == "__main__":
    import keras

    keras.utils.set_random_seed(0)
    run(Path("README.md").read_text(encoding="utf-8")).to_json(sys.argv[1])
