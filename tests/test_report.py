"""A report finds its cells, knows the worst case, and is the same after it was saved."""

import json
from pathlib import Path

import numpy as np
import pytest

import keras_trn
from experiments import headlines
from experiments.pages import with_tables
from experiments.reports import overview
from experiments.reports import rename_evaluated
from keras_trn.digests import digest_of_file
from keras_trn.evaluation.checks import CheckResult
from keras_trn.evaluation.packing import pack_bits
from keras_trn.evaluation.packing import unpack_bits
from keras_trn.evaluation.report import PictureRow
from keras_trn.evaluation.tables import epsilon_text

ROOT = Path(__file__).parent.parent


def make_cell(attack, correct, defence="protected", threat_model="oblivious", **changes):
    correct = np.array(correct, bool)
    cell = {
        "defence": defence,
        "attack": attack,
        "threat_model": threat_model,
        "labels": "true",
        "norm": "linf",
        "epsilon": 0.2,
        "in_epsilon_sweep": False,
        "examples": len(correct),
        "accuracy": float(correct.mean()),
        "agreement": 0.5,
        "attacked_psnr": 14.0,
        "attacked_ssim": 0.7,
        "restored_psnr": 20.0,
        "restored_ssim": 0.9,
        "correct": pack_bits(correct),
        "seconds": 1.0,
    }
    if attack == "benign":
        cell |= {"threat_model": None, "labels": None, "norm": None, "epsilon": 0.0}
    return cell | changes


@pytest.fixture
def report():
    cells = [
        make_cell("benign", [1, 1, 1, 0], attacked_psnr=100.0),
        make_cell("PGD-5", [1, 1, 0, 1]),
        make_cell("PGD-5", [1, 1, 1, 1], epsilon=0.1, in_epsilon_sweep=True),
        make_cell("PGD-5", [0, 1, 1, 1], threat_model="whitebox_full"),
        make_cell("PGD-5", [1, 1, 1, 1], labels="predicted"),
        make_cell("DeepFool", [0, 0, 1, 1], norm="l2", epsilon=1.0),
        make_cell("benign", [1, 1, 1, 1], defence="bare"),
        make_cell("PGD-5", [0, 0, 0, 0], defence="bare"),
    ]
    return keras_trn.evaluation.Report(
        defences=["bare", "protected"],
        evaluated="protected",
        cells=cells,
        checks={
            "bare": [],
            "protected": [
                CheckResult("deterministic", "PASS", 0.0, "5 runs agree."),
                CheckResult("input_gradients", "WARN", 1.0, "All gradients are zero."),
            ],
        },
        settings={"checked_attack": "PGD-5", "check_examples": 4},
        environment={"versions": {}, "hardware": {}},
        seconds=12.34,
    )


def test_worst_is_per_image_and_within_the_budget(report):
    assert report.budgets == [("linf", 0.2), ("l2", 1.0)]
    # Only the second image is correct without attack and under every L-inf attack.
    assert report.worst() == 0.25
    assert report.worst(epsilon=0.1) == 0.75
    assert report.worst(norm="l2") == 0.25
    assert report.worst("bare") == 0.0
    with pytest.raises(KeyError, match="No attack of norm 'l1'"):
        report.worst(norm="l1")
    with pytest.raises(KeyError, match="No defence 'protcted'"):
        report.worst("protcted")
    # NumPy may have rounded the epsilon of a cell to float32.
    for cell in report.cells:
        cell["epsilon"] = float(np.float32(cell["epsilon"]))
    assert report.worst(epsilon=0.1) == 0.75
    assert report.worst() == 0.25


def test_defence_that_was_not_attacked_has_no_worst_case(report):
    assert report.worst("bare", "l2") is None
    assert report.worst("bare", epsilon=0.01) is None
    assert "| **worst** | all | L2 1 | - | 25.0 |" in report.to_markdown()
    assert report.to_dict()["worst"][1]["accuracy"] is None


