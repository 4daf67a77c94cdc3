"""Executes tutorials."""

from pathlib import Path

import papermill

TUTORIALS = Path(__file__).parent.parent / "tutorials"


def run_tutorial(name, folder, **parameters):
    """Executes a tutorial in a folder, which also takes its results."""
    papermill.execute_notebook(
        str(TUTORIALS / f"{name}.ipynb"),
        str(folder / f"{name}.ipynb"),
        parameters={"RESULTS_FOLDER": str(folder), **parameters},
        cwd=str(folder),
        progress_bar=False,
    )
