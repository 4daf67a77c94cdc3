"""Runs the first example of the README, and keeps its report.

    python -m experiments.first_example results/first_example.json

Takes about a minute and a half on two cores.
"""

import re
import sys
from pathlib import Path

_PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def first_block(page):
    """Finds the first block of Python in a page.

    Args:
        page: Text in Markdown.

    Returns:
        The code.
    """
    return _PYTHON.search(page)[1]


def run(page):
    """Runs the first block of a page.

    Args:
        page: Text in Markdown.

    Returns:
        The `Report` that the block leaves under the name `report`.
    """
    names = {"__name__": "__main__"}
    exec(compile(first_block(page), "the first example", "exec"), names)
    return names["report"]


if __name__ == "__main__":
    import keras

    keras.utils.set_random_seed(0)
    run(Path("README.md").read_text(encoding="utf-8")).to_json(sys.argv[1])
