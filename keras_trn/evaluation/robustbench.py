"""Fills in the fields of RobustBench's model files."""

from typing import TYPE_CHECKING
from typing import Any

import numpy as np

if TYPE_CHECKING:
    from keras_trn.evaluation.report import Report

# RobustBench's leaderboards rank by this attack.
ATTACK = "AutoAttack"
THREAT_MODEL = "whitebox_full"
# Epsilons of 8-bit images are fractions of this.
_LEVELS = 255
# NumPy may have rounded an epsilon to float32.
_ROUNDING_OF_LEVELS = 1e-4


def measured_fields(report: "Report", defence: str, norm: str | None) -> dict[str, Any]:
    """Returns the measured fields for the first run of AutoAttack in a norm.

    `external` is the worst case of the report within the same epsilon, present only if it is
    lower.

    Raises:
        ValueError: If the report has no run of AutoAttack.
    """
    cell = _auto_attack_cell(report, defence, norm)
    withstood = _correct(report, defence, cell)
    worst = report.worst(defence, cell["norm"], cell["epsilon"])
    fields = {
        "eps": _epsilon_text(cell["epsilon"]),
        "clean_acc": _percent(report.cell("benign", defence=defence)["accuracy"]),
        "autoattack_acc": _percent(withstood),
    }
    if worst is not None and worst < withstood:
        fields["external"] = _percent(worst)
    return fields


def _auto_attack_cell(report: "Report", defence: str, norm: str | None) -> dict[str, Any]:
    for cell in report.cells:
        if (
            (cell["defence"], cell["attack"], cell["threat_model"])
            == (defence, ATTACK, THREAT_MODEL)
            and cell["labels"] == "true"
            and not cell["in_epsilon_sweep"]
            and norm in (None, cell["norm"])
        ):
            return cell
    of_norm = "" if norm is None else f" of norm {norm!r}"
    raise ValueError(
        f"RobustBench needs the accuracy under {ATTACK}{of_norm}, but this report holds no run of "
        f"it on {defence!r} under `{THREAT_MODEL}`. Run `keras_trn.evaluate(defence, dataset, "
        '[keras_trn.attacks.auto_attack("standard", epsilon=8 / 255)], '
        f'["{THREAT_MODEL}"])`.'
    )


def _correct(report: "Report", defence: str, cell: dict[str, Any]) -> float:
    """Returns the share of images that are correct without the attack and under it."""
    cells = [report.cell("benign", defence=defence), cell]
    return float(np.all([report.correct(one) for one in cells], axis=0).mean())


def _epsilon_text(epsilon: float) -> str:
    """Writes an epsilon as RobustBench does: `"8/255"`, or `"0.5"`."""
    level = round(_LEVELS * epsilon)
    is_level = abs(_LEVELS * epsilon - level) < _ROUNDING_OF_LEVELS
    return f"{level}/{_LEVELS}" if is_level and 0 < level < _LEVELS else f"{epsilon:.6g}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
