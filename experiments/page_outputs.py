"""Runs the examples of a Markdown page, and writes what they print below them.

`python -m experiments.page_outputs docs/getting-started.md docs/guides/*.md`, in the repository.
A page marks the place below a block of Python:

    <!-- output -->
    <!-- end of output -->
"""

import contextlib
import itertools
import re
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from experiments.page_blocks import find_blocks

OUTPUT = re.compile(
    r"^(?P<indent> *)<!-- output -->\n.*?<!-- end of output -->", re.DOTALL | re.MULTILINE
)


def with_outputs(page: str, name: str = "page") -> str:
    """Returns a page with what its blocks print; all run in one namespace, in their order."""
    names: dict[str, Any] = {"__name__": "__main__"}
    blocks = find_blocks(page)
    starts = [0, *(block.end for block in blocks), len(page)]
    first, *others = (page[start:end] for start, end in itertools.pairwise(starts))
    texts = [
        _with_output(text, block.run(names, name))
        for block, text in zip(blocks, others, strict=True)
    ]
    return first + "".join(texts)


def _with_output(text: str, printed: str) -> str:
    """Returns the text below a block with what the block printed."""
    printed = printed.rstrip()
    shown = printed if printed.startswith("|") else f"```text\n{printed}\n```"
    place = f"<!-- output -->\n\n{shown}\n\n<!-- end of output -->"
    return OUTPUT.sub(lambda match: textwrap.indent(place, match["indent"]), text)


if __name__ == "__main__":
    for path in [Path(name).resolve() for name in sys.argv[1:]]:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            text = with_outputs(path.read_text(encoding="utf-8"), str(path))
        path.write_text(text, encoding="utf-8")
