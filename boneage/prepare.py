"""Data sets as they are downloaded or collected, to labelled folders."""

from __future__ import annotations

import csv
import hashlib
import re
import secrets
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from boneage import images, nih, volumes
from boneage.datasets import SPLITS
from boneage.errors import InputError
from boneage.ledger import replacing
from boneage.rsna import COPIES, LABEL_FILES, Download, Label, Member
from boneage.sex import parse_sex
from boneage.tables import number, read_csv
from boneage.transforms import Preprocess
from boneage.views import PROJECTIONS

SIZES = (32, 4096)
OLDEST = 120.0
"""Years."""
RSNA_COLUMNS = ("id", "split", "boneage", "male")
NIH_COLUMNS = ("id", "split", "age", "sex", "patient", "view")
BATCH = 256
"""Images whose content is in memory at once, at most."""


def prepare_rsna(
    source: Path, out: Path, size: int, splits: Path | None = None, progress: bool = True
) -> Iterator[str]:
    """Make a labelled folder of size x size px from the official RSNA download.

    The source holds the label files and images named ``<id>.png``, in folders, zips or zips inside
    zips. Images of that size that are already in ``out`` are kept, so an interrupted run goes on.

    Args:
        source: folder of the download, or one zip.
        out: labelled folder to make.
        size: side of the squashed images, px.
        splits: CSV file with the columns id and split, in place of the official splits; what it
            does not name is left out. ``data/rsna-splits.csv`` is that of the bundled weights.
        progress: show a progress bar.

    Yields:
        Sentences about what was done, a line each; splits that are missing are named.

    Raises:
        InputError: if the source has none of the label files, one of them or ``splits`` is damaged,
            or ``out`` holds other labels.
    """
    _check(source, out, size)
    split_of = {} if splits is None else _read_splits(splits)
    download = Download(source)
    labels: list[Label] = []
    for file in LABEL_FILES:
        if file.split not in download.labels:
            yield f"{file.split}: skipped, {file.name} is missing."
            continue
        rows = download.read_labels(file)
        found = [label for label in rows if label.id in download.images]
        yield f"{file.split}: {len(found)} images{_missing(len(rows) - len(found))}"
        labels += found
    if not labels:
        raise InputError(
            f"{source.name} is not an RSNA download: expected "
            f"{', '.join(file.name for file in LABEL_FILES)} and their images as <id>.png."
        )
    if splits is not None:
        labels = [replace(x, split=split_of[x.id]) for x in labels if x.id in split_of]
        if not labels:
            raise InputError(f"{splits.name} names none of the images of the download.")
        counts = Counter(label.split for label in labels)
        told = ", ".join(f"{count} {split}" for split, count in counts.items())
        yield f"{splits.name}: {told} images{_missing(len(split_of) - len(labels))}"
    rows = [(label.id, label.split, f"{label.age:g}", str(label.sex == "M")) for label in labels]
    _refuse_other_labels(out, RSNA_COLUMNS, rows)
    found = [(label.id, download.images[label.id]) for label in labels]
    failed = set()
    for id, reason in _convert(found, len(found), out / "images", size, progress):
        failed.add(id)
        yield f"{id}: left out. {reason}"
    rows = [row for row in rows if row[0] not in failed]
    _write_labels(out, RSNA_COLUMNS, rows)
    yield f"{out.name}: {len(rows)} images of {size} x {size} px."


