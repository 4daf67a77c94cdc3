"""Fills the tables of results into Markdown pages.

`python -m experiments.pages README.md docs/*.md docs/*/*.md keras_trn/presets/*.md`, in the
repository. A page marks the place of a table by a report and one of its tables or its `overview`,
or by a file in Markdown:

    <!-- table of results/quickstart_digits.json: accuracy -->
    <!-- end of table -->

`<!-- table of checks -->` is the place of the table of all sanity checks. `headlines`
and `choices_...` are the figures of the landing page and of the page "Should you use this?".
"""

import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path

from experiments.headlines import choices
from experiments.headlines import headlines
from experiments.reports import overview_markdown
from experiments.reports import read_report
from keras_trn.evaluation.checks.registry import checks_table

GENERATED: dict[str, Callable[[Path], str]] = {
    "checks": lambda folder: checks_table(),
    "headlines": headlines,
    "choices_cifar10": functools.partial(choices, "cifar10"),
    "choices_fashion_mnist": functools.partial(choices, "fashion_mnist"),
}
_PLACE = re.compile(
    r"(?P<start><!-- table of (?P<path>[^\s:]+)(: (?P<table>\w+))? -->\n).*?"
    r"(?P<end><!-- end of table -->)",
    re.DOTALL,
)


def with_tables(text: str, folder: str | Path = ".") -> str:
    """Fills tables into a text in Markdown; `folder` is where the paths of the results start."""

    def fill(place: re.Match[str]) -> str:
        path = Path(folder) / place["path"]
        if place["path"] in GENERATED:
            table = GENERATED[place["path"]](Path(folder) / "results")
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