def test_report_of_which_no_attack_was_run_is_shown(report, tmp_path):
    reason = "it draws random numbers elsewhere"
    report.not_run.append(
        {"defence": "protected", "threat_model": "fixed_randomness", "reason": reason}
    )
    report.cells[:] = [cell for cell in report.cells if cell["attack"] == "benign"]
    assert report.budgets == [] and report.worst() is None
    with pytest.raises(KeyError, match="No attack of norm 'l2'"):
        report.worst(norm="l2")
    assert report.to_markdown("summary").splitlines()[2:4] == [
        "| bare | 100.0 | - |",
        "| protected, without fixed_randomness | 75.0 | - |",
    ]
    for shown in (str(report), report._repr_markdown_()):
        assert reason in shown
        assert "Accuracy in percent of 4 images. No attack was run." in shown
    report.to_json(tmp_path / "report.json")
    loaded = keras_trn.evaluation.Report.from_json(tmp_path / "report.json")
    assert str(loaded) == str(report)
    for plot in (report.plot_accuracy, report.plot_defences):
        with pytest.raises(ValueError, match="nothing to plot: no attack"):
            plot()
    assert report.plot_quality().axes


def test_cells_are_found_by_what_they_are(report):
    assert report.cell("benign")["accuracy"] == 0.75
    assert report.cell("benign", defence="bare")["accuracy"] == 1.0
    assert report.cell("PGD-5", "whitebox_full")["correct"] == pack_bits([0, 1, 1, 1])
    assert report.cell("PGD-5", labels="predicted")["accuracy"] == 1.0
    assert report.cell("PGD-5", epsilon=0.1)["in_epsilon_sweep"]
    with pytest.raises(KeyError, match=r"Defences: bare, protected; attacks: .*'DeepFool' under"):
        report.cell("MIM-20")


def test_cells_are_found_at_each_epsilon_of_the_sweep_and_at_the_own_one(report):
    report.cells.append(make_cell("PGD-5", [0, 0, 0, 0], norm="l2", epsilon=0.1))
    epsilons = [0.1, 0.2]
    cells = [report.cell("PGD-5", "oblivious", epsilon=epsilon) for epsilon in epsilons]
    assert [cell["epsilon"] for cell in cells] == epsilons
    assert cells == [report.cells[2], report.cells[1]]
    assert report.cell("PGD-5", epsilon=np.float32(0.1)) is report.cells[2]
    assert report.cell("DeepFool", epsilon=1) is report.cell("DeepFool")
    with pytest.raises(KeyError, match=r"'epsilon': 0\.3"):
        report.cell("PGD-5", epsilon=0.3)


def test_warnings_are_the_checks_that_did_not_pass(report):
    assert [check.name for check in report.warnings] == ["input_gradients"]


def test_saved_report_is_the_same(report, tmp_path):
    report.to_json(tmp_path / "report.json")
    loaded = keras_trn.evaluation.Report.from_json(tmp_path / "report.json")
    assert str(loaded) == str(report)
    assert len(repr(report)) < 200 and "'bare'" in repr(report)
    assert loaded.cells == report.cells and loaded.checks == report.checks
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["robustbench"]["protected"]["clean_acc"] == 75.0
    assert written["robustbench"]["protected"]["external"] == 25.0
    assert written["robustbench"]["protected"]["eps"] == 0.2
    worst = {(row["defence"], row["norm"]): row["accuracy"] for row in written["worst"]}
    assert worst["protected", "l2"] == 0.25 and worst["bare", "linf"] == 0.0
    with pytest.raises(ValueError, match="holds no images"):
        loaded.plot_pictures()


