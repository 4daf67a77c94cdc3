"""The study of AutoAttack's forms compares both on each preset, and times with passes."""

import numpy as np
import pytest

from experiments.studies import auto_attack_forms as study
from keras_trn.evaluation.packing import pack_bits


def test_agreement_counts_images_that_survive_both_or_neither():
    survive = {"examples": 8, "correct": pack_bits(np.array([1, 1, 1, 0, 0, 0, 0, 0], bool))}
    survive_less = {
        "examples": 8,
        "correct": pack_bits(np.array([1, 1, 0, 0, 0, 0, 0, 1], bool)),
    }
    assert study.agreement([survive, survive_less]) == 0.75


@pytest.mark.slow
def test_study_times_what_both_forms_do(classifier, digits, tmp_path):
    # So large an epsilon breaks every image at once.
    settings = study.Settings(images=20, batch_size=10, epsilon=0.5, repeats=1)
    cells = study.measure_defence("small", classifier, digits, settings, tmp_path / "cells.jsonl")
    assert [cell["accuracy"] for cell in cells] == [0, 0]
    for cell in cells:
        assert cell["forward_passes"] >= 1
        assert 0 < cell["seconds_of_passes"] < cell["seconds"]
    rows = study.table(cells).splitlines()[2:]
    assert ["| small | AutoAttack fast | 0.0 |" in row for row in rows] == [True, False]