def prepare_nih(source: Path, out: Path, size: int, progress: bool = True) -> Iterator[str]:
    """Make a labelled folder of size x size px from the NIH ChestX-ray14 download.

    The source holds the label file, the official test list, and the images in folders, zips or tar
    files. Its test patients are the test split, and with them always the patients of the bundled
    test set (``data/nih-chest-test``); of the others a tenth is validation. Images of that size
    that are already in ``out`` are kept, so an interrupted run goes on.

    Args:
        source: folder of the download, or one zip.
        out: labelled folder to make.
        size: side of the squashed images, px.
        progress: show a progress bar.

    Yields:
        Sentences about what was done, a line each; what is missing is counted.

    Raises:
        InputError: if the source lacks one of the two files, has no images, or is damaged, or
            ``out`` holds other labels.
    """
    _check(source, out, size)
    download = nih.Download(source)
    if download.implausible:
        yield (
            f"{download.implausible} images with an age above {nih.MAX_AGE:g} years were left out: "
            "known errors of the labels."
        )
    yield f"{download.bundled} patients of the bundled nih-chest-test are in the test split."
    rows = [
        (label.id, label.split, f"{label.age:.4g}", label.sex, label.patient, label.view)
        for label in download.labels
    ]
    _refuse_other_labels(out, NIH_COLUMNS, rows)
    seen: set[str] = set()

    def found() -> Iterator[tuple[str, Member]]:
        for id, member in download.images():
            seen.add(id)
            yield id, member

    failed = set()
    for id, reason in _convert(found(), len(download.labels), out / "images", size, progress):
        failed.add(id)
        yield f"{id}: left out. {reason}"
    if not seen:
        raise InputError(f"{source.name} holds no images of the NIH ChestX-ray14 download.")
    for split in ("train", "validation", "test"):
        labels = [label for label in download.labels if label.split == split]
        images_of_split = sum(label.id in seen for label in labels)
        yield f"{split}: {images_of_split} images{_missing(len(labels) - images_of_split)}"
    rows = [row for row in rows if row[0] in seen - failed]
    _write_labels(out, NIH_COLUMNS, rows)
    yield f"{out.name}: {len(rows)} images of {size} x {size} px."


def prepare_ct(
    source: Path,
    out: Path,
    labels: Path | None = None,
    projection: str = "bone",
    progress: bool = True,
) -> Iterator[str]:
    """Make a labelled folder of frontal projections from a folder of CT volumes.

    Age and sex come from the table, else from DICOM tags. A volume without a known age is left out,
    as is one that cannot be read. Projections of the same files that are already in ``out`` are
    kept, so an interrupted run goes on.

    The names of files and folders are kept, as ids and as names of the images; one that tells of
    the patient has to be changed before. A patient's key is a hash under a salt that is drawn anew
    in every run and stored nowhere: the keys tell which volumes are of one patient, and nobody,
    with the volumes at hand or without, can tell of whom by trying identities. A run that goes on
    reads the headers again. As another run has other keys, and splits by patient follow the keys, a
    finished folder is not touched.

    Args:
        source: folder whose entries are volumes: NIfTI files, zips and folders of DICOM files.
        out: labelled folder to make; 16-bit PNG files, no ``split``.
        labels: CSV file with the columns id (an entry's name without its ending), age (years), sex
            and optionally patient; an empty cell leaves it to the DICOM tag.
        projection: a name of :data:`boneage.views.PROJECTIONS`.
        progress: show a progress bar.

    Yields:
        Sentences about what was done, a line each; volumes that were left out are named.

    Raises:
        InputError: no such folder, a table that is not valid, a finished folder, entries that
            would have the same id, or no volume that could be used.
    """
    from tqdm import tqdm

    if not source.is_dir():
        raise InputError(f"There is no folder {source.name}.")
    if (out / "labels.csv").exists():
        raise InputError(
            f"{out.name} is finished: it holds labels.csv. Give another folder; or delete that "
            "file to make it anew, with new keys of the patients and so another random split."
        )
    table = _read_ct_labels(labels) if labels else {}
    entries = [
        path
        for path in sorted(source.iterdir())
        if not path.name.startswith(".") and not (labels and path.resolve() == labels.resolve())
    ]
    _check_ids(entries)
    yield (
        "Names of files and folders are kept as ids and names of the images: a name that tells of "
        "the patient has to be changed before."
    )
    (out / "images").mkdir(parents=True, exist_ok=True)
    salt = secrets.token_bytes(32)
    rows: dict[str, tuple[str, ...]] = {}
    for entry in tqdm(entries, "projecting", disable=not progress):
        name = _name(volumes.name_of(entry))
        id = _safe_id(name)
        try:
            given, known = table.get(name, volumes.Labels()), volumes.read_labels(entry)
            age = known.age_years if given.age_years is None else given.age_years
            if age is None:
                raise InputError(
                    "Its age is not known: neither the table nor a DICOM tag tells it."
                )
            if age > OLDEST:
                raise InputError(f"Its age is {age:g} years by its DICOM tag, which cannot be.")
            notes = _project(entry, out / "images" / f"{id}.png", projection)
        except (InputError, OSError) as error:
            reason = str(error) if isinstance(error, InputError) else "It cannot be read."
            yield f"{entry.name}: left out. {reason}"
            continue
        for note in notes:
            yield f"{id}: {note}"
        patient = given.patient or known.patient
        key = hashlib.blake2b(patient.encode(), key=salt, digest_size=8) if patient else None
        sex = given.sex or known.sex or ""
        rows[name] = (id, f"{age:.4g}", sex, key.hexdigest() if key else "")
    if not rows:
        raise InputError(f"{source.name} holds no volume that could be used.")
    if missing := set(table) - set(rows):
        yield f"{len(missing)} rows of {labels.name} without a volume were skipped."
    _write_labels(out, ("id", "age", "sex", "patient"), rows.values())
    keys = [key for *_, key in rows.values()]
    yield (
        f"Patients: {len(set(keys) - {''})}. Volumes without a patient: {keys.count('')}; those of "
        "one person may fall into different splits."
    )
    yield f"{out.name}: {len(rows)} projections."


