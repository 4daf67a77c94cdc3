"""Plots each data set's defences against each attacker, for the pages of results.

`python -m experiments.dot_plots results/defences_digits.json results/trn_cifar10_worst.json` writes
a drawing next to each report, as `..._dots.svg`.
"""

import sys
from pathlib import Path

import matplotlib

from experiments.reports import read_report
from keras_trn.digests import digest_of_file

# Text stays text, and equal reports give equal files.
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "keras_trn", "font.size": 9}


def write_dot_plot(path: Path) -> None:
    """Writes the plot of a report next to it, with a digest that shows whether it is up to date."""
    with matplotlib.rc_context(STYLE):
        read_report(path).plot_defences().savefig(
            path.with_name(f"{path.stem}_dots.svg"),
            transparent=True,
            metadata={"Date": None, "Source": digest_of_file(path)},
        )


if __name__ == "__main__":
    for report in map(Path, sys.argv[1:]):
        write_dot_plot(report)
