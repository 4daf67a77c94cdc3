"""Writes the tables of saved reports into Markdown pages.

A page marks the place of a table with a JSON report and the name of the table, or with a
Markdown file that holds the table:

    <!-- table of results/quickstart_digits.json: accuracy -->
    <!-- end of table -->

`python -m keras_trn.evaluation.pages README.md docs/index.md` fills in the tables, in the
folder that the paths are relative to.
"""

import re
import sys
from pathlib import Path

from keras_trn.evaluation.checks.registry import checks_table
from keras_trn.evaluation.report import Report
from keras_trn.files import write_text

_PLACE = re.compile(
    r"(?P<start><!-- table of (?P<path>[^\s:]+)(: (?P<table>\w+))? -->\n).*?"
    r"(?P<end><!-- end of table -->)",
    re.DOTALL,
)


def with_tables(text: str, folder: str | Path = ".") -> str:
    """Returns a Markdown text with the current table in each marked place."""

    def fill(place: re.Match[str]) -> str:
        path = Path(folder) / place["path"]
        if place["path"] == "checks":
            table = checks_table()
        elif path.suffix == ".md":
            table = path.read_text(encoding="utf-8").strip()
        else:
            table = Report.from_json(path).to_markdown(place["table"] or "accuracy")
        return f"{place['start']}\n{table}\n\n{place['end']}"

    return _PLACE.sub(fill, text)


if __name__ == "__main__":
    for page in map(Path, sys.argv[1:]):
        write_text(page, with_tables(page.read_text(encoding="utf-8")))
