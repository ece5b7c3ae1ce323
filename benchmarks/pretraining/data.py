"""The 64,398 small ImageNet images as two uint8 arrays, decoded once.

The images come in two sizes (84 and 64 px). They stay at their own size on disk and in
memory; the random resized crop of the training loop is what brings them to the size of
the network, so no image is resampled twice.
"""

import argparse
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from augment import cut, draw_crops, jitter_colours, normalize, to_float
from PIL import Image
from torch.nn import functional


class Batch(NamedTuple):
    """Pixels, the teacher's logits and features, and the labels' probabilities."""

    pixels: torch.Tensor
    logits: torch.Tensor
    features: torch.Tensor
    labels: torch.Tensor


def decode(source, target):
    """Decode every WebP image of the npz files into {train,val}-{64,84}.npy."""
    target.mkdir(parents=True, exist_ok=True)
    files = {"train": sorted(source.glob("train-*.npz")), "val": [source / "val.npz"]}
    for part, paths in files.items():
        images, labels = {64: [], 84: []}, {64: [], 84: []}
        for path in paths:
            archive = np.load(path)
            data, offset = archive["data"], archive["offset"]
            for i, label in enumerate(archive["label"]):
                encoded = io.BytesIO(data[offset[i] : offset[i + 1]].tobytes())
                image = np.asarray(Image.open(encoded).convert("RGB"))
                size = max(image.shape[:2])
                if image.shape[:2] != (size, size):
                    raise ValueError(f"{path.name}: image {i} is not square")
                images[size].append(image)
                labels[size].append(label)
        for size, stack in images.items():
            np.save(target / f"{part}-{size}.npy", np.stack(stack))
            np.save(target / f"{part}-{size}-label.npy", np.array(labels[size]))
            print(f"{part}: {len(stack)} images of {size} px")


def load_part(folder, part):
    """Return ({size: images}, {size: labels}) of a decoded part."""
    images = {s: np.load(folder / f"{part}-{s}.npy", mmap_mode="r") for s in (64, 84)}
    labels = {s: np.load(folder / f"{part}-{s}-label.npy") for s in (64, 84)}
    return images, labels


class Pretraining:
    """One part of the images, both sizes behind one row number."""

    def __init__(self, folder, part):
        self.images, labels = load_part(folder, part)
        self.n_small = len(self.images[64])
        self.labels = torch.from_numpy(np.concatenate([labels[64], labels[84]])).long()

    def __len__(self):
        return len(self.labels)

    def pixels(self, rows):
        """Images of `rows`, small ones first, as one float tensor per image size."""
        rows = np.asarray(rows)
        small = rows[rows < self.n_small]
        large = rows[rows >= self.n_small] - self.n_small
        return [
            to_float(self.images[s][r]) for s, r in ((64, small), (84, large)) if len(r)
        ]


def mean_and_scale(features):
    """Mean and standard deviation of the teacher's features."""
    features = features.float()
    return features.mean(0), features.std(0).clamp_min(1e-3)


class TaughtImages(Pretraining):
    """New crops in every epoch, with the teacher's answers to the whole images."""

    def __init__(self, folder, n_classes):
        super().__init__(folder, "train")
        self.n_classes = n_classes

        def load(what):
            parts = [
                np.load(folder / f"train-{s}-teacher-{what}.npy") for s in (64, 84)
            ]
            return torch.from_numpy(np.concatenate(parts))

        self.logits, self.features = load("logits"), load("features")
        self.scaler = mean_and_scale(self.features)

    def start(self, epoch):
        """Nothing is kept from one epoch to the next."""

    def batch(self, rows, size, generator):
        """New crops of sorted `rows`."""
        crops = [cut(x, draw_crops(len(x), generator), size) for x in self.pixels(rows)]
        draws = torch.rand(3, len(rows), generator=generator)
        return Batch(
            normalize(jitter_colours(torch.cat(crops), draws)),
            self.logits[rows].float(),
            self.features[rows].float(),
            functional.one_hot(self.labels[rows], self.n_classes).float(),
        )


def batches(data, epoch, seed, batch_size, sizes, part):
    """Yield the batches of one epoch; the next is made while one is used.

    Each batch has one of `sizes`, drawn at random. `part` is (i, n) for the i-th of n
    processes that share every batch.
    """
    data.start(epoch)
    generator = torch.Generator().manual_seed(seed * 10_000 + epoch)
    order = torch.randperm(len(data), generator=generator)
    order = order[: len(order) // batch_size * batch_size]
    i, n = part

    def make(rows):
        size = sizes[int(torch.randint(len(sizes), (1,), generator=generator))]
        return data.batch(rows[i::n].sort().values, size, generator)

    chunks = order.split(batch_size)
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(make, chunks[0])
        for chunk in chunks[1:]:
            ready, pending = pending.result(), pool.submit(make, chunk)
            yield ready
        yield pending.result()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="folder with train-*.npz and val.npz")
    parser.add_argument("target", type=Path, help="folder for the decoded arrays")
    decode(**vars(parser.parse_args()))