# --- Radiographs ---


def _check(source: Path, out: Path, size: int) -> None:
    if not SIZES[0] <= size <= SIZES[1]:
        raise InputError(f"The size must be between {SIZES[0]} and {SIZES[1]} px; it is {size}.")
    if out.resolve() == source.resolve():
        raise InputError(
            f"{out.name} is the download itself, and its images could be overwritten: give another "
            "folder."
        )


def _read_splits(table: Path) -> dict[str, str]:
    """The splits that a table gives ids."""
    columns, rows = _read_table(table)
    if not {"id", "split"} <= set(columns):
        raise InputError(
            f"{table.name} needs the columns id and split; it has {', '.join(columns)}."
        )
    ids = Counter(row["id"] for _, row in rows)
    if twice := [id for id, times in ids.items() if times > 1]:
        raise InputError(f"{table.name}: {twice[0]} appears twice.")
    split_of = {row["id"]: row["split"] for _, row in rows}
    if unknown := set(split_of.values()) - set(SPLITS):
        raise InputError(
            f"{table.name} has the split {min(unknown)!r}; known: {', '.join(SPLITS)}."
        )
    return split_of


def _missing(count: int) -> str:
    return f"; {count} labels without an image were skipped." if count else "."


def _convert(
    found: Iterable[tuple[str, Member]], total: int, folder: Path, size: int, progress: bool
) -> Iterator[tuple[str, str]]:
    """Shrink images into ``folder``; yields ``(id, reason)`` of those that cannot be read."""
    from tqdm import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    (folder / COPIES).touch()
    shrink = Preprocess(size=size, resolution=size).shrink

    def convert(item: tuple[str, Member]) -> tuple[str, str] | None:
        id, member = item
        target = folder / f"{id}.png"
        if _has_size(target, size):
            return None
        try:
            pixels = shrink(images.read(member.path or member.read(), id=id).pixels)
        except InputError as error:
            return id, str(error)
        _save(pixels, target)
        return None

    rest = iter(found)
    with ThreadPoolExecutor() as pool, tqdm(None, "preparing", total, disable=not progress) as bar:
        while batch := list(islice(rest, BATCH)):
            for failure in pool.map(convert, batch):
                bar.update()
                if failure:
                    yield failure


def _save(pixels: np.ndarray, target: Path, **texts: str) -> None:
    """Write a PNG file, at once or not at all."""
    notes = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        notes.add_text(name, text)
    temporary = target.with_name(f"{target.name}.part")
    Image.fromarray(pixels).save(temporary, "PNG", pnginfo=notes)
    temporary.replace(target)


def _has_size(target: Path, size: int) -> bool:
    try:
        with Image.open(target, formats=("PNG",)) as image:
            return image.size == (size, size)
    except (FileNotFoundError, UnidentifiedImageError):
        return False


