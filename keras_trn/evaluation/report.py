"""What an evaluation found, to print, to save and to read again."""

import dataclasses
import json
import platform
from importlib import metadata
from pathlib import Path

_HEADINGS = ("attack", "bare", "protected", "agreement", "PSNR attacked", "PSNR restored")


@dataclasses.dataclass
class Report:
    """The result of `keras_trn.evaluate`.

    Prints as a table, shows as a table in a notebook, and goes to JSON with all
    that is needed to make it again.

    Args:
        rows: One dictionary for benign images and one for each attack, with
            `attack`, `settings`, `examples`, `bare_accuracy`,
            `protected_accuracy`, `agreement` (share of images that are classified
            as the bare classifier classifies the benign image), all from 0 to 1,
            and `attacked_psnr` and `restored_psnr` in decibels.
        labels: Whether the attacks used `"true"` or `"predicted"` labels.
        seconds: How long the evaluation took.
        threat_model: What the attacker knows.

    Example:
        ```python
        import keras_trn

        row = dict(attack="FGSM", settings=None, examples=2, bare_accuracy=0.0,
                   protected_accuracy=1.0, agreement=1.0, attacked_psnr=14.0,
                   restored_psnr=20.0)
        report = keras_trn.evaluation.Report(rows=[row], labels="true", seconds=1.0)
        assert "FGSM" in str(report)
        ```
    """

    rows: list
    labels: str
    seconds: float
    threat_model: str = "oblivious"

    def row(self, attack):
        """Returns the row of an attack.

        Args:
            attack: Its name, as in the table; `"benign"` for no attack.

        Returns:
            The dictionary of its measurements.

        Raises:
            KeyError: If there is no such attack in the report.
        """
        for row in self.rows:
            if row["attack"] == attack:
                return row
        names = ", ".join(repr(row["attack"]) for row in self.rows)
        raise KeyError(f"No attack {attack!r} in this report; there are {names}.")

    def to_dict(self):
        """Returns all that was found, with the versions and the machine it was found on."""
        return {
            "threat_model": self.threat_model,
            "labels": self.labels,
            "rows": self.rows,
            "versions": _versions(),
            "machine": f"{platform.machine()}, {platform.system()}",
            "seconds": round(self.seconds, 1),
        }

    def to_json(self, path):
        """Writes the report to a JSON file.

        Args:
            path: Where to write it.
        """
        Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def from_json(cls, path):
        """Reads a report that `to_json` wrote.

        Args:
            path: The JSON file.

        Returns:
            The report.
        """
        saved = json.loads(Path(path).read_text())
        return cls(**{field.name: saved[field.name] for field in dataclasses.fields(cls)})

    def to_markdown(self):
        """Returns the table in Markdown."""
        cells = [_HEADINGS, ["---"] + ["---:"] * (len(_HEADINGS) - 1), *map(_cells, self.rows)]
        return "\n".join(f"| {' | '.join(row)} |" for row in cells)

    def _repr_markdown_(self):
        return f"{self.to_markdown()}\n\n{self._caption()}"

    def __str__(self):
        table = [_HEADINGS, *map(_cells, self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = []
        for first, *others in table:
            padded = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
            lines.append("  ".join([first.ljust(widths[0]), *padded]))
        return "\n".join([*lines, self._caption()])

    def _caption(self):
        return (
            f"Accuracy in percent of {self.rows[0]['examples']} images, PSNR in decibels. Threat "
            f"model: {self.threat_model}; attacks on {self.labels} labels."
        )


def _cells(row):
    shares = [row["bare_accuracy"], row["protected_accuracy"], row["agreement"]]
    ratios = [row["attacked_psnr"], row["restored_psnr"]]
    return [
        row["attack"],
        *(f"{100 * share:.1f}" for share in shares),
        *("-" if ratio >= 100 else f"{ratio:.1f}" for ratio in ratios),
    ]


def _versions():
    packages = ("keras_trn", "keras", "tensorflow", "cleverhans", "numpy")
    return {"python": platform.python_version(), **{name: _version(name) for name in packages}}


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
