"""Many files: order, failures, bounded reading ahead, zips, and the end of the threads."""

from __future__ import annotations

import io
import threading
import weakref
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from boneage import batch, images
from boneage.batch import Item, Outcome, Source
from boneage.errors import InputError
from boneage.images import Radiograph
from boneage.predictor import Assessment, ModelReference, Predictor


class Stub:
    """Takes the mean grey as the age; remembers the batches, and how many films were alive."""

    config = {"task": "hand", "unit": "months"}  # noqa: RUF012
    id, revision = "stub", "0123"

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def read(self, source: Any, *, id: str) -> Radiograph:
        return images.read(source, id=id)

    def assess(
        self, radiographs: Any, sex: Any, *, heat_map: bool = False, batch_size: int = 16
    ) -> list[Assessment]:
        if None in sex:
            raise InputError("The sex is missing.")
        self.batches.append([radiograph.id for radiograph in radiographs])
        return [assessed(r, s) for r, s in zip(radiographs, sex, strict=True)]


def assessed(radiograph: Radiograph, sex: str | None) -> Assessment:
    age = float(radiograph.pixels.mean())
    return Assessment(
        id=radiograph.id, task="hand", sex=sex, age=age, unit="months", interval=None,
        components={"assembled": age}, boxes=(), warnings=(), refused=None,
        model=ModelReference("stub", "0123"),
    )  # fmt: skip


def film(grey: int) -> bytes:
    pixels = np.full((40, 40), grey, np.uint8)
    pixels[0, 0] = 255 - grey
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for grey in range(1, 8):
        (tmp_path / f"film-{grey}.png").write_bytes(film(grey * 10))
    return tmp_path


def of(folder: Path, sex: str | None = "F") -> list[Item]:
    return [Item(source, sex) for source in batch.sources(sorted(folder.iterdir()))]


def flat(batches: Iterator[list[Outcome]]) -> list[Outcome]:
    return [outcome for outcomes in batches for outcome in outcomes]


def readers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "boneage-reader"]


def wait_for_readers() -> None:
    for thread in readers():
        thread.join(timeout=60)
    assert not readers()


