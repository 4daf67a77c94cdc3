"""The tutorials run from start to end, and show what they say they show."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
import tensorflow as tf

pytestmark = pytest.mark.slow

TUTORIALS = Path(__file__).parent.parent / "tutorials"


def run_quickstart(folder, **parameters):
    """Executes the quickstart and returns its two reports."""
    papermill.execute_notebook(
        str(TUTORIALS / "01_quickstart.ipynb"),
        str(folder / "quickstart.ipynb"),
        parameters={"RESULTS_FOLDER": str(folder), **parameters},
        cwd=str(folder),
        progress_bar=False,
    )
    return [
        {row["attack"]: row for row in json.loads((folder / name).read_text())["rows"]}
        for name in ("quickstart_digits.json", "quickstart_digits_predicted_labels.json")
    ]


def assert_quickstart_protects(on_true_labels, on_predicted_labels):
    """What the quickstart promises of the 360 test digits at epsilon 0.2."""
    attacks = ["FGSM", "BIM-20", "PGD-20", "MIM-20"]
    benign = on_true_labels["benign"]
    assert benign["examples"] == 360
    assert benign["bare_accuracy"] >= 0.98
    assert benign["protected_accuracy"] >= benign["bare_accuracy"] - 0.01
    assert on_true_labels["FGSM"]["bare_accuracy"] <= 0.20
    assert on_true_labels["PGD-20"]["bare_accuracy"] <= 0.08
    for attack in attacks:
        assert on_true_labels[attack]["protected_accuracy"] >= 0.94, attack
        assert on_predicted_labels[attack]["agreement"] >= 0.92, attack
        row = on_true_labels[attack]
        assert row["restored_psnr"] > row["attacked_psnr"] + 3, attack


def test_quickstart_protects_the_classifier(tmp_path):
    assert_quickstart_protects(*run_quickstart(tmp_path))


def test_quickstart_runs_from_the_command_line(tmp_path):
    """With fewer epochs the quickstart runs through too, from the command line."""
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(TUTORIALS / "01_quickstart.ipynb"),
        "out.ipynb",
    ]
    for name in ("CLASSIFIER_EPOCHS", "RESTORER_EPOCHS"):
        command += ["-p", name, "5"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "protected_digits.keras").exists()


@pytest.mark.parametrize("path", sorted(TUTORIALS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_tutorial_is_committed_with_its_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert any("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells)


@pytest.mark.gpu
def test_tutorials_at_full_size_on_a_gpu(tmp_path):
    if not tf.config.list_physical_devices("GPU"):
        pytest.skip("TensorFlow sees no GPU on this machine")
    assert_quickstart_protects(*run_quickstart(tmp_path, CLASSIFIER_EPOCHS=80, RESTORER_EPOCHS=120))
