"""Finds the blocks of Python in a Markdown page, and runs them like a reader who copies them.

A comment above a block says how it is run:

    <!-- not run: needs a GPU -->
    <!-- fresh process -->
"""

import contextlib
import dataclasses
import io
import linecache
import re
import subprocess
import sys
import textwrap
from typing import Any

# Fences of all languages are parts, as a comment in one of them looks like a heading.
_PARTS = re.compile(
    r"^#{1,6} (?P<heading>[^\n]+)$"
    r"|^(?P<indent>[ ]*)```(?P<language>\w*)\b[^\n]*\n(?P<code>.*?)^(?P=indent)```[ ]*$",
    re.MULTILINE | re.DOTALL,
)
_NOT_RUN = re.compile(r"<!-- not run: (?!-->)\S((?!-->).)*-->\s*\Z", re.DOTALL)
_FRESH_PROCESS = re.compile(r"<!-- fresh process -->\s*\Z")


@dataclasses.dataclass(frozen=True)
class Block:
    """Holds a block of Python that is run, and where the page has it.

    Attributes:
        code: The code, without indentation.
        heading: The last heading above it; `""` where there is none.
        line: Number of the code's first line in the page.
        end: Number of characters of the page up to the end of the block.
        in_fresh_process: Whether a new process runs it.
    """

    code: str
    heading: str
    line: int
    end: int
    in_fresh_process: bool

    def run(self, names: dict[str, Any], page: str) -> str:
        """Runs the block with the names of those before it, and returns what it prints.

        A traceback points to the line of the file `page`.
        """
        if self.in_fresh_process:
            command = [sys.executable, "-c", self.code]
            return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        name, source = f"{page}:{self.line}", "\n" * (self.line - 1) + self.code
        # Tracebacks and AutoGraph find the source there, and not in the Markdown.
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(compile(source, name, "exec"), names)
        return output.getvalue()


def find_blocks(page: str) -> list[Block]:
    """Returns the fenced blocks of Python in a text, except those marked as not run."""
    blocks, heading = [], ""
    for part in _PARTS.finditer(page):
        heading = part["heading"] or heading
        if part["language"] == "python" and not _NOT_RUN.search(page, 0, part.start()):
            block = Block(
                code=textwrap.dedent(part["code"]),
                heading=heading,
                line=page.count("\n", 0, part.start("code")) + 1,
                end=part.end(),
                in_fresh_process=bool(_FRESH_PROCESS.search(page, 0, part.start())),
            )
            blocks.append(block)
    return blocks
