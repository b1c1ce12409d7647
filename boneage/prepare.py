"""Published data sets, as they are downloaded, to labelled folders."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from boneage import images
from boneage.errors import InputError
from boneage.rsna import LABEL_FILES, Opener, find_label_file, index_images, read_labels
from boneage.transforms import Preprocess


def prepare_rsna(source: Path, out: Path, size: int, progress: bool = True) -> Iterator[str]:
    """Make a labelled folder of size x size px from the official RSNA download.

    The source holds the label files and, in folders or zips (also zips inside zips), images named
    ``<id>.png``. Images that are already in ``out`` are kept, so an interrupted run goes on.

    Args:
        source: folder of the download.
        out: labelled folder to make.
        size: side of the squashed images, px.
        progress: show a progress bar.

    Yields:
        Sentences about what was done, a line each; splits that are missing are named.

    Raises:
        InputError: if the source has none of the label files, or one of them is damaged.
    """
    if not source.is_dir():
        raise InputError(f"There is no folder {source.name}.")
    if not 32 <= size <= 4096:
        raise InputError(f"The size must be between 32 and 4096 px; it is {size}.")
    available = index_images(source)
    rows: list[tuple[str, str, str, str]] = []
    for label_file in LABEL_FILES:
        path = find_label_file(source, label_file)
        if path is None:
            yield f"{label_file.split}: skipped, {label_file.name} is missing."
            continue
        labels = list(read_labels(path, label_file))
        found = [row for row in labels if row[0] in available]
        missing = len(labels) - len(found)
        yield f"{label_file.split}: {len(found)} images" + (
            f"; {missing} labels without an image were skipped." if missing else "."
        )
        rows += found
    if not rows:
        raise InputError(
            f"{source.name} is no RSNA download: expected are "
            f"{', '.join(f.name for f in LABEL_FILES)} and their images as <id>.png."
        )
    (out / "images").mkdir(parents=True, exist_ok=True)
    failures = list(_convert(rows, available, out / "images", size, progress))
    failed = {id for id, _ in failures}
    for id, reason in failures:
        yield f"{id}: left out. {reason}"
    # Written last: a folder with labels.csv is complete.
    with (out / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "split", "boneage", "male"))
        writer.writerows(row for row in rows if row[0] not in failed)
    yield f"{out.name}: {len(rows) - len(failed)} images of {size} x {size} px."


def _convert(
    rows: Iterable[tuple[str, str, str, str]],
    available: Mapping[str, Opener],
    folder: Path,
    size: int,
    progress: bool,
) -> Iterator[tuple[str, str]]:
    """Shrink images into ``folder``; yields ``(id, reason)`` of those that cannot be read."""
    from tqdm import tqdm

    shrink = Preprocess(size=size, resolution=size).shrink

    def convert(id: str) -> tuple[str, str] | None:
        target = folder / f"{id}.png"
        if target.exists():
            return None
        try:
            pixels = shrink(images.read(available[id](), id=id).pixels)
        except (InputError, zipfile.BadZipFile, OSError) as error:
            return id, str(error)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        temporary = target.with_suffix(".part")
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(target)
        return None

    ids = [row[0] for row in rows]
    with ThreadPoolExecutor() as pool:
        done = tqdm(pool.map(convert, ids), "preparing", len(ids), disable=not progress)
        yield from (failure for failure in done if failure)
