"""The evaluation as a whole, with a stand-in for the predictor."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boneage import datasets
from boneage.errors import InputError
from evaluate import described, recorded, refusal
from evaluate.cases import read_cases
from evaluate.processes import Processes
from evaluate.run import Dataset, evaluate, render

Stub = Callable[..., Any]


def metrics_of(out: Path) -> dict[tuple[str, str, str], dict]:
    records = json.loads((out / "metrics.json").read_text())
    return {(r["table"], r["row"], r["column"]): r for r in records}


def test_a_run_writes_everything(hands: Dataset, stub: Stub, tmp_path: Path) -> None:
    predictor = stub()
    report = evaluate([hands], [predictor], tmp_path, batch_size=5, command=["python", "x y"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "assessments.csv", "boxes.csv", "cases.csv", "figures", "metrics.json", "run.json",
        "tables.md", "weights.json",
    ]  # fmt: skip
    found = metrics_of(tmp_path)
    for (table, row, column), expected in {
        ("A1", "male", "K=3"): (4.0, 6),
        ("A2", "male", "X"): (6.0, 6),
        ("A2", "female", "C"): (5.0, 6),
        ("A2", "female", "R3"): (9.0, 6),
        ("A3", "AR-CNN", "MAE"): (4.0, 12),
    }.items():
        record = found[table, row, column]
        assert (record["measured"], record["n"]) == expected
        assert record["weights"] == "stub@0123456789ab"
        assert record["dataset"] == "hands/test"
    assert [len(batch) for batch in predictor.batches] == [5, 5, 2]
    assert report is not None
    assert "A3. Comparison of methods" in report.text()
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["command"] == "python 'x y'"
    assert run["weights"][0]["sha256"] == "0" * 64
    assert run["datasets"][0]["cases"] == 12
    assert {"versions", "device", "threads", "duration_s"} <= run.keys()


def test_a_case_has_one_line_for_each_cell(hands: Dataset, stub: Stub, tmp_path: Path) -> None:
    evaluate([hands], [stub()], tmp_path)
    with (tmp_path / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    case = hands.folder.cases[0]
    places = [(r["table"], r["column"]) for r in rows if r["id"] == case.id]
    units = ["X", "C", "R1", "R2", "R3", "assembling"]
    boys = [("A1", "K=3")] if case.sex == "M" else []
    assert places == [*boys, *(("A2", unit) for unit in units), ("A3", "MAE")]
    assert rows[0]["id"] == case.id
    assert [r["id"] for r in rows if r["table"] == "A3"] == sorted(c.id for c in hands.folder.cases)


def test_running_again_gives_the_same_bytes(hands: Dataset, stub: Stub, tmp_path: Path) -> None:
    for name, size in (("a", 5), ("b", 5), ("c", 12)):
        evaluate([hands], [stub()], tmp_path / name, batch_size=size)
    for name in ("cases.csv", "assessments.csv", "boxes.csv", "metrics.json", "tables.md"):
        a, b, c = ((tmp_path / run / name).read_bytes() for run in "abc")
        assert a == b == c


def test_tables_come_from_the_cases_alone(hands: Dataset, stub: Stub, tmp_path: Path) -> None:
    evaluate([hands], [stub()], tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "cases.csv").write_bytes((tmp_path / "a" / "cases.csv").read_bytes())
    render(tmp_path / "b" / "cases.csv", tmp_path / "b")
    first, second = metrics_of(tmp_path / "a"), metrics_of(tmp_path / "b")
    missing = first.keys() - second.keys()
    # Intervals are not among the cases; table S11 has them by assessed age.
    assert {row.rsplit(", ")[-1] for _, row, _ in missing} == {
        "cases inside the 90 % prediction interval", "mean width of the 90 % prediction interval",
    }  # fmt: skip
    assert second.items() <= first.items()
    assert (tmp_path / "b" / "figures" / "figure-2a.png").is_file()


def test_sex_specific_weights_fill_a_row_together(
    hands: Dataset, stub: Stub, tmp_path: Path
) -> None:
    girls, boys = (stub(id=name, sexes=[sex]) for name, sex in (("girls", "F"), ("boys", "M")))
    boys.offsets = {name: 2 * offset for name, offset in boys.offsets.items()}
    evaluate([hands], [girls, boys], tmp_path)
    found = metrics_of(tmp_path)
    assert found["A2", "male", "assembling"]["weights"] == "boys@0123456789ab"
    assert found["A2", "female", "assembling"]["weights"] == "girls@0123456789ab"
    both = found["A3", "AR-CNN", "MAE"]
    assert (both["measured"], both["n"]) == (6.0, 12)
    assert both["weights"] == "girls@0123456789ab + boys@0123456789ab"
    by_sex = {case.id: case.sex for case in hands.folder.cases}
    assert {by_sex[id] for batch in girls.batches for id in batch} == {"F"}


def test_what_cannot_be_assessed_is_refused_not_dropped(
    make_folder: Callable[..., Path], stub_for: Stub, tmp_path: Path
) -> None:
    folder = make_folder(["4360", "4361", "4362", "4363", "4364"])
    (folder / "images" / "4361.webp").write_bytes(b"no image")
    data = Dataset("hands/test", datasets.load(folder))
    predictor = stub_for(data.folder.cases, refuse=["4362"], fail=["4363"])
    out = tmp_path / "out"
    report = evaluate([data], [predictor], out)
    record = metrics_of(out)["A3", "AR-CNN", "MAE"]
    assert (record["n"], record["refused"]) == (2, 3)
    assert report is not None
    assert "3 of 5 cases were refused" in report.text()
    refused = {r.id for r in read_cases(out / "cases.csv") if r.assessed is None}
    assert refused == {"4361", "4362", "4363"}
    reasons = (out / "assessments.csv").read_text()
    assert "This is no hand." in reasons
    assert "The sex is missing" in reasons
    assert str(tmp_path) not in reasons


def test_an_unreadable_image_is_not_among_the_hands_that_are_changed(
    make_folder: Callable[..., Path],
    stub_for: Stub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = make_folder(["4360", "4361", "4362"])
    (folder / "images" / "4361.webp").write_bytes(b"no image")
    data = Dataset("hands/test", datasets.load(folder))
    predictor = stub_for(data.folder.cases, refuse=["4362"])
    predictor.config["refusal"] = {"validation": {"images": 3, "accepted": 2}}
    kinds = refusal._kinds
    monkeypatch.setattr(refusal, "_kinds", lambda dataset: list(kinds(dataset))[-1:])
    assert evaluate([data], [predictor], tmp_path / "out")
    rows = refusal.read(tmp_path / "out" / refusal.REFUSALS)
    assert [row.id for row in rows] == ["4360", "4362"]


def test_patients_of_the_labels_reach_the_intervals(
    make_folder: Callable[..., Path], stub_for: Stub, tmp_path: Path
) -> None:
    ids = ["4360", "4361", "4362", "4363"]
    folder = make_folder(ids, dict(zip(ids, ["p", "p", "q", "q"], strict=True)))
    data = Dataset("hands/test", datasets.load(folder))
    evaluate([data], [stub_for(data.folder.cases)], tmp_path / "out")
    rows = read_cases(tmp_path / "out" / "cases.csv")
    assert {row.patient for row in rows} == {"p", "q"}


def test_weights_that_claim_too_much_are_refused(
    hands: Dataset, stub: Stub, tmp_path: Path
) -> None:
    predictor = stub(offsets={"X": 1.0, "assembled": 1.0})
    with pytest.raises(InputError, match=r"A2, .*male, C, but gives no age C"):
        evaluate([hands], [predictor], tmp_path)
    assert not list(tmp_path.iterdir())


def test_whole_image_weights_need_no_cells(hands: Dataset, stub: Stub, tmp_path: Path) -> None:
    evaluate([hands], [stub(id="whole", fills=[], offsets={"assembled": -3.0})], tmp_path)
    found = metrics_of(tmp_path)
    assert found["S4", "whole", "MAE"]["measured"] == 3.0
    assert found["S1", "bias (assessed - reference)", "all"]["measured"] == -3.0
    assert found["A3", "AR-CNN", "MAE"]["measured"] is None


def test_nothing_to_assess_with_is_an_error(hands: Dataset, stub: Stub, tmp_path: Path) -> None:
    for predictors in ([], [stub(task="adult", fills=[])]):
        with pytest.raises(InputError, match="no weights for the task hand"):
            evaluate([hands], predictors, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_must_differ(hands: Dataset, stub: Stub, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Two data sets"):
        evaluate([hands, hands], [stub()], tmp_path)
    with pytest.raises(InputError, match="Two weights"):
        evaluate([hands], [stub(), stub()], tmp_path)


def test_several_processes_give_the_results_of_one(
    hands: Dataset, stub: Stub, tmp_path: Path
) -> None:
    """Each of three ranks is run in turn; gathering hands over what the others would send."""
    evaluate([hands], [stub()], tmp_path / "one", batch_size=2)
    sent: list[list] = []

    class Rank(Processes):
        def __init__(self, rank: int) -> None:
            self.rank, self.count, self.turn = rank, 3, 0
            sent.append([])

        def gather(self, item: Any) -> list[Any]:
            sent[-1].append(item)
            if self.rank == 0:
                others = [sent[0][self.turn], sent[1][self.turn]]  # ranks 1 and 2 ran before
                self.turn += 1
                return [item, *others]
            return [item]

    predictors = []
    for rank in (1, 2, 0):
        predictors.append(stub())
        result = evaluate(
            [hands], [predictors[-1]], tmp_path / "three", batch_size=2, processes=Rank(rank)
        )
        assert (result is None) == (rank != 0)
        assert (tmp_path / "three").exists() == (rank == 0)
    for name in ("cases.csv", "boxes.csv", "metrics.json"):
        assert (tmp_path / "three" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert sum(len(p.batches) for p in predictors) == 6


@pytest.fixture
def recorded_larson(hands: Dataset, stub: Stub, tmp_path: Path) -> Path:
    """A recorded row, made as its documentation says."""
    folder = tmp_path / "recorded"
    predictor = stub(id="months", fills=["A3:Larson 2018"], offsets={"assembled": 7.0})
    evaluate([hands], [predictor], folder / "larson")
    (folder / "larson" / "recipe.json").write_text('{"summary": "a class for each month"}\n')
    (folder / "larson" / "metrics.jsonl").write_text('{"epoch": 1}\n')
    return folder


def test_recorded_rows_fill_what_was_not_run(
    hands: Dataset, stub: Stub, tmp_path: Path, recorded_larson: Path
) -> None:
    rows = recorded.load(recorded_larson)
    report = evaluate([hands], [stub()], tmp_path / "out", recorded=rows)
    found = metrics_of(tmp_path / "out")
    larson = found["A3", "Larson 2018", "MAE"]
    assert (larson["measured"], larson["recorded"]) == (7.0, True)
    assert larson["weights"] == "recorded:months@0123456789ab"
    assert not found["A3", "AR-CNN", "MAE"]["recorded"]
    assert report is not None
    assert "recorded" in report.text()
    assert json.loads((tmp_path / "out" / "run.json").read_text())["recorded"] == ["larson"]


def test_recording_beside_recorded_rows_takes_none_of_them(
    hands: Dataset, stub: Stub, tmp_path: Path, recorded_larson: Path
) -> None:
    bonet = recorded_larson / "bonet"
    predictor = stub(id="bonet", fills=["A3:Spampinato 2017"])
    evaluate([hands], [predictor], bonet, recorded=recorded.load(recorded_larson))
    for name in recorded.OF_TRAINING:
        (bonet / name).write_bytes((recorded_larson / "larson" / name).read_bytes())
    rows = {row.name: row for row in recorded.load(recorded_larson)}
    assert {row.weights for row in rows["bonet"].cases} == {"recorded:bonet@0123456789ab"}


def test_weights_that_run_take_the_place_of_recorded_ones(
    hands: Dataset, stub: Stub, tmp_path: Path, recorded_larson: Path
) -> None:
    live = stub(fills=["A3:Larson 2018"], offsets={"assembled": 1.0})
    evaluate([hands], [live], tmp_path / "out", recorded=recorded.load(recorded_larson))
    larson = metrics_of(tmp_path / "out")["A3", "Larson 2018", "MAE"]
    assert (larson["measured"], larson["recorded"]) == (1.0, False)


def test_recorded_rows_of_other_data_are_not_used(
    hands: Dataset, stub: Stub, tmp_path: Path, recorded_larson: Path
) -> None:
    rows = recorded.load(recorded_larson)
    other = Dataset("elsewhere/test", hands.folder)
    evaluate([other], [stub()], tmp_path / "out", recorded=rows)
    assert metrics_of(tmp_path / "out")["A3", "Larson 2018", "MAE"]["measured"] is None
    text = (recorded_larson / "larson" / "cases.csv").read_text()
    age = f",{hands.folder.cases[0].age:.2f},"
    (recorded_larson / "larson" / "cases.csv").write_text(text.replace(age, ",1.00,"))
    with pytest.raises(InputError, match="recorded on other data"):
        evaluate([hands], [stub()], tmp_path / "out", recorded=recorded.load(recorded_larson))


def test_incomplete_recordings_are_refused(recorded_larson: Path) -> None:
    run = recorded_larson / "larson" / "run.json"
    content = json.loads(run.read_text())
    recipe = recorded_larson / "larson" / "recipe.json"
    recipe.rename(recipe.with_suffix(".old"))
    with pytest.raises(InputError, match=r"no recipe\.json"):
        recorded.load(recorded_larson)
    content["weights"][0]["provenance"]["members"] = ["a", "b"]  # a late fusion has no recipe
    run.write_text(json.dumps(content))
    assert recorded.load(recorded_larson)
    del content["weights"][0]["provenance"]["seed"]
    run.write_text(json.dumps(content))
    with pytest.raises(InputError, match="seed"):
        recorded.load(recorded_larson)


def test_the_shipped_recordings_are_complete() -> None:
    recorded.load()


def test_tables_say_what_the_weights_are(
    hands: Dataset, stub: Callable[..., Any], tmp_path: Path
) -> None:
    predictor = stub()
    predictor.config["provenance"] = {
        "summary": "a network of stubs", "data": "hands", "training_images": 1234,
        "initialisation": "random", "metrics": {"epoch": 3, "validation_mae": 7.125},
    }  # fmt: skip
    evaluate([hands], [predictor], tmp_path)
    text = (tmp_path / "tables.md").read_text()
    label = "stub@0123456789ab"
    line = f"| {label} | a network of stubs | hands, 1,234 images | random | 3 | 7.12 |"
    assert line in text
    # From the files alone, too; and only weights that were used.
    again = render(tmp_path / "cases.csv", tmp_path / "again")
    assert line in again.markdown()
    described.write(tmp_path, [described.describe("other@1", {})])
    assert "## Weights" not in render(tmp_path / "cases.csv", tmp_path / "again").markdown()
