"""Reads the reports of data sets for pages and plots, and sums each up in one short table."""

import dataclasses
from pathlib import Path

import pandas as pd

from experiments.recipe import ADAPTIVE
from keras_trn.evaluation import Report
from keras_trn.evaluation.tables import to_markdown

# The columns of the short table, and the threat models whose worst case each of them shows.
ATTACKERS = {
    "full knowledge": ADAPTIVE,
    "queries": ("blackbox",),
    "transfer": ("transfer",),
    "no knowledge": ("oblivious",),
}


def read_report(path: Path) -> Report:
    """Reads a report; the report of a data set calls the evaluated defence by its kind."""
    report = Report.from_json(path)
    if not path.stem.startswith(("trn_", "defences_")):
        return report
    return rename_evaluated(
        report, "hardened restorer" if "hardened" in path.stem else "plain restorer"
    )


def rename_evaluated(report: Report, name: str) -> Report:
    """Returns the report with another name for the evaluated defence."""

    def renamed(defence: str) -> str:
        return name if defence == report.evaluated else defence

    return dataclasses.replace(
        report,
        defences=[renamed(defence) for defence in report.defences],
        evaluated=name,
        cells=[{**cell, "defence": renamed(cell["defence"])} for cell in report.cells],
        checks={renamed(defence): checks for defence, checks in report.checks.items()},
        not_run=[{**row, "defence": renamed(row["defence"])} for row in report.not_run],
    )


def overview(report: Report) -> pd.DataFrame:
    """Returns a row for each defence: accuracy in percent without attack, and in worst cases."""
    norm, epsilon = report.budgets[0]
    rows = {
        defence: {
            "benign": report.cell("benign", defence=defence)["accuracy"],
            "worst": report.worst(defence, norm, epsilon),
            **{
                name: report.worst(defence, norm, epsilon, threat_models)
                for name, threat_models in ATTACKERS.items()
            },
        }
        for defence in report.defences
    }
    # What was not run is None, and becomes NaN.
    percent = 100 * pd.DataFrame.from_dict(rows, orient="index").astype("float64")
    return percent.dropna(axis="columns", how="all").rename_axis("defence").reset_index()


def overview_markdown(report: Report) -> str:
    """Writes the short table in Markdown."""
    return to_markdown(overview(report))
