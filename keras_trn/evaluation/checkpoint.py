"""Keeps what an evaluation has finished, so that it can be interrupted."""

import json
from collections.abc import Callable
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_trn.digests import digest_of_json
from keras_trn.digests import to_json
from keras_trn.files import write_text


class Checkpoint:
    """Keeps each result under a digest of all that it depends on.

    Each line of the file is a JSON object with a `key`, the digest, and a `result`.
    Without a path, results are kept in memory alone.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.results: dict[str, Any] = {}
        if self.path is not None:
            if self.path.is_dir():
                raise ValueError(f"checkpoint must be the path of a file; {path!r} is a folder.")
            # If the file cannot be written, this fails before any computation.
            self.path.touch()
            self._read(self.path)

    def _read(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        for line in text.splitlines():
            try:
                saved = json.loads(line)
            except json.JSONDecodeError:
                # The evaluation was killed while it was writing this line.
                continue
            if not isinstance(saved, dict) or not {"key", "result"} <= saved.keys():
                raise ValueError(
                    f"checkpoint must be a file that an evaluation has written; {str(path)!r} "
                    f"holds the line {line[:80]!r}."
                )
            self.results[saved["key"]] = saved["result"]
        if text and not text.endswith("\n"):
            # The next result must not continue the line that was cut off.
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")

    def holds(self, description: Any) -> bool:
        """Tells whether there is a result for a description."""
        return digest_of_json(description) in self.results

    def get(self, description: Any) -> Any:
        """Returns the result for a description, which must be there."""
        return self.results[digest_of_json(description)]

    def keep(self, description: Any, result: Any) -> None:
        """Keeps the result for a description."""
        key = digest_of_json(description)
        self.results[key] = result
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(to_json({"key": key, "result": result}) + "\n")

    def get_or_compute(self, description: Any, compute: Callable[[], Any]) -> Any:
        """Returns the result for a description; computes and keeps it if there is none."""
        if not self.holds(description):
            self.keep(description, compute())
        return self.get(description)

    def forget(self, descriptions: Iterable[Any]) -> None:
        """Removes results that a later one contains."""
        forgotten = [self.results.pop(digest_of_json(one), None) for one in descriptions]
        if self.path is not None and any(result is not None for result in forgotten):
            lines = [to_json({"key": key, "result": kept}) for key, kept in self.results.items()]
            write_text(self.path, "".join(f"{line}\n" for line in lines))
