"""The papers' numbers as data, and how weights name the cells they fill."""

import pytest

from boneage.errors import InputError
from evaluate.published import TABLES, filled_cells
from train import recipe as recipes


def config(*fills: str, task: str = "hand") -> dict:
    return {"task": task, "fills": list(fills)}


def test_every_published_cell_is_there_once() -> None:
    counts = {table.id: len(table.cells) for table in TABLES}
    assert counts == {"A1": 4, "A2": 12, "A3": 6, "B1": 2, "B2": 6, "B3": 2, "B4": 2}
    for table in TABLES:
        places = {(cell.row, cell.column) for cell in table.cells}
        assert len(places) == len(table.cells)
        assert all(cell.table == table.id for cell in table.cells)
        assert table.unit == ("months" if table.id.startswith("A") else "years")


def test_tables_of_a_paper_agree_where_they_repeat_a_number() -> None:
    cells = {(c.table, c.row, c.column): c.published for table in TABLES for c in table.cells}
    assert cells["A1", "male", "K=3"] == cells["A2", "male", "assembling"]
    for row in ("Fine-tuned VGG", "VGG with hierarchical features"):
        assert cells["B1", row, "MAE"] == cells["B2", row, "MAE"]


def test_weights_name_tables_rows_and_cells() -> None:
    cells = filled_cells(config("A1:male:K=3", "A2", "A3:AR-CNN"), "w")
    assert [cell.table for cell in cells] == ["A1", *["A2"] * 12, "A3"]
    assert {cell.component for cell in cells if cell.table == "A2"} == {
        "X", "C", "R1", "R2", "R3", "assembled",
    }  # fmt: skip
    assert {cell.row for cell in filled_cells(config("A2:female", "A3:AR-CNN"), "w")} == {
        "female", "AR-CNN",
    }  # fmt: skip


@pytest.mark.parametrize("fills", [(), ("A1:male:K=1",)])
def test_weights_outside_the_comparison_get_a_row_of_their_own(fills: tuple[str, ...]) -> None:
    last = filled_cells(config(*fills), "mine")[-1]
    assert (last.table, last.row, last.published, last.sex) == ("S4", "mine", None, None)


@pytest.mark.parametrize("wrong", ["A4", "A2:boys", "A1:male:K=5", "B2", ""])
def test_unknown_cells_are_refused(wrong: str) -> None:
    with pytest.raises(InputError, match="mine says it fills"):
        filled_cells(config(wrong), "mine")


def test_every_empty_cell_says_why() -> None:
    for table in TABLES:
        for cell in table.cells:
            assert (cell.recipe is None) != (cell.unavailable is None)
            assert cell.why


def test_what_can_be_trained_names_its_command() -> None:
    cells = {(c.table, c.row, c.column): c for table in TABLES for c in table.cells}
    why = cells["A1", "male", "K=1"].why
    first, second, third = why.split("then")
    assert "train whole_mobilenetv2_192 --data DIR --out runs/whole_mobilenetv2_192 --pre" in first
    assert "--init runs/whole_mobilenetv2_192/weights/model.safetensors`" in second
    assert "python -m train arcnn_k1 --sex M --data DIR --out runs/arcnn_k1-M" in third
    assert "--init runs/arcnn_mobilenetv2_256/weights/model.safetensors`" in third
    assert "--sex" not in first + second
    first, second = cells["B3", "upper body", "MAE"].why.split("then")
    run = "runs/hierarchical_upper"
    assert "train hierarchical_upper --size 64 --epochs 3 --learning-rate 1e-3 " in first
    assert f" --data DIR --out {run}-64`" in first
    assert f"--out {run} --init {run}-64/weights/model.safetensors`" in second
    fusion = cells["B2", "Late fusion", "MAE"].why
    assert "python -m boneage fuse runs/vgg/weights runs/googlenet/weights" in fusion


def test_first_stages_are_the_recipes() -> None:
    cells = [cell for table in TABLES for cell in table.cells if cell.recipe in recipes.names()]
    for cell in cells:
        first = recipes.load(cell.recipe).first_stage
        assert (f" {cell.recipe} {first} --data" in cell.why) if first else "--size" not in cell.why
    assert sum(bool(recipes.load(cell.recipe).first_stage) for cell in cells) >= 8


def test_every_recipe_named_is_there() -> None:
    named = {cell.recipe for table in TABLES for cell in table.cells if cell.recipe}
    assert named - {"late_fusion"} <= set(recipes.names())


@pytest.mark.parametrize("row", ["Spampinato 2017", "Larson 2018"])
def test_other_methods_that_can_be_run_fill_their_row(row: str) -> None:
    (cell,) = [cell for cell in TABLES[2].cells if cell.row == row]
    assert f"python -m train {cell.recipe} --data DIR --out runs/{cell.recipe}" in cell.why
    assert filled_cells(config(*recipes.load(cell.recipe).fills), "w") == (cell,)
