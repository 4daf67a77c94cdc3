"""Fills the tables of results into Markdown pages.

`python -m experiments.pages README.md docs/*.md docs/*/*.md keras_trn/presets/*.md`, in the
repository. A page marks the place of a table by a report and one of its tables or its `overview`,
or by a file in Markdown:

    <!-- table of results/quickstart_digits.json: accuracy -->
    <!-- end of table -->

`<!-- table of checks -->` is the place of the table of all sanity checks.
"""

import re
import sys
from pathlib import Path

from experiments.reports import overview_markdown
from experiments.reports import read_report
from keras_trn.evaluation.checks.registry import checks_table

_PLACE = re.compile(
    r"(?P<start><!-- table of (?P<path>[^\s:]+)(: (?P<table>\w+))? -->\n).*?"
    r"(?P<end><!-- end of table -->)",
    re.DOTALL,
)


def with_tables(text: str, folder: str | Path = ".") -> str:
    """Fills tables into a text in Markdown; `folder` is where the paths of the results start."""

    def fill(place: re.Match[str]) -> str:
        path = Path(folder) / place["path"]
        if place["path"] == "checks":
            table = checks_table()
        elif path.suffix == ".md":
            table = path.read_text(encoding="utf-8").strip()
        elif place["table"] == "overview":
            table = overview_markdown(read_report(path))
        else:
            table = read_report(path).to_markdown(place["table"] or "accuracy")
        return f"{place['start']}\n{table}\n\n{place['end']}"

    return _PLACE.sub(fill, text)


if __name__ == "__main__":
    for page in map(Path, sys.argv[1:]):
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
