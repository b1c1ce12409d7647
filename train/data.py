"""Training images, decoded once, and the batches made from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from boneage import images
from boneage.datasets import Case, LabelledFolder
from boneage.transforms import Augmentation, Preprocess


@dataclass(frozen=True)
class Cache:
    """Decoded images of a labelled folder at the training resolution.

    Attributes:
        pixels: (n, R, R) uint8, memory-mapped.
        levels: (n, 2) float32, the grey values that become 0 and 1.
    """

    pixels: np.ndarray
    levels: np.ndarray


def build_cache(data: LabelledFolder, preprocess: Preprocess, folder: Path) -> Cache:
    """Decode and shrink every image once; a later run with the same images finds the file.

    Raises:
        InputError: if an image cannot be read.
    """
    key = hashlib.sha256(repr((preprocess.resolution, preprocess.percentiles)).encode())
    for case in data.cases:
        status = case.path.stat()
        key.update(f"{case.id} {status.st_size} {status.st_mtime_ns}\n".encode())
    stem = folder / key.hexdigest()[:16]
    pixel_file, level_file = stem.with_suffix(".pixels.npy"), stem.with_suffix(".levels.npy")
    if not level_file.is_file():  # written last: its presence says that both are whole
        folder.mkdir(parents=True, exist_ok=True)
        shape = (len(data.cases), preprocess.resolution, preprocess.resolution)
        pixels = np.lib.format.open_memmap(pixel_file, "w+", np.uint8, shape)

        def decode(case: Case) -> np.ndarray:
            shrunk = preprocess.shrink(images.read(case.path).pixels)
            return shrunk if shrunk.dtype == np.uint8 else (shrunk // 257).astype(np.uint8)

        levels = np.empty((len(data.cases), 2), np.float32)
        with ThreadPoolExecutor() as pool:
            decoded = tqdm(pool.map(decode, data.cases), "decoding", len(data.cases), leave=False)
            for index, shrunk in enumerate(decoded):
                pixels[index] = shrunk
                levels[index] = preprocess.levels(shrunk)
        pixels.flush()
        np.save(level_file, levels)
    return Cache(np.load(pixel_file, mmap_mode="r"), np.load(level_file))


@dataclass(frozen=True)
class Batch:
    """What a step needs, still unprocessed so that it crosses to the device as bytes.

    Attributes:
        pixels: (N, 1, R, R) uint8; levels: (N, 2) float32; draws: (N, DRAWS) float32.
        ages: (N,) float32 in the data's unit; sex: (N,) int64, index into the model's sexes.
        index: (N,) int64, position in the labelled folder.
    """

    pixels: Tensor
    levels: Tensor
    draws: Tensor
    ages: Tensor
    sex: Tensor
    index: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``."""
        return Batch(*(t.to(device, non_blocking=True) for t in vars(self).values()))


class Batches(Dataset[Batch]):
    """The batches of an epoch, each made at once from the cache.

    The order is a permutation drawn from seed and epoch, so a run that is resumed in the middle of
    an epoch sees the same batches as one that was not. An item of this data set is a whole batch.

    Args:
        data: the cases, in the cache's order.
        cache: their images.
        sexes: the model's sexes, in the order of its outputs.
        batch_size: images a batch.
        augmentation: whose numbers are drawn here; ``None`` for validation, in order.
        seed: of the run.
    """

    def __init__(
        self,
        data: LabelledFolder,
        cache: Cache,
        sexes: list[str],
        batch_size: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.cache = cache
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.seed = seed
        self.epoch = 0
        self.first = 0
        self.ages = torch.tensor([case.age for case in data.cases], dtype=torch.float32)
        order = {sex: i for i, sex in enumerate(sexes)} if len(sexes) > 1 else {}
        self.sex = torch.tensor([order.get(case.sex or "", 0) for case in data.cases])

    @property
    def steps(self) -> int:
        """Batches an epoch; in training an incomplete last one is left out."""
        whole, rest = divmod(len(self.ages), self.batch_size)
        return whole + bool(rest and (self.augmentation is None or not whole))

    def start(self, epoch: int, first: int = 0) -> None:
        """Begin an epoch at its batch ``first``."""
        self.epoch, self.first = epoch, first

    def __len__(self) -> int:
        return self.steps - self.first

    def __getitem__(self, item: int) -> Batch:
        if not 0 <= item < len(self):
            raise IndexError(item)
        order = np.arange(len(self.ages))
        if self.augmentation is not None:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(order)
        first = (self.first + item) * self.batch_size
        index = order[first : first + self.batch_size]
        draws = np.zeros((len(index), Augmentation.DRAWS), np.float32)
        if self.augmentation is not None:
            draws = np.stack([self.augmentation.draw(self.seed, self.epoch, i) for i in index])
        return Batch(
            torch.from_numpy(np.stack([self.cache.pixels[i] for i in index]))[:, None],
            torch.from_numpy(self.cache.levels[index]),
            torch.from_numpy(draws),
            self.ages[index],
            self.sex[index],
            torch.from_numpy(index),
        )

    def __iter__(self) -> Iterator[Batch]:
        return (self[i] for i in range(len(self)))
