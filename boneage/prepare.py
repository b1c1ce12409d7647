"""Published data sets, as they are downloaded, to labelled folders."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from boneage import images
from boneage.errors import InputError
from boneage.rsna import LABEL_FILES, Download, Label, Member
from boneage.transforms import Preprocess

SIZES = (32, 4096)


def prepare_rsna(source: Path, out: Path, size: int, progress: bool = True) -> Iterator[str]:
    """Make a labelled folder of size x size px from the official RSNA download.

    The source holds the label files and images named ``<id>.png``, in folders, zips or zips inside
    zips. Images of that size that are already in ``out`` are kept, so an interrupted run goes on.

    Args:
        source: folder of the download, or one zip.
        out: labelled folder to make.
        size: side of the squashed images, px.
        progress: show a progress bar.

    Yields:
        Sentences about what was done, a line each; splits that are missing are named.

    Raises:
        InputError: if the source has none of the label files, or one of them is damaged.
    """
    if not SIZES[0] <= size <= SIZES[1]:
        raise InputError(f"The size must be between {SIZES[0]} and {SIZES[1]} px; it is {size}.")
    download = Download(source)
    labels: list[Label] = []
    for file in LABEL_FILES:
        if file.split not in download.labels:
            yield f"{file.split}: skipped, {file.name} is missing."
            continue
        rows = download.read_labels(file)
        found = [label for label in rows if label.id in download.images]
        missing = len(rows) - len(found)
        yield f"{file.split}: {len(found)} images" + (
            f"; {missing} labels without an image were skipped." if missing else "."
        )
        labels += found
    if not labels:
        raise InputError(
            f"{source.name} is no RSNA download: expected are "
            f"{', '.join(file.name for file in LABEL_FILES)} and their images as <id>.png."
        )
    (out / "images").mkdir(parents=True, exist_ok=True)
    failed = set()
    for id, reason in _convert(labels, download.images, out / "images", size, progress):
        failed.add(id)
        yield f"{id}: left out. {reason}"
    # Written last: a folder with labels.csv is complete.
    with (out / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "split", "boneage", "male"))
        for label in labels:
            if label.id not in failed:
                writer.writerow((label.id, label.split, f"{label.age:g}", label.sex == "M"))
    yield f"{out.name}: {len(labels) - len(failed)} images of {size} x {size} px."


def _convert(
    labels: list[Label], found: dict[str, Member], folder: Path, size: int, progress: bool
) -> Iterator[tuple[str, str]]:
    """Shrink images into ``folder``; yields ``(id, reason)`` of those that cannot be read."""
    from tqdm import tqdm

    shrink = Preprocess(size=size, resolution=size).shrink

    def convert(id: str) -> tuple[str, str] | None:
        target = folder / f"{id}.png"
        if _is_done(target, size):
            return None
        try:
            source = found[id].path or found[id].read()
            pixels = shrink(images.read(source, id=id).pixels)
        except InputError as error:
            return id, str(error)
        temporary = target.with_suffix(".part")
        Image.fromarray(pixels).save(temporary, "PNG")
        temporary.replace(target)
        return None

    ids = [label.id for label in labels]
    with ThreadPoolExecutor() as pool:
        done = tqdm(pool.map(convert, ids), "preparing", len(ids), disable=not progress)
        yield from (failure for failure in done if failure)


def _is_done(target: Path, size: int) -> bool:
    try:
        with Image.open(target, formats=("PNG",)) as image:
            return image.size == (size, size)
    except (FileNotFoundError, UnidentifiedImageError):
        return False