class TestAssess:
    @pytest.mark.parametrize(("batch_size", "threads"), [(1, 1), (3, 2), (16, 4)])
    def test_order_and_batches(self, folder: Path, batch_size: int, threads: int) -> None:
        stub = Stub()
        found = flat(batch.assess(stub, of(folder), batch_size=batch_size, threads=threads))
        assert [outcome.item.source.file for outcome in found] == sorted(
            path.name for path in folder.iterdir()
        )
        for outcome in found:
            assert outcome.assessment
            grey = int(outcome.item.source.id[-1]) * 10
            assert outcome.assessment.age == pytest.approx(grey, abs=0.2)
        assert {len(ids) for ids in stub.batches[:-1]} <= {batch_size}
        wait_for_readers()

    def test_failures_stay_in_place_and_stop_nothing(self, folder: Path) -> None:
        (folder / "film-3.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
        (folder / "film-5.png").write_text("a letter")
        items = of(folder)
        items[6] = Item(items[6].source, None)
        found = flat(batch.assess(Stub(), items, batch_size=4))
        reasons = {o.item.source.id: o.failure for o in found if o.failure}
        assert list(reasons) == ["film-3", "film-5", "film-7"]
        assert "damaged" in reasons["film-3"]
        assert "text file" in reasons["film-5"]
        assert reasons["film-7"] == "The sex is missing."
        assert [o.item.source.id for o in found if o.assessment] == [
            "film-1", "film-2", "film-4", "film-6",
        ]  # fmt: skip
        assert len(found) == 7

    def test_an_unforeseen_error_is_a_failure_without_details(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise RuntimeError("secret detail")

        stub = Stub()
        monkeypatch.setattr(stub, "assess", fail)
        found = flat(batch.assess(stub, of(folder), batch_size=3))
        assert len(found) == 7
        assert all("unforeseen" in (o.failure or "") for o in found)
        assert not any("secret" in (o.failure or "") for o in found)

    def test_same_number_as_one_by_one(self, untrained: Path, rsna_test_dir: Path) -> None:
        predictor = Predictor.load(untrained)
        paths = sorted((rsna_test_dir / "images").iterdir())[:5]
        items = [Item(source, "M") for source in batch.sources(paths)]
        found = flat(batch.assess(predictor, items, batch_size=2))
        for outcome, path in zip(found, paths, strict=True):
            (alone,) = predictor.assess(images.read(path), "M")
            assert outcome.assessment
            assert outcome.assessment.age == pytest.approx(alone.age, abs=0.01)
            assert outcome.assessment.id == path.stem

    def test_reads_no_further_ahead_than_accepted(self, folder: Path) -> None:
        pulled = 0

        def items() -> Iterator[Item]:
            nonlocal pulled
            while True:  # an endless stream would never end if all were read first
                pulled += 1
                yield Item(Source(folder / "film-1.png", "film-1"), "F")

        running = batch.assess(Stub(), items(), batch_size=4, threads=2)
        for number in range(1, 51):
            assert len(next(running)) == 4
            # The batch in hand, what may lie ready, and the one that a thread waits to pull.
            assert pulled <= 4 * number + 4 + 2
        running.close()
        wait_for_readers()

    def test_large_films_are_not_read_ahead(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(batch, "MAX_HELD", 2 * 40 * 40)
        stub = Stub()
        found = flat(batch.assess(stub, of(folder), batch_size=16, threads=2))
        assert [len(ids) for ids in stub.batches] == [1] * 7
        assert len(found) == 7

    def test_thousands_of_files_do_not_pile_up(self, folder: Path) -> None:
        alive: set[str] = set()
        most = 0

        class Counting(Stub):
            def read(self, source: Any, *, id: str) -> Radiograph:
                nonlocal most
                radiograph = super().read(source, id=id)
                alive.add(id)
                weakref.finalize(radiograph, alive.discard, id)
                most = max(most, len(alive))
                return radiograph

        items = (Item(Source(folder / "film-1.png", str(n)), "F") for n in range(3000))
        count = sum(len(outcomes) for outcomes in batch.assess(Counting(), items, threads=2))
        assert count == 3000
        assert most <= 3 * (16 + 2) + 2

    def test_closing_stops_the_reading(self, folder: Path) -> None:
        closed = threading.Event()

        def items() -> Iterator[Item]:
            try:
                while True:
                    yield Item(Source(folder / "film-1.png", "film-1"), "F")
            finally:
                closed.set()

        running = batch.assess(Stub(), items(), batch_size=2)
        next(running)
        assert readers()
        running.close()
        wait_for_readers()
        assert closed.is_set()

    def test_an_error_of_the_items_is_raised_after_what_came_before(self, folder: Path) -> None:
        def items() -> Iterator[Item]:
            yield from of(folder)[:3]
            raise RuntimeError("no more")

        running = batch.assess(Stub(), items(), batch_size=2)
        assert [len(next(running)), len(next(running))] == [2, 1]
        with pytest.raises(RuntimeError, match="no more"):
            next(running)
        wait_for_readers()

    def test_nothing_to_do(self) -> None:
        assert list(batch.assess(Stub(), [])) == []
        with pytest.raises(InputError, match="at least 1"):
            next(batch.assess(Stub(), [], batch_size=0))
        with pytest.raises(InputError, match="number of threads is 0; it must be at least 1"):
            next(batch.assess(Stub(), [], threads=0))


class TestZips:
    @pytest.fixture
    def archive(self, tmp_path: Path) -> Path:
        path = tmp_path / "films.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
            for name in ("a/one.png", "b\\two.png", "../../etc/three.png", "/four.PNG"):
                opened.writestr(name, film(100))
            for name in ("__MACOSX/a/._one.png", "a/.DS_Store", "Thumbs.db", "b/desktop.ini"):
                opened.writestr(name, b"junk")
            opened.writestr("letter.txt", "no film")
        return path

    def test_members_by_their_plain_names(self, archive: Path) -> None:
        found = flat(batch.assess(Stub(), [Item(s, "F") for s in batch.sources([archive])]))
        ages = {o.item.source.file: o.assessment is not None for o in found}
        assert ages == {
            "one.png": True, "two.png": True, "three.png": True, "four.PNG": True,
            "letter.txt": False,
        }  # fmt: skip
        assert {o.assessment.id for o in found if o.assessment} == {"one", "two", "three", "four"}
        assert sorted(path.name for path in archive.parent.iterdir()) == ["films.zip"]
        wait_for_readers()

    def test_damaged_encrypted_and_large_members_fail_alone(
        self, archive: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        content = bytearray(archive.read_bytes())
        with zipfile.ZipFile(archive) as opened:
            one, three = opened.getinfo("a/one.png"), opened.getinfo("../../etc/three.png")
        content[one.header_offset + 30 + len(one.filename) + 20] ^= 0xFF
        for header, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)):  # the flag of encryption
            name = content.index(three.filename.encode(), content.index(header))
            start = content.rindex(header, 0, name)
            content[start + offset] |= 1
        archive.write_bytes(content)
        found = flat(batch.assess(Stub(), [Item(s, "F") for s in batch.sources([archive])]))
        reasons = {o.item.source.id: o.failure for o in found if o.failure}
        assert reasons.keys() == {"one", "three", "letter"}
        assert "damaged" in reasons["one"]
        assert "encrypted" in reasons["three"]
        monkeypatch.setattr(images, "MAX_BYTES", 50)
        found = flat(batch.assess(Stub(), [Item(s, "F") for s in batch.sources([archive])]))
        assert sum("larger than" in (o.failure or "") for o in found) == 2

    def test_broken_and_empty_zips_are_failures(self, tmp_path: Path) -> None:
        (tmp_path / "broken.zip").write_bytes(b"PK\3\4 and nothing more")
        with zipfile.ZipFile(tmp_path / "empty.zip", "w") as opened:
            opened.writestr("__MACOSX/x.png", b"junk")
        found = flat(batch.assess(Stub(), of(tmp_path)))
        assert [o.failure for o in found] == [
            "This is not a readable zip file.", "The zip holds no files.",
        ]  # fmt: skip

    def test_a_zip_of_too_many_stops_no_others(
        self, folder: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where any number of files is accepted; where not, it is refused."""
        monkeypatch.setattr(batch, "MAX_FILES", 4)
        paths = [archive, folder / "film-1.png"]
        large, film = batch.sources(paths, most=None)
        assert "4" in (large.problem or "")
        assert film.problem is None
        with pytest.raises(InputError):
            batch.sources(paths, most=4)

    def test_members_of_one_name(self, tmp_path: Path) -> None:
        path = tmp_path / "films.zip"
        with zipfile.ZipFile(path, "w") as opened:
            opened.writestr("film.png", film(100))
            with pytest.warns(UserWarning, match="Duplicate name"):
                opened.writestr("film.png", film(200))
        first, second = flat(batch.assess(Stub(), [Item(s, "F") for s in batch.sources([path])]))
        assert first.assessment
        assert first.assessment.age == pytest.approx(100, abs=0.2)
        assert second.failure == batch.SAME_NAME

    def test_zips_in_turn_with_files(self, folder: Path, archive: Path) -> None:
        paths = [folder / "film-1.png", archive, folder / "film-2.png", archive]
        found = flat(
            batch.assess(Stub(), [Item(s, "F") for s in batch.sources(paths)], batch_size=3)
        )
        assert [o.item.source.id for o in found][0::6] == ["film-1", "film-2"]
        assert sum(o.assessment is not None for o in found) == 2 + 2 * 4

    def test_limits(self, archive: Path, folder: Path) -> None:
        with pytest.raises(InputError, match="more than 4 files"):
            batch.sources([archive], most=4)
        with pytest.raises(InputError, match="more than 7 files"):
            batch.sources(sorted(folder.iterdir()), most=7)
        unpacked = sum(s.member.file_size for s in batch.sources([archive]) if s.member)
        assert batch.sources([archive], most_bytes=unpacked)
        with pytest.raises(InputError, match="GB in all"):
            batch.sources([archive], most_bytes=unpacked - 1)

    def test_folders_and_junk_are_no_films(self, tmp_path: Path) -> None:
        path = tmp_path / "films.zip"
        with zipfile.ZipFile(path, "w") as opened:
            for name in ("anna", "bert"):
                opened.mkdir(name)
                opened.writestr(f"{name}/hand.png", film(9))
                opened.writestr(f"__MACOSX/{name}/._hand.png", b"junk")
        found = [source.member.filename for source in batch.sources([path], most=2)]
        assert found == ["anna/hand.png", "bert/hand.png"]

    def test_a_zip_bomb_is_refused_unopened(self, tmp_path: Path) -> None:
        path = tmp_path / "bomb.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
            for number in range(4):
                opened.writestr(f"{number}.png", bytes(2**20))
        assert path.stat().st_size < 2**14
        with pytest.raises(InputError, match="GB in all"):
            batch.sources([path], most_bytes=2**21)

    def test_a_zip_that_understates_is_damaged(self, tmp_path: Path) -> None:
        path = tmp_path / "liar.zip"
        with zipfile.ZipFile(path, "w") as opened:
            opened.writestr("film.png", film(9))
            size = opened.getinfo("film.png").file_size
        content = path.read_bytes()
        path.write_bytes(content.replace(size.to_bytes(4, "little"), (60).to_bytes(4, "little")))
        (source,) = batch.sources([path])
        assert source.member
        assert source.member.file_size == 60
        (outcome,) = flat(batch.assess(Stub(), [Item(source, "F")]))
        assert "damaged" in (outcome.failure or "")


def test_summary_by_sex() -> None:
    found = batch.summary([10, 20, 40], [12, 17, 40], ["F", "M", None], "months")
    assert found
    assert found["all"]["n"] == 3
    assert found["all"]["mae"] == pytest.approx(5 / 3, abs=0.01)
    assert found["all"]["bias"] == pytest.approx(1 / 3, abs=0.01)
    low, high = found["all"]["ci95"]
    assert low <= found["all"]["mae"] <= high
    assert found["F"] == {"n": 1, "mae": 2.0, "ci95": None, "bias": -2.0}
    assert found["M"]["bias"] == 3.0
    assert batch.summary([], [], [], "months") is None
    for alone in (["F", "F"], ["M", None]):
        assert batch.summary([10, 20], [12, 17], alone, "months").keys() == {"unit", "all"}


def test_what_is_named_is_taken_whatever_its_name(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in (".hidden.png", "Thumbs.db", "film.png", "gone.zip")]
    for path in paths[:3]:
        path.write_bytes(film(9))
    found = flat(batch.assess(Stub(), [Item(s, "F") for s in batch.sources(paths)]))
    assert [o.assessment is not None for o in found] == [True, True, True, False]
    assert "no such file" in (found[3].failure or "")


def test_ids_of_volumes_have_no_ending(tmp_path: Path) -> None:
    (tmp_path / "series.v2").mkdir()
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as opened:
        opened.writestr("in/torso.nii.gz", b"")
    names = ("series.v2", "ct.nii.gz", "a.b.png", "more.zip")
    found = batch.sources([tmp_path / name for name in names])
    assert [source.id for source in found] == ["series.v2", "ct", "a.b", "torso"]
    assert all(first.id != second.id for first, second in pairwise(found))