def test_tables_show_each_attack_once_and_the_worst(report):
    lines = report.to_markdown().splitlines()
    assert lines[0] == "| threat model | attack | epsilon | bare | protected |"
    assert lines[1] == "| --- | --- | --- | ---: | ---: |"
    assert "| oblivious | PGD-5 | L∞ 0.2 | 0.0 | 75.0 |" in lines
    assert "| whitebox_full | PGD-5 | L∞ 0.2 | - | 75.0 |" in lines
    assert "| oblivious, predicted labels | PGD-5 | L∞ 0.2 | - | 100.0 |" in lines
    assert "| **worst** | all | L∞ 0.2 | 0.0 | 25.0 |" in lines
    assert not any("0.1" in line for line in lines)
    assert report.to_markdown("summary").splitlines() == [
        "| defence | benign | worst | oblivious | whitebox_full | oblivious, predicted labels |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| bare | 100.0 | 0.0 | 0.0 | - | - |",
        "| protected | 75.0 | 25.0 | 50.0 | 50.0 | 75.0 |",
    ]
    assert report.table("accuracy")["protected"].tolist() == [75, 75, 75, 100, 50, 25, 25]
    quality = report.to_markdown("quality")
    assert "| - | benign | - | 50.0 | - | 20.0 | 0.700 | 0.900 |" in quality
    assert "| input_gradients | WARN | All gradients are zero. |" in report.to_markdown("checks")
    with pytest.raises(ValueError, match="summary, accuracy, quality, checks, received 'sizes'"):
        report.to_markdown("sizes")


def test_text_has_all_tables(report):
    for part in ("worst", "WARN", "PSNR restored", "4 images"):
        assert part in str(report)
        assert part in report._repr_markdown_()


def test_oblivious_attacker_knows_the_bare_classifier_but_no_defence(report):
    report.cells[:] = [cell for cell in report.cells if cell["threat_model"] != "whitebox_full"]
    assert "No attacker here knows everything about `protected`." in str(report)
    report.evaluated = "bare"
    assert "No attacker here" not in str(report)
    for cell in report.cells:
        cell["threat_model"] = cell["threat_model"] and "transfer"
    assert "No attacker here knows everything about `bare`." in str(report)


def test_text_aligns_the_row_of_the_worst_case(report):
    table = str(report).split("threat model ")[1].splitlines()
    header, worst = table[0], next(line for line in table if line.startswith("worst"))
    assert worst.index("all") == header.index("attack") + len("threat model ")


def test_what_was_not_run_is_named_below_the_tables(report, tmp_path):
    reason = "TensorFlow has no derivative of LRNGrad"
    missing = {"defence": "protected", "threat_model": "whitebox_full", "reason": reason}
    report.not_run.append(missing)
    report.cells[:] = [cell for cell in report.cells if cell["threat_model"] != "whitebox_full"]
    note = "`whitebox_full` on `protected`, because TensorFlow has no derivative of LRNGrad."
    for shown in (report.to_markdown(), report.to_markdown("summary"), report._repr_markdown_()):
        assert f"\n\n**Not run:** {note}" in shown
    assert f"\nNot run: {note}\n" in str(report)
    assert "Not run" not in report.to_markdown("quality") + report.to_markdown("checks")
    accuracy = report.to_markdown().splitlines()
    assert (
        "| **worst** | all (without whitebox_full on protected) | L∞ 0.2 | 0.0 | 50.0 |" in accuracy
    )
    summary = report.to_markdown("summary").splitlines()
    assert "| protected, without whitebox_full | 75.0 | 50.0 | 50.0 | 75.0 |" in summary
    assert "| bare | 100.0 | 0.0 | 0.0 | - |" in summary

    report.to_json(tmp_path / "report.json")
    loaded = keras_trn.evaluation.Report.from_json(tmp_path / "report.json")
    assert loaded.not_run == [missing] and str(loaded) == str(report)
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["robustbench"]["protected"]["footnote"].endswith(", without whitebox_full")
    assert written["robustbench"]["bare"]["footnote"].endswith("of this report")
    without = [row.get("without") for row in written["worst"]]
    assert without == [None, None, ["whitebox_full"], ["whitebox_full"]]
    with pytest.raises(KeyError, match=r"Not run.*LRNGrad"):
        loaded.cell("PGD-5", "whitebox_full")


# --- RobustBench's file -------------------------------------------------------------------


