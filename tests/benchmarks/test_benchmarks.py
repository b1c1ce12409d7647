from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import benchmarks.__main__ as command
from benchmarks import ct_projection
from benchmarks.measure import measure
from boneage import volumes


def allocate(megabytes: int) -> np.ndarray:
    return np.ones(megabytes * 10**6, np.uint8)


def test_memory_is_counted_above_the_imports() -> None:
    measurement = measure("allocates", allocate, 300, imports=("numpy",))
    assert measurement.what == "allocates"
    assert 290 < measurement.peak_mb < 400


def test_runs_by_name_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        command.BENCHMARKS, "ct_projection", lambda: ct_projection.run((40, 64, 64))
    )
    assert command.main(["ct_projection", "--json", str(tmp_path / "out.json")]) == 0
    content = json.loads((tmp_path / "out.json").read_text())
    outcome = content["benchmarks"]["ct_projection"]
    assert outcome["subject"] == "64 x 64 x 40 int16 NIfTI to its bone projection"
    assert outcome["measured"]["seconds"] > 0
    assert content["machine"]["numpy"] == np.__version__
    said = capsys.readouterr().out
    assert "ct_projection: 64 x 64 x 40" in said
    assert "nibabel loads the array" in said


def test_unknown_names(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        command.main(["nothing"])
    assert end.value.code == 2
    assert "known are ct_projection" in capsys.readouterr().err


def test_the_phantom_is_read_the_right_way_round(tmp_path: Path) -> None:
    shape = (40, 64, 64)
    ct_projection.write_nifti(tmp_path / "body.nii", shape)
    volume = volumes.read(tmp_path / "body.nii")
    wanted = np.stack(list(ct_projection.axial_slices(shape, ct_projection.SPACING)))
    np.testing.assert_array_equal(volume.hu, wanted)
    assert volume.spacing == pytest.approx(ct_projection.SPACING)
