"""The tables of a report, as rows of text, and how they are written."""

_NORMS = {"linf": "L∞", "l2": "L2"}


def summary_table(report):
    """The worst case per image: a row for each defence, a column for each threat model.

    Args:
        report: A `keras_trn.evaluation.Report`.

    Returns:
        A list of rows, the first of them the headings; a row is a list of strings.
    """
    norm, epsilon = report.budgets[0]
    attacked = [cell for cell in report.cells if cell["attack"] != "benign"]
    keys = dict.fromkeys((cell["threat_model"], cell["labels"]) for cell in attacked)
    headings = [f"{name}{_labels_suffix(labels)}" for name, labels in keys]
    rows = [["defence", "benign", "worst", *headings]]
    for name in report.defences:
        by_threat_model = [report.worst(name, norm, epsilon, *key) for key in keys]
        accuracies = [
            report.cell("benign", defence=name)["accuracy"],
            report.worst(name, norm, epsilon),
            *by_threat_model,
        ]
        missing = report.without(name)
        title = f"{name}, without {', '.join(missing)}" if missing else name
        rows.append([title, *map(_percent, accuracies)])
    return rows


def accuracy_table(report):
    """Accuracy in percent: a row for each attack, a column for each defence.

    Args:
        report: A `keras_trn.evaluation.Report`.

    Returns:
        A list of rows, the first of them the headings; a row is a list of strings.
    """
    rows = [["threat model", "attack", "epsilon", *report.defences]]
    for key, by_defence in _rows(report).items():
        cells = [by_defence.get(name) for name in report.defences]
        rows.append([*key, *(_percent(cell and cell["accuracy"]) for cell in cells)])
    tried = "all" + "".join(
        f" (without {', '.join(report.without(name))} on {name})"
        for name in report.defences
        if report.without(name)
    )
    for norm, epsilon in report.budgets:
        worst = [report.worst(name, norm, epsilon) for name in report.defences]
        rows.append(["**worst**", tried, budget_text(norm, epsilon), *map(_percent, worst)])
    return rows


def quality_table(report):
    """What the judged defence makes of the images: a row for each attack.

    Args:
        report: A `keras_trn.evaluation.Report`.

    Returns:
        A list of rows, the first of them the headings; a row is a list of strings.
    """
    headings = ["agreement", "PSNR attacked", "PSNR restored", "SSIM attacked", "SSIM restored"]
    rows = [["threat model", "attack", "epsilon", *headings]]
    for key, by_defence in _rows(report).items():
        cell = by_defence.get(report.evaluated)
        if cell is not None:
            ratios = [_ratio(cell.get(f"{state}_psnr")) for state in ("attacked", "restored")]
            shares = [_share(cell.get(f"{state}_ssim")) for state in ("attacked", "restored")]
            rows.append([*key, _percent(cell["agreement"]), *ratios, *shares])
    return rows


def checks_table(report):
    """The sanity checks of the judged defence: a row for each check.

    Args:
        report: A `keras_trn.evaluation.Report`.

    Returns:
        A list of rows, the first of them the headings; a row is a list of strings.
    """
    rows = [["check", "result", "finding"]]
    for check in report.checks[report.evaluated]:
        # Most checks are about the main attack, which the caption names.
        is_other = check.attack not in (None, report.settings["checked_attack"])
        name = f"{check.name}, {check.attack}" if is_other else check.name
        rows.append([name, check.status, check.finding])
    return rows


def to_markdown(rows):
    """Writes rows as a table in Markdown, numbers to the right.

    Args:
        rows: List of rows of strings, the first of them the headings.

    Returns:
        The text.

    Example:
        ```python
        from keras_trn.evaluation.tables import to_markdown

        assert to_markdown([["attack", "bare"], ["FGSM", "1.0"]]).startswith("| attack | bare |")
        ```
    """
    rule = ["---:" if _is_numeric(column) else "---" for column in zip(*rows, strict=True)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])


def to_text(rows):
    """Writes rows as a table for the terminal, numbers to the right.

    Args:
        rows: List of rows of strings, the first of them the headings.

    Returns:
        The text.

    Example:
        ```python
        from keras_trn.evaluation.tables import to_text

        assert to_text([["attack", "bare"], ["FGSM", "1.0"]]) == "attack  bare\\nFGSM     1.0"
        ```
    """
    rows = [[cell.strip("*") for cell in row] for row in rows]
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    pads = [str.rjust if _is_numeric(column) else str.ljust for column in columns]
    return "\n".join(
        "  ".join(
            pad(cell, width) for pad, cell, width in zip(pads, row, widths, strict=True)
        ).rstrip()
        for row in rows
    )


def _rows(report):
    """The cells by what stands at the start of their row, then by their defence."""
    rows = {}
    for cell in report.cells:
        if not cell.get("in_epsilon_sweep"):
            rows.setdefault(row_key(cell), {})[cell["defence"]] = cell
    return rows


def row_key(cell):
    """Says what the row of a cell is about.

    Args:
        cell: A cell of a report.

    Returns:
        Its threat model, attack and budget, as they stand at the start of the row.
    """
    if cell["attack"] == "benign":
        return ("-", "benign", "-")
    suffix = _labels_suffix(cell["labels"])
    budget = budget_text(cell["norm"], cell["epsilon"])
    samples = f", {cell['samples']} samples" if cell.get("samples", 1) > 1 else ""
    return (cell["threat_model"] + suffix + samples, cell["attack"], budget)


def _labels_suffix(labels):
    return ", predicted labels" if labels == "predicted" else ""


def budget_text(norm, epsilon):
    """Writes a norm and an epsilon.

    Args:
        norm: `"linf"` or `"l2"`.
        epsilon: A number.

    Returns:
        The text, such as `"L∞ 0.2"`.
    """
    return f"{_NORMS[norm]} {epsilon:.3g}"


def _percent(share):
    return "-" if share is None else f"{100 * share:.1f}"


def _ratio(ratio):
    # Copies that are exact count 100.
    return "-" if ratio is None or ratio >= 99.95 else f"{ratio:.1f}"


def _share(share):
    return "-" if share is None else f"{share:.3f}"


def _is_numeric(column):
    return all(cell.replace(".", "").isdigit() or cell == "-" for cell in column[1:])
