"""Fills the tables of results into Markdown pages.

Run `python -m experiments.pages README.md docs/*.md keras_trn/presets/*.md` in the repository.
A page marks the place of a table with a report and one of its tables, or with a Markdown file:

    <!-- table of results/quickstart_digits.json: accuracy -->
    <!-- end of table -->

`<!-- table of checks -->` marks the place of the table of all sanity checks.
"""

import re
import sys
from pathlib import Path

from keras_trn.evaluation import Report
from keras_trn.evaluation.checks.registry import checks_table

_PLACE = re.compile(
    r"(?P<start><!-- table of (?P<path>[^\s:]+)(: (?P<table>\w+))? -->\n).*?"
    r"(?P<end><!-- end of table -->)",
    re.DOTALL,
)


def with_tables(text: str, folder: str | Path = ".") -> str:
    """Fills tables into a Markdown text; paths of results are relative to `folder`."""

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
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
