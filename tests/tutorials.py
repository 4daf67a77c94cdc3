"""Executes and reads tutorials."""

import json
from pathlib import Path

TUTORIALS = Path(__file__).parent.parent / "tutorials"


def run_tutorial(name, folder, **parameters):
    """Executes a tutorial in a folder, which also takes its results."""
    # The import takes seconds, which every run of the tests would pay.
    import papermill

    papermill.execute_notebook(
        str(TUTORIALS / f"{name}.ipynb"),
        str(folder / f"{name}.ipynb"),
        parameters={"RESULTS_FOLDER": str(folder), **parameters},
        cwd=str(folder),
        progress_bar=False,
    )


def sources(path, cell_type=None):
    """The text of each cell of a notebook, or of each cell of one type."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell_type in (None, cell["cell_type"])]
