"""The plots show the cases that they are given."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from boneage import metrics, plots
from boneage.plots import Ages


@pytest.fixture
def ages() -> Ages:
    assessed, reference = np.array([100.0, 120, 130, 60]), np.array([96.0, 126, 121, 60])
    return Ages(assessed, reference, ["F", "M", "F", None], "months", "reference")


def test_every_sex_has_its_points(ages: Ages) -> None:
    (axes,) = plots.assessed_against_reference(ages, ["facts"]).axes
    points = {c.get_label(): c.get_offsets().tolist() for c in axes.collections}
    assert points == {
        "Female (n = 2)": [[96, 100], [121, 130]],
        "Male (n = 1)": [[126, 120]],
        "Sex unknown (n = 1)": [[60, 60]],
    }
    assert axes.get_xlabel() == "Reference age (months)"


def test_bland_altman_draws_bias_and_limits(ages: Ages) -> None:
    (axes,) = plots.bland_altman(ages, []).axes
    expected = metrics.bland_altman(ages.assessed, ages.reference)
    heights = [line.get_ydata()[0] for line in axes.lines]
    assert heights == pytest.approx([*expected, 0])
    low, high = axes.get_ylim()
    assert low < min(heights) <= max(heights) < high
    offsets = np.concatenate([c.get_offsets() for c in axes.collections])
    assert sorted(offsets[:, 1]) == [-6, 0, 4, 9]


def test_a_single_case_has_no_limits() -> None:
    one = Ages(np.array([24.0]), np.array([24.0]), ["F"], "months")
    (axes,) = plots.bland_altman(one, []).axes
    assert [line.get_ydata()[0] for line in axes.lines] == [0, 0]
    assert axes.get_xlim()[0] < axes.get_xlim()[1]


def test_pyplot_stays_unused(repo_root: Path) -> None:
    code = (
        "import sys, io, numpy as np; from boneage import plots;"
        "assert 'matplotlib' not in sys.modules;"
        "one = plots.Ages(np.array([24.0]), np.array([20.0]), ['F'], 'months');"
        "plots.bland_altman(one, []).savefig(io.BytesIO());"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repo_root
    ).stdout
    assert said == "False\n"
