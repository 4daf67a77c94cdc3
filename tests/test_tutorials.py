"""The tutorials run from start to end, and show what they say they show."""

import json
import re
import subprocess
import sys

import pytest

import keras_trn
from keras_trn.evaluation import Report
from tests.tutorials import TUTORIALS
from tests.tutorials import run_tutorial
from tests.tutorials import sources

pytestmark = pytest.mark.slow


def assert_quickstart_protects(report):
    """Checks what the quickstart promises for the 360 test digits at epsilon 0.2."""
    benign, bare_benign = report.cell("benign"), report.cell("benign", defence="bare")
    assert benign["examples"] == 360
    assert bare_benign["accuracy"] >= 0.98
    assert benign["accuracy"] >= bare_benign["accuracy"] - 0.01
    assert report.cell("FGSM", "oblivious", "bare")["accuracy"] <= 0.20
    assert report.cell("PGD-20", "oblivious", "bare")["accuracy"] <= 0.08
    for attack in ["FGSM", "BIM-20", "PGD-20", "MIM-20"]:
        cell = report.cell(attack, "oblivious")
        assert cell["accuracy"] >= 0.94, attack
        assert cell["restored_psnr"] > cell["attacked_psnr"] + 3, attack
        on_predicted_labels = report.cell(attack, "oblivious", labels="predicted")
        assert on_predicted_labels["agreement"] >= 0.92, attack


def assert_report_is_honest(report):
    """Checks what holds for strong and for weak defences."""
    of_protected = [cell for cell in report.cells if cell["defence"] == "protected"]
    at_full_epsilon = [cell for cell in of_protected if not cell.get("in_epsilon_sweep")]
    assert report.worst() <= min(cell["accuracy"] for cell in at_full_epsilon)
    whitebox = report.cell("PGD-20", "whitebox_full")["accuracy"]
    assert whitebox <= report.cell("PGD-20", "oblivious")["accuracy"]
    assert {check.name for check in report.checks["protected"]} == set(
        keras_trn.evaluation.checks.ALL_CHECKS
    )
    statuses = {check.name: check.status for check in report.checks["protected"]}
    for check in ("outputs_are_logits", "deterministic", "input_gradients", "dynamic_defence"):
        assert statuses[check] == "PASS", check
    assert statuses["bare_classifier_falls"] == "PASS"


def test_quickstart_protects_the_classifier(tmp_path):
    # The README's first command, with fewer epochs.
    notebook = str(TUTORIALS / "01_quickstart.ipynb")
    command = [sys.executable, "-m", "papermill", notebook, "quickstart.ipynb"]
    command += ["-p", "RESULTS_FOLDER", str(tmp_path), "-p", "RESTORER_EPOCHS", "40"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    report = Report.from_json(tmp_path / "quickstart_digits.json")
    assert_quickstart_protects(report)
    assert_report_is_honest(report)


def test_attack_it_yourself_breaks_what_the_quickstart_protects(tmp_path):
    run_tutorial("02_attack_it_yourself", tmp_path, EXAMPLES=45, CHECK_EXAMPLES=12, QUERIES=20)
    report = Report.from_json(tmp_path / "attack_it_yourself_digits.json")
    assert_report_is_honest(report)
    assert report.cell("benign")["examples"] == 45
    assert report.cell("PGD-20", "oblivious")["accuracy"] >= 0.9
    assert report.cell("PGD-20", "whitebox_stopgrad")["accuracy"] <= 0.5
    with_restarts = report.cell("PGD-20 x5", "whitebox_full")["accuracy"]
    assert with_restarts <= 0.2
    assert with_restarts < report.cell("PGD-20", "whitebox_full")["accuracy"]
    assert report.worst() <= 0.15


def test_gradient_maps_show_what_they_say(tmp_path):
    run_tutorial("03_gradient_maps", tmp_path)
    results = json.loads((tmp_path / "gradient_maps_digits.json").read_text())
    agreement = results["sign_agreement"]
    assert agreement["label known"] >= 0.85
    assert agreement["EstimatedLabel"] >= agreement["label known"] - 0.05
    assert agreement["UniformLabel"] <= agreement["EstimatedLabel"] - 0.1
    assert agreement["PredictedLabel"] <= 0.5
    for name, found in results["label_found"].items():
        assert "noise" in name or found >= 0.93, name
    assert results["label_found"]["benign"] >= 0.98


def test_harden_it_withstands_what_breaks_the_quickstart(tmp_path):
    run_tutorial("06_harden_it", tmp_path, HARDENING_EPOCHS=8, EXAMPLES=90, CHECK_EXAMPLES=8)
    report = Report.from_json(tmp_path / "harden_it_digits.json")
    # Half of the epochs are enough to keep more than the quickstart does, see above.
    assert report.worst() > 0.15
    assert report.cell("PGD-20", "whitebox_full")["accuracy"] >= 0.3
    assert report.cell("benign")["accuracy"] >= 0.85


@pytest.mark.parametrize("path", sorted(TUTORIALS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_tutorial_is_committed_with_its_outputs(path):
    # The import takes seconds, which every run of the tests would pay.
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert any("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells)


@pytest.mark.parametrize("path", sorted(TUTORIALS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_tutorial_needs_the_package_alone(path):
    code = sources(path, "code")
    for unavailable in ("from experiments", "import experiments", "../results"):
        assert not [source for source in code if unavailable in source], unavailable


def test_tutorial_of_photographs_shows_the_card_of_the_preset():
    notebook = json.loads((TUTORIALS / "04_cifar10.ipynb").read_text(encoding="utf-8"))
    card = keras_trn.list_presets()["trn_cifar10"]
    shown = [
        "".join(output["data"].get("text/markdown", []))
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        if "data" in output
    ]
    assert card[card.index("### Results") :] in shown


def test_title_cells_give_the_measured_times():
    measured = json.loads((TUTORIALS.parent / "results/tutorials.json").read_text())
    for name, seconds in measured.items():
        title = sources(TUTORIALS / f"{name}.ipynb")[0]
        number, unit = re.search(r"\*\*Time\*\*: (\d+) (minute|second)s", title).groups()
        told = int(number) * {"minute": 60, "second": 1}[unit]
        assert abs(told - seconds) <= 30, name
        assert seconds <= 10 * 60, name
    assert sum(measured.values()) <= 25 * 60


@pytest.mark.gpu
def test_tutorials_at_full_size_on_a_gpu(tmp_path):
    run_tutorial("01_quickstart", tmp_path, CLASSIFIER_EPOCHS=80, RESTORER_EPOCHS=120)
    assert_quickstart_protects(Report.from_json(tmp_path / "quickstart_digits.json"))
    run_tutorial("02_attack_it_yourself", tmp_path)
    assert_report_is_honest(Report.from_json(tmp_path / "attack_it_yourself_digits.json"))
    run_tutorial("03_gradient_maps", tmp_path)
    run_tutorial("05_your_own_classifier", tmp_path)
    run_tutorial("06_harden_it", tmp_path)


@pytest.mark.gpu
@pytest.mark.real_data
def test_cifar10_at_full_size_on_a_gpu(tmp_path):
    run_tutorial("04_cifar10", tmp_path)
