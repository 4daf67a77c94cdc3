"""Makes the tables of a report, and writes tables as Markdown or plain text."""

import math
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype
from tabulate import tabulate

if TYPE_CHECKING:
    from keras_trn.evaluation.report import Report

_NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1"}
# Figures have one decimal in all other columns.
_DECIMALS = {"SSIM attacked": 3, "SSIM restored": 3}


def summary_table(report: "Report") -> pd.DataFrame:
    """Returns worst cases: a row for each defence, a column for each threat model."""
    attacked = [cell for cell in report.cells if cell["attack"] != "benign"]
    attackers = dict.fromkeys((cell["threat_model"], cell["labels"]) for cell in attacked)
    rows = []
    for name in report.defences:
        missing = report.missing_threat_models(name)
        row: dict[str, Any] = {
            "defence": f"{name}, without {', '.join(missing)}" if missing else name,
            "benign": _percent(report.cell("benign", defence=name)["accuracy"]),
            "worst": _percent(report.worst(name)),
        }
        for threat_model, labels in attackers:
            worst = report.worst(name, threat_model=threat_model, labels=labels)
            row[_attacker_text(threat_model, labels)] = _percent(worst)
        rows.append(row)
    return pd.DataFrame(rows)


def accuracy_table(report: "Report") -> pd.DataFrame:
    """Returns accuracies: a row for each attack, a column for each defence."""
    rows: dict[tuple[str, str, str], dict[str, float]] = {}
    for cell in report.cells:
        if not cell.get("in_epsilon_sweep"):
            rows.setdefault(row_key(cell), {})[cell["defence"]] = _percent(cell["accuracy"])
    left_out = "".join(
        f" (without {', '.join(report.missing_threat_models(name))} on {name})"
        for name in report.defences
        if report.missing_threat_models(name)
    )
    for norm, epsilon in report.budgets:
        key = ("**worst**", f"all{left_out}", budget_text(norm, epsilon))
        rows[key] = {name: _percent(report.worst(name, norm, epsilon)) for name in report.defences}
    return pd.DataFrame(
        [
            [*key, *(accuracies.get(name, np.nan) for name in report.defences)]
            for key, accuracies in rows.items()
        ],
        columns=["threat model", "attack", "epsilon", *report.defences],
    )


def quality_table(report: "Report") -> pd.DataFrame:
    """Returns how close the images of the evaluated defence are to the clean ones, and their cost.

    Passes are counted for attacks that were crafted for this defence.
    """
    cells = [
        cell
        for cell in report.cells
        if cell["defence"] == report.evaluated and not cell.get("in_epsilon_sweep")
    ]
    frame = pd.DataFrame(
        [row_key(cell) for cell in cells], columns=["threat model", "attack", "epsilon"]
    )
    frame["agreement"] = [_percent(cell["agreement"]) for cell in cells]
    for measure in ("psnr", "ssim"):
        for state in ("attacked", "restored"):
            values = np.array([cell.get(f"{state}_{measure}") for cell in cells], "float64")
            # The PSNR of exact copies is infinite, and is measured as 100 dB.
            frame[f"{measure.upper()} {state}"] = np.where(values >= 99.95, np.nan, values)
    passes = [cell.get("forward_passes", np.nan) + cell.get("backward_passes", 0) for cell in cells]
    return frame if np.isnan(passes).all() else frame.assign(passes=passes)


def checks_table(report: "Report") -> pd.DataFrame:
    """Returns the sanity checks of the evaluated defence: a row for each."""
    rows = []
    for check in report.checks[report.evaluated]:
        # Most checks are about the main attack, which the caption names.
        is_other = check.attack not in (None, report.settings["checked_attack"])
        name = f"{check.name}, {check.attack}" if is_other else check.name
        rows.append((name, check.status, check.finding))
    return pd.DataFrame(rows, columns=["check", "result", "finding"])


def row_key(cell: Mapping[str, Any]) -> tuple[str, str, str]:
    """Returns the threat model, attack and budget of a cell, as its row shows them."""
    if cell["attack"] == "benign":
        return ("-", "benign", "-")
    samples = f", {cell['samples']} samples" if cell.get("samples", 1) > 1 else ""
    attacker = _attacker_text(cell["threat_model"], cell["labels"]) + samples
    return (attacker, cell["attack"], budget_text(cell["norm"], cell["epsilon"]))


def budget_text(norm: str, epsilon: float) -> str:
    """Returns a norm and an epsilon as text, such as `"L∞ 0.2"` or `"L∞ 8/255"`."""
    return f"{_NORMS[norm]} {epsilon_text(epsilon)}"


def epsilon_text(epsilon: float) -> str:
    """Returns an epsilon as text: in 255ths where it is a number of grey levels, as `"8/255"`."""
    rounded = f"{epsilon:.3g}"
    grey_levels = round(255 * epsilon)
    # 0.2 is 51 grey levels, too, and nobody writes 51/255.
    if math.isclose(float(rounded), epsilon) or not math.isclose(grey_levels, 255 * epsilon):
        return rounded
    return f"{grey_levels}/255"


def to_markdown(frame: pd.DataFrame, decimals: Mapping[str, int] = _DECIMALS) -> str:
    """Writes a table in Markdown, numbers to the right; `decimals` maps columns to digits."""
    alignment = "".join("r" if is_numeric_dtype(dtype) else "l" for dtype in frame.dtypes)
    return markdown_table(list(frame.columns), _as_text(frame, decimals), alignment)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], alignment: str) -> str:
    """Writes a table of texts in Markdown; `alignment` has an `l` or an `r` for each column."""
    rule = ["---:" if one == "r" else "---" for one in alignment]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def to_text(frame: pd.DataFrame, decimals: Mapping[str, int] = _DECIMALS) -> str:
    """Writes a table for the terminal, numbers to the right."""
    alignment = ["right" if is_numeric_dtype(dtype) else "left" for dtype in frame.dtypes]
    rows = _as_text(frame, decimals)
    return tabulate(
        # A terminal shows no bold type.
        [[text.replace("**", "") for text in row] for row in rows],
        headers=list(frame.columns),
        tablefmt="plain",
        disable_numparse=True,
        colalign=alignment if len(frame) else None,
    )


def _as_text(frame: pd.DataFrame, decimals: Mapping[str, int]) -> list[tuple[str, ...]]:
    """Returns the rows of a table as text; `-` for what was not measured."""

    def text(value: Any, digits: int) -> str:
        if pd.isna(value):
            return "-"
        return f"{value:.{digits}f}" if isinstance(value, float) else str(value)

    digits = [decimals.get(str(name), 1) for name in frame.columns]
    return [
        tuple(text(value, places) for value, places in zip(row, digits, strict=True))
        for row in frame.itertuples(index=False)
    ]


def _attacker_text(threat_model: str, labels: str) -> str:
    return f"{threat_model}, predicted labels" if labels == "predicted" else threat_model


def _percent(share: float | None) -> float:
    return np.nan if share is None else 100 * share