@pytest.fixture
def attacked_by_auto_attack(report):
    report.cells += [
        make_cell("AutoAttack", [1, 1, 0, 0], labels="predicted", threat_model="whitebox_full"),
        make_cell("AutoAttack", [0, 1, 1, 1], threat_model="whitebox_full"),
        make_cell("AutoAttack", [1, 0, 1, 1], threat_model="oblivious"),
        make_cell("AutoAttack", [0, 0, 0, 0], threat_model="whitebox_full", norm="l2", epsilon=0.5),
    ]
    report.settings["forward_passes"] = {"bare": 1, "protected": 4}
    return report


def test_file_of_robustbench_has_its_fields(attacked_by_auto_attack, tmp_path):
    report = attacked_by_auto_attack
    path = tmp_path / "model.json"
    fields = report.robustbench(path, name="A Title", dataset="cifar10", reported="70.1")
    assert json.loads(path.read_text("utf-8")) == fields
    assert fields == {
        "link": "",
        "name": "A Title",
        "authors": "",
        "additional_data": False,
        "number_forward_passes": 4,
        "dataset": "cifar10",
        "venue": "",
        "architecture": "",
        "eps": "51/255",
        "clean_acc": "75.00",
        "reported": "70.1",
        # The last image is misclassified without any attack.
        "autoattack_acc": "50.00",
        # Only the second image withstands PGD too, and none AutoAttack on the bare classifier.
        "external": "0.00",
        "footnote": "",
        "unreliable": False,
    }


def test_file_of_robustbench_is_of_one_norm(attacked_by_auto_attack):
    fields = attacked_by_auto_attack.robustbench(norm="l2", number_forward_passes=2)
    assert (fields["eps"], fields["autoattack_acc"]) == ("0.5", "0.00")
    assert fields["number_forward_passes"] == 2 and "external" not in fields


def test_file_of_robustbench_needs_auto_attack(report, attacked_by_auto_attack):
    with pytest.raises(
        ValueError, match=r"holds no run of it on 'bare' under `whitebox_full`. Run"
    ):
        attacked_by_auto_attack.robustbench(defence="bare")
    report.cells[:] = [cell for cell in report.cells if cell["attack"] != "AutoAttack"]
    with pytest.raises(ValueError, match=r'auto_attack\("standard", epsilon=8 / 255\)'):
        report.robustbench()


def test_file_of_robustbench_needs_the_number_of_passes(attacked_by_auto_attack):
    del attacked_by_auto_attack.settings["forward_passes"]
    with pytest.raises(ValueError, match="Pass `number_forward_passes`"):
        attacked_by_auto_attack.robustbench()


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [(8 / 255, "8/255"), (float(np.float32(8 / 255)), "8/255"), (0.031, "0.031"), (0.5, "0.5")],
)
def test_epsilon_is_written_as_robustbench_does(report, epsilon, text):
    report.cells.append(
        make_cell("AutoAttack", [1] * 4, threat_model="whitebox_full", epsilon=epsilon)
    )
    assert report.robustbench(number_forward_passes=1)["eps"] == text


def saved_reports():
    """Returns the files of results that hold a report, and not the figures of a study."""
    paths = sorted((ROOT / "results").glob("*.json"))
    return [path for path in paths if "robustbench" in json.loads(path.read_text("utf-8"))]


@pytest.mark.parametrize("path", saved_reports(), ids=lambda path: path.stem)
def test_committed_reports_can_be_read(path):
    written = json.loads(path.read_text(encoding="utf-8"))
    report = keras_trn.evaluation.Report.from_json(path)
    assert report.not_run == written.get("not_run", [])
    assert report.cells == written["cells"]
    assert "**worst**" in report.to_markdown()


def test_numbers_of_numpy_can_be_saved(report, tmp_path):
    report.settings["check_examples"] = np.int64(4)
    report.cells[0]["seconds"] = np.float32(0.5)
    report.to_json(tmp_path / "report.json")
    loaded = keras_trn.evaluation.Report.from_json(tmp_path / "report.json")
    assert loaded.settings["check_examples"] == 4 and loaded.cells[0]["seconds"] == 0.5


