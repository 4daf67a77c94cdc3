"""Writes the results of experiments as JSON, and their tables next to them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_trn.files import write_text


def write_results(
    path: Path, results: Mapping[str, Any], table: str | Mapping[str, str] | None = None
) -> None:
    """Writes results, and their tables next to them; an interruption leaves no half-written file.

    Args:
        path: The JSON file.
        results: What JSON can hold.
        table: A table, or several by what their files' names add to that of the JSON file.
    """
    write_text(path, json.dumps(results, indent=1) + "\n")
    tables = {"": table} if isinstance(table, str) else table or {}
    for ending, text in tables.items():
        write_text(path.with_name(f"{path.stem}{ending}.md"), text + "\n")
