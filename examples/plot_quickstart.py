"""
Photographs in, a cross-validated classifier out
================================================

A pretrained network beside models you know: raw pixels with a logistic regression,
the features of a frozen network with the same logistic regression in a pipeline, and
``TransferClassifier``, which does both steps. Everything runs offline on a CPU, with
the network that comes with sktransfer.

By default two sets of real photographs are used that scikit-image carries: 200 small
pictures, face or not, and grey tiles cut from 13 photographs, where the question is
which photograph a tile comes from; tiles to learn from and tiles to predict come from
different halves. ``python plot_quickstart.py --images FOLDER`` takes photographs of
your own, in one folder per class.

A pretrained network is no cure-all. Of spoken digits, shown as spectrograms, raw pixels
tell more: .806 against .561 with ten labels a class, .903 against .770 with all labels.
Such pictures are aligned, and not like photographs.
"""

import argparse
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import skimage
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.model_selection import StratifiedKFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sktransfer import FeatureExtractorTransformer, TransferClassifier
from sktransfer.datasets import load_image_folder

# %%
# The images
# ----------
# X is an array of images or a column of paths; the estimators do not mind which.

PHOTOGRAPHS = [
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "rocket.jpg",
]
TILE = 64  # px


def load_faces():
    """200 grey pictures of 25x25 pixels, half of them faces; five folds."""
    X = skimage.data.lfw_subset()
    y = np.repeat(["face", "no face"], 100)
    return X, y, list(StratifiedKFold(5, shuffle=True, random_state=0).split(X, y))


def load_tiles():
    """Grey tiles of 13 photographs; two folds, the left and the right halves."""
    tiles, labels, halves = [], [], []
    for name in PHOTOGRAPHS:
        image = Image.open(Path(skimage.data.__file__).with_name(name)).convert("L")
        pixels = np.asarray(image)
        middle = pixels.shape[1] // 2
        for half, part in enumerate((pixels[:, :middle], pixels[:, middle:])):
            for top in range(0, part.shape[0] - TILE + 1, TILE):
                for left in range(0, part.shape[1] - TILE + 1, TILE):
                    tiles.append(part[top : top + TILE, left : left + TILE])
                    labels.append(name.split(".")[0].split("_")[0])
                    halves.append(half)
    halves = np.array(halves)
    left, right = np.flatnonzero(halves == 0), np.flatnonzero(halves == 1)
    return np.stack(tiles), np.array(labels), [(left, right), (right, left)]


def load_folder(path):
    """Images of a folder of class folders; five folds."""
    photos = load_image_folder(path)
    X, y = photos.data, photos.target
    return X, y, list(StratifiedKFold(5, shuffle=True, random_state=0).split(X, y))


# %%
# The three ways
# --------------


def raw_pixels(X):
    """Bring images to 32x32 grey pixels and flatten them."""
    if isinstance(X, np.ndarray):
        images = map(Image.fromarray, X)
    else:
        images = (Image.open(path).convert("L") for path in X["image"])
    return np.stack([np.asarray(image.resize((32, 32))).ravel() for image in images])


def make_ways():
    """Name and estimator of each way."""
    regression = LogisticRegression(C=0.01, max_iter=2000)
    return {
        "raw pixels + logistic regression": make_pipeline(
            FunctionTransformer(raw_pixels), StandardScaler(), regression
        ),
        "frozen network + logistic regression": make_pipeline(
            FeatureExtractorTransformer(), StandardScaler(), regression
        ),
        "TransferClassifier": TransferClassifier(),
    }


def keep_labels(folds, y, per_class):
    """Leave at most `per_class` training rows of each class in every fold."""
    rng = np.random.default_rng(0)
    kept = []
    for train, test in folds:
        train = rng.permutation(train)
        rows = [train[y[train] == label][:per_class] for label in np.unique(y)]
        kept.append((np.concatenate(rows), test))
    return kept


def compare(name, X, y, folds):
    """Print accuracy and seconds of the three ways, with few labels and with all."""
    print(f"\n{name}: {len(y)} images, {len(np.unique(y))} classes")
    print(f"{'':38}{'labels a class':>16}{'accuracy':>16}{'seconds':>9}")
    for labels, part in (("10", keep_labels(folds, y, 10)), ("all", folds)):
        for way, estimator in make_ways().items():
            start = time.perf_counter()
            scores = cross_val_score(estimator, X, y, cv=part)
            seconds = time.perf_counter() - start
            accuracy = f"{scores.mean():.3f} ± {scores.std():.3f}"
            print(f"{way:38}{labels:>16}{accuracy:>16}{seconds:9.1f}")
    print(
        "The network sees each image once: later lines find its features in the cache."
    )


# %%
# A picture of the predictions
# ----------------------------


def draw(X, y, folds, path):
    """Draw the confusion matrix and some images with their predictions."""
    predicted = cross_val_predict(TransferClassifier(), X, y, cv=folds)
    wrong, right = np.flatnonzero(predicted != y), np.flatnonzero(predicted == y)
    rng = np.random.default_rng(0)
    shown = [*rng.permutation(wrong)[:4], *rng.permutation(right)[:8]][:8]
    figure = plt.figure(figsize=(13, 6), layout="constrained")
    left, others = figure.subfigures(1, 2, width_ratios=[1, 1])
    ConfusionMatrixDisplay.from_predictions(
        y, predicted, ax=left.subplots(), xticks_rotation="vertical", colorbar=False
    )
    for ax, row in zip(others.subplots(2, 4).flat, shown, strict=False):
        image = X[row] if isinstance(X, np.ndarray) else Image.open(X["image"][row])
        ax.imshow(image, cmap="gray")
        color = "black" if predicted[row] == y[row] else "crimson"
        ax.set_title(f"{predicted[row]}\n(is {y[row]})", fontsize=9, color=color)
    for ax in others.axes:
        ax.set_axis_off()
    figure.savefig(path, dpi=80)
    print(f"\nConfusion matrix and predictions: {path}")


# %%
# All together
# ------------


def main():
    """Run the comparison on the folder given, or on scikit-image's photographs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--images", help="a folder with one folder of images per class")
    parser.add_argument("--picture", default="quickstart.png", help="file to write")
    # sphinx-gallery runs this file with arguments of its own.
    options, _ = parser.parse_known_args()
    if options.images:
        sets = {options.images: load_folder(options.images)}
    else:
        sets = {"Face or not": load_faces(), "Tiles of photographs": load_tiles()}
    for name, (X, y, folds) in sets.items():
        compare(name, X, y, folds)
    draw(X, y, folds, options.picture)


if __name__ == "__main__":
    main()