def _refuse_other_labels(
    out: Path, columns: Sequence[str], rows: Iterable[tuple[str, ...]]
) -> None:
    """Before an image is written.

    Raises:
        InputError: if ``out`` has labels that are not those of an earlier run on these images.
    """
    labels = out / "labels.csv"
    if not labels.exists():
        return
    header, found = read_csv(labels.read_bytes(), labels.name)
    if tuple(header) != columns or not {tuple(row.values()) for _, row in found} <= set(rows):
        raise InputError(
            f"{out.name} holds a labels.csv of other images or splits, or one that was changed "
            "since, and it would be overwritten: give another folder, or delete that file to make "
            "it anew."
        )


def _write_labels(out: Path, columns: Sequence[str], rows: Iterable[tuple[str, ...]]) -> None:
    """Written last, at once or not at all: a folder with labels.csv is complete."""
    with replacing(out / "labels.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


# --- Volumes ---


def _safe_id(name: str) -> str:
    """A name that any file system and any reader of CSV takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "volume"


def _name(text: str) -> str:
    """A name as it is compared: file systems differ in how they compose letters."""
    return unicodedata.normalize("NFC", text)


def _check_ids(entries: Sequence[Path]) -> None:
    """Refuse entries of one id, among them those that some file systems take for one name."""
    same = defaultdict(list)
    for entry in entries:
        same[_safe_id(_name(volumes.name_of(entry))).lower()].append(entry.name)
    if twice := [" and ".join(names) for names in same.values() if len(names) > 1]:
        raise InputError(
            f"These volumes would have the same id: {'; '.join(twice)}. Expected names that "
            "differ in letters from A to Z, digits, points and hyphens."
        )


def _read_table(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    try:
        content = path.read_bytes()
    except OSError:
        raise InputError(f"{path.name}: there is no such file, or it cannot be read.") from None
    return read_csv(content, path.name)


def _read_ct_labels(path: Path) -> dict[str, volumes.Labels]:
    header, rows = _read_table(path)
    if missing := {"id", "age", "sex"} - set(header):
        raise InputError(f"{path.name} lacks the columns {', '.join(sorted(missing))}.")
    ids = Counter(_safe_id(_name(row["id"])) for _, row in rows)
    found = {}
    for line, row in rows:
        id, sex = _safe_id(_name(row["id"])), parse_sex(row["sex"])
        try:
            age = number(row["age"]) if row["age"] else None
            is_age = age is None or 0 <= age <= OLDEST
        except ValueError:
            is_age = False
        if not is_age or (row["sex"] and sex is None) or not row["id"] or ids[id] > 1:
            raise InputError(
                f"{path.name}, row {line}, is not valid. Expected an id that appears once, an "
                f"age in years from 0 to {OLDEST:g}, and the sex as F or M."
            )
        found[_name(row["id"])] = volumes.Labels(sex, age, row.get("patient") or None)
    return found


def _project(source: Path, target: Path, projection: str) -> tuple[str, ...]:
    """Project a volume unless that is done; notes on it."""
    texts = {"projection": projection, "source": _fingerprint(source)}
    if _holds(target, texts):
        return ()
    volume = volumes.read(source, id=target.stem)
    radiograph = volumes.project(volume, *PROJECTIONS[projection])
    _save(radiograph.pixels, target, **texts)
    notes = radiograph.warnings
    if radiograph.unassessable:
        notes += (f"kept, though: {radiograph.unassessable}",)
    return notes


def _fingerprint(source: Path) -> str:
    """Differs for other files, and for files that were changed."""
    files = volumes.files_of(source) if source.is_dir() else [source]
    digest = hashlib.sha256()
    for path in files:
        name, state = path.relative_to(source.parent), path.stat()
        line = f"{name.as_posix()}\0{state.st_size}\0{state.st_mtime_ns}\n"
        digest.update(line.encode(errors="surrogatepass"))
    return digest.hexdigest()[:16]


def _holds(target: Path, texts: dict[str, str]) -> bool:
    """Whether a PNG file is there and holds these texts."""
    try:
        with Image.open(target, formats=("PNG",)) as image:
            return texts.items() <= image.info.items()
    except (FileNotFoundError, UnidentifiedImageError):
        return False
