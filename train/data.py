"""Training images, decoded once, and the batches made from them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from boneage import datasets
from boneage.augmentation import Augmentation
from boneage.calibration import calibrates
from boneage.datasets import Case, LabelledFolder
from boneage.errors import InputError
from boneage.transforms import CHANGES, Preprocess

CACHED = 4096  # images in a file of the cache


class Cache:
    """The images of a split, decoded: files of (n, R, R) uint8, memory-mapped.

    An item is one image, (R, R) uint8; 0 to 255 stand for 0 to 1.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = [np.load(file, mmap_mode="r") for file in files]

    def __getitem__(self, item: int) -> np.ndarray:
        file, place = divmod(item, len(self.files[0]))
        return self.files[file][place]


def build_cache(
    data: LabelledFolder, preprocess: Preprocess, folder: Path, accelerator: Accelerator
) -> Cache:
    """Decode, shrink and stretch every image once; a later run with the same images finds it.

    The processes share the work, file by file. Files that are whole stay, so whoever is stopped
    while decoding goes on from there.

    Returns:
        The images in the order of the cases.

    Raises:
        InputError: if an image cannot be read.
    """
    groups = [data.cases[i : i + CACHED] for i in range(0, len(data.cases), CACHED)]
    files = [folder / _cache_name(group, preprocess) for group in groups]
    missing = [pair for pair in zip(files, groups, strict=True) if not pair[0].is_file()]
    accelerator.wait_for_everyone()  # all have seen the same files missing
    for file, group in missing[accelerator.process_index :: accelerator.num_processes]:
        folder.mkdir(parents=True, exist_ok=True)
        _decode(file, group, preprocess, quiet=not accelerator.is_main_process)
    accelerator.wait_for_everyone()
    return Cache(files)


def _cache_name(cases: Sequence[Case], preprocess: Preprocess) -> str:
    settings = (CHANGES, preprocess.resolution, preprocess.percentiles, preprocess.region)
    key = hashlib.sha256(repr(settings).encode())
    for case in cases:
        status = case.path.stat()
        key.update(f"{case.id} {status.st_size} {status.st_mtime_ns}\n".encode())
    return f"{key.hexdigest()[:16]}.npy"


def _decode(file: Path, cases: Sequence[Case], preprocess: Preprocess, quiet: bool) -> None:
    shape = (len(cases), preprocess.resolution, preprocess.resolution)
    # Runs that start together each make their own, and the last one stays.
    temporary = file.with_name(f"{file.name}.{uuid4().hex}")
    pixels = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)

    def decode(index: int) -> None:
        shrunk = preprocess.shrink(datasets.read(cases[index]).pixels)
        pixels[index] = np.rint(preprocess.stretch(shrunk) * 255)

    try:
        with ThreadPoolExecutor() as pool:
            done = pool.map(decode, range(len(cases)))
            for _ in tqdm(done, "decoding", len(cases), disable=quiet):
                pass
        pixels.flush()
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Batch:
    """What a step needs, still unprocessed so that it crosses to the device as bytes.

    Attributes:
        pixels: (N, 1, R, R) uint8, stretched; 0 to 255 stand for 0 to 1.
        draws: (N, DRAWS) float32, random numbers of the augmentation.
        ages: (N,) float32 in the data's unit.
        sex: (N,) int64, index into the model's sexes; 0 for a model that takes none.
        places: (N,) int64, where each image stands in the step's batch over all processes.
    """

    pixels: Tensor
    draws: Tensor
    ages: Tensor
    sex: Tensor
    places: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``."""
        return Batch(*(t.to(device, non_blocking=True) for t in vars(self).values()))

    def parts(self, size: int) -> list[Batch]:
        """The batch cut into parts of at most ``size`` images."""
        chunks = zip(*(t.split(size) for t in vars(self).values()), strict=True)
        return [Batch(*chunk) for chunk in chunks]

    @property
    def images(self) -> Tensor:
        """(N, 1, R, R) float32 in [0, 1]."""
        return self.pixels.float() / 255


def _seed_of(case: Case) -> int:
    """Of the id, so that images added or left out change no other image's augmentation."""
    return int.from_bytes(hashlib.sha256(case.id.encode()).digest()[:8])


class Batches(Dataset[Batch]):
    """The batches of an epoch, each made at once from the cache.

    The order is a permutation drawn from seed and epoch, so a run that is resumed in the middle of
    an epoch sees the same batches as one that was not. An item of this data set is a whole batch,
    or of a training batch that several processes share, the images of this one.

    Args:
        data: the cases, in the cache's order.
        cache: their images, from :func:`build_cache`.
        sexes: the model's sexes, in the order of its outputs; empty if it takes none.
        batch_size: images a batch, over all processes.
        augmentation: whose numbers are drawn here; ``None`` for validation, in order.
        seed: of the run.
        rank: of this process among those that share every batch, from 0.
        processes: how many those are.

    Raises:
        InputError: if a batch has fewer images than there are processes.
    """

    def __init__(
        self,
        data: LabelledFolder,
        cache: Cache,
        sexes: list[str],
        batch_size: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.cache = cache
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.seed = seed
        self.rank, self.processes = rank, processes
        self.seeds = [_seed_of(case) for case in data.cases]
        self.ages = torch.tensor([case.age for case in data.cases], dtype=torch.float32)
        self.sex = torch.zeros(len(data.cases), dtype=torch.int64)
        if sexes:
            self.sex = torch.tensor([sexes.index(case.sex or "") for case in data.cases])
        if self.whole < processes:
            raise InputError(
                f"{processes} processes cannot share batches of {self.whole} images; start fewer."
            )
        # The others calibrate the intervals; all of them choose where there is no other.
        choosing = torch.tensor([not calibrates(case) for case in data.cases])
        self.choosing = choosing if choosing.any() else ~choosing
        self.start(0)

    @property
    def whole(self) -> int:
        """Images of a batch over all processes; in validation the last batch may have fewer."""
        return min(self.batch_size, len(self.ages))

    @property
    def steps(self) -> int:
        """Batches an epoch; in training an incomplete last one is left out."""
        whole, rest = divmod(len(self.ages), self.batch_size)
        return whole + bool(rest and (self.augmentation is None or not whole))

    def start(self, epoch: int, first: int = 0) -> None:
        """Begin an epoch at its batch ``first``."""
        self.epoch, self.first = epoch, first
        self.order = np.arange(len(self.ages))
        if self.augmentation is not None:
            self.order = np.random.default_rng((self.seed, epoch)).permutation(self.order)

    def __len__(self) -> int:
        return self.steps - self.first

    def __getitem__(self, item: int) -> Batch:
        if not 0 <= item < len(self):
            raise IndexError(item)
        first = (self.first + item) * self.batch_size
        index = self.order[first : first + self.batch_size]
        start, end = (len(index) * r // self.processes for r in (self.rank, self.rank + 1))
        index = index[start:end]
        draws = np.zeros((len(index), Augmentation.DRAWS), np.float32)
        if self.augmentation is not None:
            draws = np.stack(
                [self.augmentation.draw(self.seed, self.epoch, self.seeds[i]) for i in index]
            )
        return Batch(
            torch.from_numpy(np.stack([self.cache[i] for i in index]))[:, None],
            torch.from_numpy(draws),
            self.ages[index],
            self.sex[index],
            torch.arange(start, end),
        )
