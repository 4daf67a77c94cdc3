"""Makes the figures of the landing page and of the page "Should you use this?" from reports.

`experiments.pages` fills them in, at the places `headlines`, `choices_cifar10` and
`choices_fashion_mnist`.
"""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.reports import overview
from experiments.reports import read_report
from experiments.studies.certified import NAME
from keras_trn.evaluation.tables import to_markdown

# What can be chosen, and the name of the defence in the reports.
CHOICES = {
    "no defence": "bare",
    "plain restorer": "plain TRN",
    "hardened restorer": "hardened TRN",
    "adversarial training": "adversarial training",
    "bit-depth filter": "bit depth",
    "JPEG filter": "JPEG",
}
CERTIFIED = "certified method"


@functools.cache
def figures(path: Path) -> pd.DataFrame:
    """Returns the short table of a report, by defence."""
    return overview(read_report(path)).set_index("defence")


def headlines(folder: Path) -> str:
    """Writes three figures of CIFAR-10 as cards: no knowledge, full knowledge, no attack."""
    oblivious, plain, hardened = (
        figures(folder / f"{name}.json")
        for name in ("trn_cifar10", "trn_cifar10_worst", "trn_hardened_cifar10")
    )
    cards = [
        (
            oblivious.loc["plain TRN", "no knowledge"],
            "under an attacker who does not know of the restorer. "
            f"Without it: {oblivious.loc['bare', 'no knowledge']:.1f}%.",
        ),
        (
            hardened.loc["hardened TRN", "worst"],
            "under an attacker who knows everything, with the hardened restorer. "
            f"The plain one keeps {plain.loc['plain TRN', 'worst']:.1f}%.",
        ),
        (
            plain.loc["plain TRN", "benign"],
            f"when nobody attacks. Without a restorer: {plain.loc['bare', 'benign']:.1f}%; "
            f"hardened: {hardened.loc['hardened TRN', 'benign']:.1f}%.",
        ),
    ]
    items = [f"-   **{value:.1f}%** correct\n\n    {text}" for value, text in cards]
    return '<div class="grid cards headlines" markdown>\n\n' + "\n\n".join(items) + "\n\n</div>"


def choices(data: str, folder: Path) -> str:
    """Writes what each choice keeps on a data set; a star marks a figure under PGD alone."""
    plain, hardened = (
        figures(folder / f"{name}.json") for name in (f"trn_{data}_worst", f"trn_hardened_{data}")
    )
    rows = []
    for choice, defence in CHOICES.items():
        star = "" if defence in hardened.index else "*"
        found = (plain if star else hardened).loc[defence]
        attacked = {
            column: "-" if np.isnan(found[column]) else f"{found[column]:.1f}{star}"
            for column in ("full knowledge", "no knowledge")
        }
        rows.append({"choice": choice, "benign": found["benign"], **attacked})
    rows.append(certified_choice(data, folder))
    return to_markdown(pd.DataFrame(rows))


def certified_choice(data: str, folder: Path) -> dict[str, Any]:
    """Returns what the certified method keeps under attacks, and what it proves."""
    found = figures(folder / f"certified_{data}.json").loc[NAME]
    proofs = json.loads((folder / f"certified_{data}_proofs.json").read_text(encoding="utf-8"))
    proved = 100 * proofs["test"]["certified_accuracy"]
    return {
        "choice": CERTIFIED,
        "benign": found["benign"],
        "full knowledge": f"{found['full knowledge']:.1f} ({proved:.1f} proved)",
        "no knowledge": f"{found['no knowledge']:.1f}",
    }
