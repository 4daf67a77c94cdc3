"""Writes the tables of saved reports into Markdown pages, so that they cannot go stale.

A page marks the place of a table by its name and that of the report's JSON file,
or by the name of a Markdown file that holds the table:

    <!-- table of results/quickstart_digits.json: accuracy -->
    <!-- end of table -->

and `python -m keras_trn.evaluation.pages README.md docs/index.md`, in the folder
that the names start from, fills it in.
"""

import re
import sys
from pathlib import Path

from keras_trn.evaluation.checks.registry import checks_table
from keras_trn.evaluation.report import Report

_PLACE = re.compile(
    r"(?P<start><!-- table of (?P<path>[^\s:]+)(: (?P<table>\w+))? -->\n).*?"
    r"(?P<end><!-- end of table -->)",
    re.DOTALL,
)


def with_tables(text, folder="."):
    """Fills the tables of reports into a Markdown text.

    Args:
        text: The text, with or without tables in the marked places.
        folder: The folder that the names of the reports start from.

    Returns:
        The text with each table as its report has it now.

    Example:
        ```python
        from keras_trn.evaluation.pages import with_tables

        assert with_tables("No place for a table.") == "No place for a table."
        ```
    """

    def fill(place):
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