def test_plots_show_the_threat_models(report):
    accuracy = report.plot_accuracy()
    labels = [text.get_text() for text in accuracy.axes[0].get_legend().get_texts()]
    assert labels == [
        "oblivious, PGD-5",
        "whitebox_full, PGD-5",
        "oblivious, PGD-5, predicted labels",
        "bare, PGD-5",
        "worst",
    ]
    (worst,) = [line for line in accuracy.axes[0].lines if line.get_label() == "worst"]
    np.testing.assert_allclose(worst.get_ydata(), [75.0, 75.0, 25.0])


def test_quality_is_plotted_for_each_attack_but_not_for_exact_copies(report):
    ratios, _ = report.plot_quality().axes
    widths = np.array([bar.get_width() for bar in ratios.patches])
    np.testing.assert_array_equal(widths, [np.nan, 14, 14, 14, 14, 20, 20, 20, 20, 20])
    assert [text.get_text() for text in ratios.get_yticklabels()][:2] == [
        "benign",
        "oblivious, PGD-5, L∞ 0.2",
    ]


def test_worst_is_plotted_for_the_norm_of_the_curves(report):
    cells = sorted(report.cells, key=lambda cell: cell["attack"] not in ("benign", "DeepFool"))
    report.cells[:] = cells
    (worst,) = [
        line for line in report.plot_accuracy().axes[0].lines if line.get_label() == "worst"
    ]
    np.testing.assert_array_equal(worst.get_xdata(), [0.0, 1.0])


def titles_of(figure):
    return [
        text.get_text() for axis in figure.axes for text in axis.texts if "“" in text.get_text()
    ]


def test_pictures_show_the_names_of_classes_where_there_are_names(report):
    images, predicted = np.zeros((2, 4, 4, 1)), np.array([1, 0])
    row = PictureRow("benign", images, ["attacked", "restored"], predicted, np.array([1, 1]))
    report.pictures = [row]
    assert titles_of(report.plot_pictures()) == ["“1”", "“0”"]
    row.class_names = ["cat", "dog"]
    assert titles_of(report.plot_pictures()) == ["“dog”", "“cat”"]


def test_bits_are_packed_without_loss():
    bits = np.random.default_rng(0).random(77) < 0.5
    np.testing.assert_array_equal(unpack_bits(pack_bits(bits), 77), bits)


def test_table_is_written_to_its_place_only(report, tmp_path):
    report.to_json(tmp_path / "a.json")
    page = "Before.\n<!-- table of a.json: checks -->\nstale\n<!-- end of table -->\nAfter."
    filled = with_tables(page, tmp_path)
    assert "| deterministic | PASS | 5 runs agree. |" in filled
    assert "stale" not in filled
    assert filled.startswith("Before.") and filled.endswith("After.")
    assert with_tables(filled, tmp_path) == filled


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [(8 / 255, "8/255"), (1 / 255, "1/255"), (0.2, "0.2"), (0.1, "0.1"), (0, "0"), (1, "1")],
)
def test_epsilon_is_shown_in_grey_levels_where_it_is_a_number_of_them(epsilon, text):
    assert epsilon_text(epsilon) == text


def test_defences_are_plotted_as_dots_in_the_order_of_the_report(report):
    axis = report.plot_defences().axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == report.defences
    dots = {line.get_label(): line.get_xdata() for line in axis.lines}
    np.testing.assert_allclose(dots["worst"], [0.0, 25.0])
    np.testing.assert_allclose(dots["no knowledge (oblivious)"], [0.0, 50.0])


