"""Executes tutorials at their own size, and keeps them with their outputs and their results.

`python -m experiments.tutorials results 01_quickstart 02_attack_it_yourself`

They are executed in the folder `tutorials`, one after the other, as a later one may take what
an earlier one has saved. What only tools need is taken out before a notebook is written
back, and how long it took is written to `tutorials.json` in the folder of the results.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import papermill

FOLDER = Path("tutorials")
# Tags of cells, and alternative texts of their pictures.
_KEPT_CELL_METADATA = {"tags", "alt"}
_KEPT_NOTEBOOK_METADATA = {"kernelspec"}


def cleaned(notebook):
    """Takes out of an executed notebook what is not for readers."""
    notebook.cells = [
        cell
        for cell in notebook.cells
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    for cell in notebook.cells:
        if "remove_output" in cell.metadata.get("tags", []):
            cell.outputs = []
        _keep(cell.metadata, _KEPT_CELL_METADATA)
        for output in cell.get("outputs", []):
            _keep(output.get("metadata", {}), set())
    _keep(notebook.metadata, _KEPT_NOTEBOOK_METADATA)
    return notebook


def _keep(metadata, names):
    for name in set(metadata) - names:
        del metadata[name]


def execute(name, results):
    """Executes one tutorial, and returns the seconds that it took."""
    path = FOLDER / f"{name}.ipynb"
    with tempfile.TemporaryDirectory() as folder:
        executed = Path(folder) / path.name
        started = time.perf_counter()
        papermill.execute_notebook(
            str(path),
            str(executed),
            parameters={"RESULTS_FOLDER": str(results.resolve())},
            cwd=str(FOLDER),
        )
        seconds = time.perf_counter() - started
        nbformat.write(cleaned(nbformat.read(executed, as_version=4)), path)
    return seconds


def main(results, *names):
    """Executes the tutorials of these names, and notes how long each took."""
    results = Path(results)
    path = results / "tutorials.json"
    seconds = json.loads(path.read_text()) if path.exists() else {}
    for name in names:
        seconds[name] = round(execute(name, results))
        path.write_text(json.dumps(dict(sorted(seconds.items())), indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
