"""Makes the figures of the landing page and of the page "Should you use this?" from reports.

`experiments.pages` fills them in, at the places `headlines`, `choices_cifar10` and
`choices_fashion_mnist`.
"""

import functools
import json
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.reports import overview
from experiments.reports import read_report
from experiments.studies.certified import NAME
from keras_trn.evaluation.tables import to_markdown

# The defences to choose from, by their names in the reports.
CHOICES = (
    "bare",
    "plain restorer",
    "hardened restorer",
    "adversarial training",
    "adversarial training, larger network",
    "bit depth",
)
_WORDS = {"bare": "no defence", "bit depth": "bit-depth filter"}


@functools.cache
def figures(path: Path) -> pd.DataFrame:
    """Returns the short table of a report, by defence."""
    return overview(read_report(path)).set_index("defence")


def headlines(folder: Path) -> str:
    """Writes three figures of CIFAR-10 as cards: no knowledge, full knowledge, no attack."""
    found = figures(folder / "trn_hardened_cifar10.json")
    bare, plain, hardened = (
        found.loc[name] for name in ("bare", "plain restorer", "hardened restorer")
    )
    cards = [
        (
            plain["no knowledge"],
            "under an attacker who does not know of the restorer. "
            f"Without it: {bare['no knowledge']:.1f}%.",
        ),
        (
            hardened["worst"],
            "under an attacker who knows everything, with the hardened restorer. "
            f"The plain one keeps {plain['worst']:.1f}%.",
        ),
        (
            plain["benign"],
            f"when nobody attacks. Without a restorer: {bare['benign']:.1f}%; "
            f"hardened: {hardened['benign']:.1f}%.",
        ),
    ]
    items = [f"-   **{value:.1f}%** correct\n\n    {text}" for value, text in cards]
    return '<div class="grid cards headlines" markdown>\n\n' + "\n\n".join(items) + "\n\n</div>"


def choices(data: str, folder: Path) -> str:
    """Writes what each choice keeps on a data set."""
    found = figures(folder / f"trn_hardened_{data}.json")
    rows = []
    for defence in CHOICES:
        if defence in found.index:
            row = found.loc[defence]
            attacked = {name: f"{row[name]:.1f}" for name in ("full knowledge", "no knowledge")}
            choice = _WORDS.get(defence, defence)
            rows.append({"choice": choice, "benign": row["benign"], **attacked})
    if (folder / f"certified_{data}.json").exists():
        rows.append(certified_choice(data, folder))
    return to_markdown(pd.DataFrame(rows))


def certified_choice(data: str, folder: Path) -> dict[str, Any]:
    """Returns what the certified method keeps under attacks, and what it proves."""
    found = figures(folder / f"certified_{data}.json").loc[NAME]
    proofs = json.loads((folder / f"certified_{data}_proofs.json").read_text(encoding="utf-8"))
    proved = 100 * proofs["test"]["certified_accuracy"]
    return {
        "choice": "certified method",
        "benign": found["benign"],
        "full knowledge": f"{found['full knowledge']:.1f} ({proved:.1f} proved)",
        "no knowledge": f"{found['no knowledge']:.1f}",
    }