def test_defence_that_was_not_attacked_has_only_its_benign_dot(report):
    cells = [c for c in report.cells if (c["defence"], c["attack"]) != ("bare", "PGD-5")]
    report.cells[:] = cells
    axis = report.plot_defences().axes[0]
    dots = {line.get_label(): line.get_xdata() for line in axis.lines}
    np.testing.assert_allclose(dots["benign"], [100.0, 75.0])
    np.testing.assert_allclose(dots["worst"], [np.nan, 25.0])
    bare, protected = [line for line in axis.lines if line.get_color() == "silver"]
    np.testing.assert_allclose(bare.get_xdata(), [np.nan, 100.0])
    np.testing.assert_allclose(protected.get_xdata(), [25.0, 75.0])


def test_plots_show_threat_models_of_your_own_last(report):
    for name in ("surrogate B", "surrogate A"):
        report.cells.insert(1, make_cell("PGD-5", [0, 1, 0, 1], threat_model=name))
    figure = report.plot_defences()
    own = {line.get_label(): line for line in figure.axes[0].lines}
    np.testing.assert_allclose(own["surrogate A"].get_xdata(), [np.nan, 25.0])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "benign",
        "no knowledge (oblivious)",
        "full knowledge (whitebox_full)",
        "surrogate A",
        "surrogate B",
        "worst",
    ]
    curves = {line.get_label(): line for line in report.plot_accuracy().axes[0].lines}
    colors = [curves[f"{name}, PGD-5"].get_color() for name in ("surrogate A", "surrogate B")]
    assert colors == [own[name].get_color() for name in ("surrogate A", "surrogate B")]
    assert len({line.get_color() for line in own.values()}) == 7


@pytest.mark.parametrize("threat_model", ["bpda", "transfer_from_estimator"])
def test_overview_takes_the_worst_case_over_all_who_know_the_defence(report, threat_model):
    report.cells.append(make_cell("PGD-5", [1, 0, 1, 1], threat_model=threat_model))
    table = overview(rename_evaluated(report, "plain restorer")).set_index("defence")
    assert table.loc["plain restorer"].to_dict() == {
        "benign": 75.0,
        "worst": 0.0,
        "full knowledge": 25.0,
        "no knowledge": 50.0,
    }
    assert np.isnan(table.loc["bare", "full knowledge"])


@pytest.mark.parametrize("path", sorted(ROOT.glob("results/*_dots.svg")), ids=lambda p: p.stem)
def test_dot_plots_show_the_committed_results(path):
    report = path.with_name(path.name.removesuffix("_dots.svg") + ".json")
    assert digest_of_file(report) in path.read_text(encoding="utf-8")


def pages_with_tables():
    paths = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("keras_trn/presets/*.md")]
    return [path for path in paths if "<!-- table of " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", pages_with_tables(), ids=lambda page: page.stem)
def test_pages_show_the_committed_results(page):
    text = page.read_text(encoding="utf-8")
    assert with_tables(text, ROOT) == text


def test_choices_show_what_is_proved_where_a_certified_method_was_measured(
    report, tmp_path, monkeypatch
):
    monkeypatch.setattr(headlines, "CHOICES", ["hardened restorer"])
    report.to_json(tmp_path / "trn_hardened_a.json")
    hardened = ["| hardened restorer | 75.0 | 50.0 | 50.0 |"]
    assert headlines.choices("a", tmp_path).splitlines()[2:] == hardened
    rename_evaluated(report, "interval bounds").to_json(tmp_path / "certified_a.json")
    proofs = {"test": {"certified_accuracy": 0.25}}
    (tmp_path / "certified_a_proofs.json").write_text(json.dumps(proofs))
    assert headlines.choices("a", tmp_path).splitlines()[2:] == [
        *hardened,
        "| certified method | 75.0 | 50.0 (25.0 proved) | 50.0 |",
    ]


def test_passes_of_attacks_on_the_defence_are_in_the_table_of_quality(report):
    assert "passes" not in report.table("quality")
    report.cell("PGD-5", "whitebox_full").update(forward_passes=6.0, backward_passes=5.0)
    table = report.table("quality").set_index("threat model")
    assert table.loc["whitebox_full", "passes"] == 11
    assert np.isnan(table.loc["oblivious", "passes"]).all()
