"""The development sets, each as images, labels and its own split."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.io import wavfile
from scipy.signal import spectrogram
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold, train_test_split

from sktransfer.datasets import load_image_folder, load_image_table

DATA = Path(__file__).parents[2] / "shared" / "data"
# Decibels below a recording's loudest point that are still shown.
_DYNAMIC_RANGE = 60.0


@dataclass(frozen=True)
class DevelopmentSet:
    """Images with labels; `few` is how many labels a class the small run has."""

    X_train: object
    y_train: np.ndarray
    X_test: object
    y_test: np.ndarray
    few: int = 10

    @cached_property
    def X(self):
        """All images, those to test last."""
        parts = self.X_train, self.X_test
        is_frame = isinstance(self.X_train, pd.DataFrame)
        return pd.concat(parts) if is_frame else np.concatenate(parts)

    @cached_property
    def y(self):
        """All labels."""
        return np.concatenate([self.y_train, self.y_test])

    @property
    def own_split(self):
        """Rows of X to train with, and those to test."""
        return np.split(np.arange(len(self.y)), [len(self.y_train)])

    def folds(self, seed):
        """Five pairs of such rows, which test each image once."""
        splitter = StratifiedKFold(5, shuffle=True, random_state=seed)
        return list(splitter.split(self.y, self.y))

    def subset(self, seed):
        """Rows of `few` training images a class, or all of a class that has fewer."""
        rng = np.random.default_rng(seed)
        rows = [
            rng.permutation(np.flatnonzero(self.y_train == label))[: self.few]
            for label in np.unique(self.y_train)
        ]
        return np.sort(np.concatenate(rows))


def take(X, rows):
    """Rows of any kind of X."""
    return X.iloc[rows] if isinstance(X, pd.DataFrame) else X[rows]


def _from_folders(name, test):
    train, test = (load_image_folder(DATA / name / part) for part in ("train", test))
    return DevelopmentSet(train.data, train.target, test.data, test.target)


def _from_table(name, target, few=10):
    table = load_image_table(DATA / name / f"{name}.csv", "image")
    train, test = (table[table["split"] == part] for part in ("train", "test"))
    return DevelopmentSet(
        train[["image"]],
        train[target].to_numpy(dtype=str),
        test[["image"]],
        test[target].to_numpy(dtype=str),
        few,
    )


def _spectrogram_image(path):
    """Loudness of a recording as a grey picture: time to the right, pitch upwards."""
    rate, sound = wavfile.read(path)
    power = spectrogram(sound.astype(float), rate, nperseg=256, noverlap=224)[2]
    decibel = 10 * np.log10(power + 1e-12)
    scaled = (decibel - decibel.max()) / _DYNAMIC_RANGE + 1
    return (255 * scaled.clip(0, 1)[::-1]).astype(np.uint8)


def _spoken_digits():
    table = pd.read_csv(DATA / "fsdd" / "fsdd.csv")
    paths = [DATA / "fsdd" / name for name in table["file"]]
    images = np.empty(len(paths), dtype=object)
    images[:] = [_spectrogram_image(path) for path in paths]
    # The set's own rule: takes 0 to 4 are for testing.
    labels, test = table["digit"].to_numpy(), table["take"].to_numpy() < 5
    return DevelopmentSet(images[~test], labels[~test], images[test], labels[test])


def _written_digits():
    digits = load_digits()
    X_train, X_test, y_train, y_test = train_test_split(
        digits.images / 16,
        digits.target,
        test_size=0.5,
        stratify=digits.target,
        random_state=0,
    )
    return DevelopmentSet(X_train, y_train, X_test, y_test)


SETS = {
    "ants_bees": lambda: _from_folders("ants_bees", "val"),
    "objects10": lambda: _from_folders("objects10", "test"),
    "cifar10": lambda: _from_folders("cifar10", "test"),
    "leaf": lambda: _from_table("leaf", "species", few=3),
    "flags": lambda: _from_table("flags", "region"),
    "fsdd": _spoken_digits,
    "digits": _written_digits,
}
