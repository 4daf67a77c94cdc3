"""Reads the reports of data sets for pages and plots, and sums each up in one short table."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from keras_trn.evaluation import Report
from keras_trn.evaluation.tables import to_markdown

# The columns of the short table, and the threat models whose worst case each of them shows.
ATTACKERS = {
    "full knowledge": {"bpda", "whitebox_stopgrad", "whitebox_full"},
    "queries": {"blackbox"},
    "transfer": {"transfer"},
    "no knowledge": {"oblivious"},
}


def read_report(path: Path) -> Report:
    """Reads a report; the report of a data set calls the evaluated defence by its kind."""
    report = Report.from_json(path)
    if not path.stem.startswith(("trn_", "defences_")):
        return report
    return rename_evaluated(report, "hardened TRN" if "hardened" in path.stem else "plain TRN")


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


def worst_of(report: Report, defence: str, threat_models: set[str]) -> float:
    """Returns the accuracy in percent in the worst case over threat models; NaN if not run."""
    norm, epsilon = report.budgets[0]
    cells = [
        cell
        for cell in report.cells
        if (cell["defence"], cell["threat_model"]) in {(defence, one) for one in threat_models}
        and (cell["norm"], cell["epsilon"] <= epsilon) == (norm, True)
    ]
    if not cells:
        return np.nan
    cells.append(report.cell("benign", defence=defence))
    return float(100 * np.all([report.correct(cell) for cell in cells], axis=0).mean())


def overview(report: Report) -> pd.DataFrame:
    """Returns a row for each defence: accuracy in percent without attack, and in worst cases."""
    norm, epsilon = report.budgets[0]
    rows = [
        {
            "defence": defence,
            "benign": 100 * report.cell("benign", defence=defence)["accuracy"],
            "worst": 100 * report.worst(defence, norm, epsilon),
            **{name: worst_of(report, defence, models) for name, models in ATTACKERS.items()},
        }
        for defence in report.defences
    ]
    return pd.DataFrame(rows).dropna(axis="columns", how="all")


def overview_markdown(report: Report) -> str:
    """Writes the short table in Markdown."""
    return to_markdown(overview(report))
