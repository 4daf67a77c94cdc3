"""Compares the attempts at hardening on CIFAR-10, on validation images.

`python -m experiments.studies.hardening_attempts results/hardening_attempts_cifar10.json`

writes the table next to the file. Each attempt is a run of `experiments.hardening_on_jax` with the
settings in the file, which are fields of `experiments.recipe.HardeningOnJax`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from keras_trn.evaluation.tables import to_markdown


def summarize(attempt: dict[str, Any]) -> dict[str, Any]:
    """Makes the row of an attempt, with its settings and its best epoch under attack."""
    settings = attempt["settings"]
    benign, robust = (
        100 * np.array(attempt[f"val_{kind}_accuracy"]) for kind in ("benign", "robust")
    )
    best = int(robust.argmax())
    return {
        "trained": attempt["defence"],
        "attack": f"{settings['attack_steps']} steps of {settings['step_size']:g} epsilon",
        "benign images": f"{settings['benign_share']:.0%}",
        "CutMix": f"{settings['cutmix_share']:.0%}",
        "best epoch": f"{best + 1} of {settings['epochs']}",
        "benign": benign[best],
        "PGD-10": robust[best],
        "PGD-10, last epoch": robust[-1],
    }


def main(path: Path) -> None:
    """Writes the table of the attempts in a file."""
    attempts = json.loads(path.read_text(encoding="utf-8"))["attempts"]
    table = to_markdown(pd.DataFrame(map(summarize, attempts)))
    path.with_suffix(".md").write_text(table + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
