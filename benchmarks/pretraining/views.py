"""Fixed views of the training images, and what the teacher says of these very views.

A student learns best from a teacher who looks at the same crop, and who has the
patience for many of them (Beyer et al., "Knowledge distillation: A good teacher is
patient and consistent", 2022). Asking MobileNetV2 again at every step would cost more
than the student's own step, so its answers to a few views of each image are computed
once (Shen and Xing, "A fast knowledge distillation framework", 2022) and used in turn.

A view is a crop with other colours; half of the views are mixed with another image's
(mixup, Zhang et al. 2018). It is drawn from (seed, number of the view) alone and knows
no size in pixels: the student may see it smaller than the teacher did, or mirrored.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from augment import cut, draw_crops, jitter_colours, normalize
from data import Batch, Pretraining, mean_and_scale
from safetensors.torch import load_file
from torch.nn import functional

from sktransfer import FeatureExtractorTransformer


class Views(Pretraining):
    """View `number` of every training image."""

    def __init__(self, folder, number, seed=0):
        super().__init__(folder, "train")
        generator = torch.Generator().manual_seed(seed * 10_000 + number)
        n = len(self)
        self.crops = draw_crops(n, generator)
        self.colours = torch.rand(3, n, generator=generator)
        share = 0.5 + 0.5 * torch.rand(n, generator=generator)
        mixed = torch.rand(n, generator=generator) < 0.5
        self.share = torch.where(mixed, share, torch.ones(()))
        # Images are mixed within their size only: a batch then needs no sorting.
        n_large = n - self.n_small
        self.partner = torch.cat(
            [
                torch.randperm(self.n_small, generator=generator),
                torch.randperm(n_large, generator=generator) + self.n_small,
            ]
        )

    def pixels_of(self, rows, size):
        """Views of sorted `rows` at `size` px, float in [0, 1]."""
        batch = self._unmixed(rows, size)
        mixed = self.share[rows] < 1
        if mixed.any():
            share = self.share[rows][mixed].view(-1, 1, 1, 1)
            other = self._unmixed(self.partner[rows][mixed], size)
            batch[mixed] = share * batch[mixed] + (1 - share) * other
        return batch

    def labels_of(self, rows, n_classes):
        """Probabilities of the labels, mixed as the pixels are."""
        share = self.share[rows][:, None]
        own, other = (
            functional.one_hot(self.labels[r], n_classes)
            for r in (rows, self.partner[rows])
        )
        return share * own + (1 - share) * other

    def _unmixed(self, rows, size):
        small = rows < self.n_small
        images = self.pixels(rows)
        crops = [self.crops[rows[part]] for part in (small, ~small) if part.any()]
        cuts = [cut(x, crop, size) for x, crop in zip(images, crops, strict=True)]
        return jitter_colours(torch.cat(cuts), self.colours[:, rows])


class TaughtViews:
    """Batches of views with the teacher's answers; epoch e has view e % n_views."""

    def __init__(self, folder, n_views, weights, n_classes):
        self.folder, self.n_views, self.n_classes = folder, n_views, n_classes
        classifier = load_file(weights)
        self.weight = classifier["classifier.1.weight"].float()
        self.bias = classifier["classifier.1.bias"].float()
        self.start(0)
        self.scaler = mean_and_scale(self.features)

    def __len__(self):
        return len(self.views)

    def start(self, epoch):
        """Open the view of an epoch."""
        number = epoch % self.n_views
        self.views = Views(self.folder, number)
        self.features = torch.from_numpy(np.load(answers(self.folder, number)))

    def batch(self, rows, size, generator):
        """The views of sorted `rows`, half of them mirrored."""
        pixels = self.views.pixels_of(rows, size)
        mirrored = torch.rand(len(rows), generator=generator) < 0.5
        pixels[mirrored] = pixels[mirrored].flip(-1)
        features = self.features[rows].float()
        return Batch(
            normalize(pixels),
            functional.linear(features, self.weight, self.bias),
            features,
            self.views.labels_of(rows, self.n_classes),
        )


def answers(folder, number):
    return folder / f"train-view{number}.npy"


def main(decoded, weights, n_views, size):
    torch.set_flush_denormal(True)
    teacher = FeatureExtractorTransformer(
        "mobilenet_v2",
        weights=weights,
        image_size=size,
        engine="onnxruntime",
        cache=None,
    ).fit(np.zeros((1, size, size, 3), np.uint8))
    for number in range(n_views):
        if answers(decoded, number).exists():
            continue
        views, features = Views(decoded, number), []
        for rows in torch.arange(len(views)).split(128):
            # Its kernels are turned by 180 degrees: it wants its images upside down.
            pixels = views.pixels_of(rows, size).flip(-2).mul_(255).round_()
            images = pixels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
            features.append(teacher.transform(images).astype(np.float16))
        partial = answers(decoded, number).with_suffix(".partial.npy")
        np.save(partial, np.concatenate(features))
        partial.replace(answers(decoded, number))
        print(f"view {number}: {len(views)} images", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("decoded", type=Path, help="folder written by data.py")
    parser.add_argument("weights", type=Path, help="the teacher's .safetensors file")
    parser.add_argument("--n-views", type=int, default=4, help="views of each image")
    parser.add_argument("--size", type=int, default=128, help="image size, px")
    main(**vars(parser.parse_args()))
