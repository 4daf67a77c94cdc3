"""Runs the examples of a Markdown page, and writes what they print below them.

`python -m experiments.page_outputs docs/getting-started.md docs/guides/*.md`, in the repository.
A page marks the place below a block of Python:

    <!-- output -->
    <!-- end of output -->
"""

import contextlib
import io
import re
import sys
import tempfile
import textwrap
from pathlib import Path

_PARTS = re.compile(
    r"<!-- not run: [^>]*-->\s*```python.*?```"
    r"|^(?P<indent> *)```python\n(?P<code>.*?)^(?P=indent)```$"
    r"|(?P<start>^<!-- output -->\n).*?(?P<end>^<!-- end of output -->)",
    re.DOTALL | re.MULTILINE,
)


def with_outputs(page: str) -> str:
    """Returns a page with what its blocks print; all run in one namespace, in their order."""
    names = {"__name__": "__main__"}
    printed = ""

    def fill(part: re.Match[str]) -> str:
        nonlocal printed
        if part["code"] is not None:
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(textwrap.dedent(part["code"]), "a block of the page", "exec"), names)
            printed = output.getvalue().rstrip()
        elif part["start"] is not None:
            shown = printed if printed.startswith("|") else f"```text\n{printed}\n```"
            return f"{part['start']}\n{shown}\n\n{part['end']}"
        return part[0]

    return _PARTS.sub(fill, page)


if __name__ == "__main__":
    for path in [Path(name).resolve() for name in sys.argv[1:]]:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            text = with_outputs(path.read_text(encoding="utf-8"))
        path.write_text(text, encoding="utf-8")
