"""Executes tutorials at full size, and keeps their outputs and results.

`python -m experiments.studies.tutorials results 01_quickstart 02_attack_it_yourself`

They run in the folder `tutorials` in turn, because a later one may load models of an earlier one.
The study writes the seconds of each to `tutorials.json` in the folder of the results.
"""

import json
import sys
import tempfile
import time
from collections.abc import Container
from pathlib import Path
from typing import Any

import nbformat
import papermill

from experiments.writing import write_results

FOLDER = Path("tutorials")


def cleaned(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Removes metadata for tools from an executed notebook."""
    notebook.cells = [
        cell
        for cell in notebook.cells
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    for cell in notebook.cells:
        if "remove_output" in cell.metadata.get("tags", []):
            cell.outputs = []
        # `alt` holds the alternative texts of pictures.
        _keep(cell.metadata, {"tags", "alt"})
        for output in cell.get("outputs", []):
            _keep(output.get("metadata", {}), set())
    _keep(notebook.metadata, {"kernelspec"})
    return notebook


def _keep(metadata: dict[str, Any], names: Container[str]) -> None:
    for name in [name for name in metadata if name not in names]:
        del metadata[name]


def execute(name: str, results: Path) -> float:
    """Executes one tutorial, and returns its seconds."""
    path = FOLDER / f"{name}.ipynb"
    with tempfile.TemporaryDirectory() as folder:
        executed = Path(folder) / path.name
        started = time.perf_counter()
        parameters = {"RESULTS_FOLDER": str(results.resolve())}
        papermill.execute_notebook(str(path), str(executed), parameters, cwd=str(FOLDER))
        seconds = time.perf_counter() - started
        nbformat.write(cleaned(nbformat.read(executed, as_version=4)), path)
    return seconds


def main(results: Path, *names: str) -> None:
    """Executes the named tutorials, and writes their seconds."""
    path = results / "tutorials.json"
    seconds = json.loads(path.read_text()) if path.exists() else {}
    for name in names:
        seconds[name] = round(execute(name, results))
        write_results(path, dict(sorted(seconds.items())))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
