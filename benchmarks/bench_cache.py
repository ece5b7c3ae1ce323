"""How many passes through the network does a search cost, and what else is saved?

1. GridSearchCV with 5 folds and 4 candidates, in passes of all images through the
   network. Time is divided by that of one pass; for workers it is multiplied by their
   number, and the pass has as many threads as each of them. Rows are counted by the
   cache. Workers are started, and have imported everything, before the clock starts.
2. Ten epochs of FineTuning behind a cut, with the cache and without room for anything.
3. Peak memory of features from paths with ``cache=None``, for few and for many paths:
   what the longer input takes more, beside its longer output.
4. Rows a second that go into a file and come out of it, beside memory.

Images are JPEG files of smooth noise, or with ``--arrays`` arrays, whose pixels have to
be hashed each time they are asked about. Weights are random, which changes no speed.
Times are medians of alternating runs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _timing import alternate, machine, print_table
from joblib import Parallel, delayed
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from sktransfer import (
    FeatureCache,
    FeatureExtraction,
    FeatureExtractorTransformer,
    FineTuning,
    TransferClassifier,
)
from sktransfer._cache.database import Database
from sktransfer._cache.file import DEFAULT_MAX_BYTES, FileStore
from sktransfer._cache.memory import DEFAULT_MAX_BYTES as MEMORY_BYTES
from sktransfer._cache.memory import SHARED, MemoryStore

FOLDS, CANDIDATES, WORKERS, EPOCHS = 5, [1e-4, 1e-3, 1e-2, 1e-1], 2, 10
MEMORY_SCRIPT = """
import re, sys
from pathlib import Path
from sktransfer import FeatureExtractorTransformer

n, *paths = int(sys.argv[1]), *sys.stdin.read().split("\\n")
X = (paths * (n // len(paths) + 1))[:n]
features = FeatureExtractorTransformer(cache=None).fit_transform(X)
# Not ru_maxrss, which a process inherits from the one that started it.
peak = re.search("VmHWM: *\\t* *([0-9]+) kB", Path("/proc/self/status").read_text())
print(int(peak[1]) * 1024, features.nbytes)
"""


def images(n, size, folder=None):
    """Images as arrays, or as files in a folder, and labels of four classes."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
    made = [Image.fromarray(pixels).resize((size, size)) for pixels in small]
    if folder is None:
        return np.stack(made), np.arange(n) % 4
    paths = [str(Path(folder, f"{i}.jpg")) for i in range(n)]
    for image, path in zip(made, paths, strict=True):
        image.save(path, quality=90)
    return paths, np.arange(n) % 4


class Search:
    """The searches that are compared, all on the same images."""

    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        where = None if args.arrays else folder
        self.X, self.y = images(args.images, args.size, where)
        self.shares = {}

    def transformer(self, cache):
        return FeatureExtractorTransformer(
            self.args.backbone, weights=None, image_size=self.args.size, cache=cache
        )

    def one_pass(self):
        self.transformer(None).fit_transform(self.X)

    def one_pass_of_a_worker(self):
        with torch_threads(max(1, cores() // WORKERS)):
            self.one_pass()

    def pipeline(self, cache, memory=None, n_jobs=None):
        head = LogisticRegression(max_iter=1000)
        steps = [("embed", self.transformer(cache)), ("head", head)]
        pipe = Pipeline(steps, memory=memory)
        search = GridSearchCV(pipe, {"head__C": CANDIDATES}, cv=FOLDS, n_jobs=n_jobs)
        search.fit(self.X, self.y)

    def cached(self):
        SHARED.clear()
        self.pipeline("auto")
        self.shares["cached"] = SHARED.info().misses / len(self.X)

    def classifier_after_it(self):
        before = SHARED.info().misses
        estimator = TransferClassifier(
            self.args.backbone,
            weights=None,
            strategy=FeatureExtraction(),
            image_size=self.args.size,
        )
        grid = {"strategy__C": CANDIDATES}
        GridSearchCV(estimator, grid, cv=FOLDS).fit(self.X, self.y)
        more = SHARED.info().misses - before
        self.shares["classifier_after_it"] = more / len(self.X)

    def workers(self):
        with FeatureCache(Path(self.folder, "features.sqlite")) as cache:
            cache.clear()
            self.pipeline(cache, n_jobs=WORKERS)
            self.shares["workers"] = cache.info().misses / len(self.X)

    def with_memory(self):
        with tempfile.TemporaryDirectory() as folder:
            self.pipeline(None, memory=folder)

    def uncached(self):
        self.pipeline(None)

    def heads(self):
        """What the search costs on features that are there already."""
        features = self.transformer("auto").fit_transform(self.X)
        head = LogisticRegression(max_iter=1000)
        GridSearchCV(head, {"C": CANDIDATES}, cv=FOLDS).fit(features, self.y)


def cores():
    return len(os.sched_getaffinity(0))


@contextmanager
def torch_threads(n):
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    yield
    torch.set_num_threads(before)


def searches(args):
    with tempfile.TemporaryDirectory() as folder:
        search = Search(args, folder)
        start_up = search.transformer(None)
        Parallel(n_jobs=WORKERS)(
            delayed(start_up.fit_transform)(search.X[:2]) for _ in range(2 * WORKERS)
        )
        rows = {
            "Pipeline(embed, LogisticRegression)": ("cached", 1, "<= 1.15"),
            "TransferClassifier after it": ("classifier_after_it", 1, "<= 0.3"),
            f"Pipeline, n_jobs={WORKERS}, file": ("workers", WORKERS, "<= 1.5"),
            "LogisticRegression on known features": ("heads", 1, ""),
            "Pipeline(memory=...)": ("with_memory", 1, "9"),
            "Pipeline, uncached": ("uncached", 1, "21"),
        }
        names = ["one_pass", "one_pass_of_a_worker", *(row[0] for row in rows.values())]
        seconds = alternate(
            {name: getattr(search, name) for name in names}, args.repeats
        )
    table = []
    for title, (name, workers, expected) in rows.items():
        pass_ = seconds["one_pass" if workers == 1 else "one_pass_of_a_worker"]
        share = search.shares.get(name)
        share = "" if share is None else f"{share:.2f}"
        passes = seconds[name] * workers / pass_
        table.append([title, f"{seconds[name]:.2f}", f"{passes:.2f}", expected, share])
    print(
        f"\n{FOLDS} folds x {len(CANDIDATES)} candidates, {args.backbone}, "
        f"{args.images} images at {args.size} px; one pass takes "
        f"{seconds['one_pass']:.2f} s\n"
    )
    print_table(["search", "seconds", "passes", "expected", "rows computed"], table)


def fine_tuning(args):
    X, y = images(args.images, args.size)

    def fit(room):
        SHARED.clear()
        SHARED.max_bytes = room
        TransferClassifier(
            args.backbone,
            weights=None,
            strategy=FineTuning(unfreeze=args.unfreeze),
            image_size=args.size,
            max_epochs=args.epochs,
            random_state=0,
        ).fit(X, y)
        SHARED.max_bytes = MEMORY_BYTES

    seconds = alternate(
        {"cached": lambda: fit(MEMORY_BYTES), "uncached": lambda: fit(0)}, args.repeats
    )
    print(f"\n{args.epochs} epochs of FineTuning({args.unfreeze!r}), {args.backbone}\n")
    rows = [
        [name, f"{s:.2f}", f"{seconds['uncached'] / s:.2f}"]
        for name, s in seconds.items()
    ]
    print_table(["cache", "seconds", "times as fast"], rows)


def memory(args):
    with tempfile.TemporaryDirectory() as folder:
        paths, _ = images(50, 160, folder)
        found = []
        for n in args.paths:
            done = subprocess.run(
                [sys.executable, "-c", MEMORY_SCRIPT, str(n)],
                input="\n".join(paths),
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            found.append([int(word) / 2**20 for word in done.stdout.split()])
    print("\nPeak memory of features from paths, cache=None, mini\n")
    rows = [
        [n, f"{peak:.0f}", f"{output:.1f}"]
        for n, (peak, output) in zip(args.paths, found, strict=True)
    ]
    print_table(["paths", "peak, MB", "output, MB"], rows)
    (low, small), (high, large) = found[0], found[-1]
    print(f"\nMore, beside the output: {high - low - (large - small):.0f} MB (<= 50)")


def stores(args):
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n_bytes in (2048, 200_704):
            n = max(64, min(args.rows, 2**27 // n_bytes))
            keys = [i.to_bytes(20, "big") for i in range(n)]
            value = np.random.default_rng(0).random(n_bytes // 4, dtype=np.float32)
            database = Database(str(Path(folder, f"{n_bytes}.sqlite")))
            for name, store in {
                "memory": MemoryStore(),
                "file": FileStore(database, DEFAULT_MAX_BYTES),
            }.items():
                both = {
                    "write": partial(write, store, keys, value),
                    "read": partial(read, store, keys),
                }
                seconds = alternate(both, args.repeats)
                rates = [f"{n / s:,.0f}" for s in seconds.values()]
                rows.append([name, f"{n_bytes / 1024:.0f} kB", *rates])
            database.close()
    print("\nRows a second, claimed and written 32, and read 16, at a time\n")
    print_table(["store", "row", "written", "read"], rows)


def write(store, keys, value):
    store.clear()
    begun = store.new_pass()
    for start in range(0, len(keys), 32):
        some = keys[start : start + 32]
        begun.claim(some)
        begun.put([(key, value) for key in some])
    begun.end()


def read(store, keys):
    begun = store.new_pass()
    for start in range(0, len(keys), 16):
        begun.get(keys[start : start + 16])
    begun.end()


def main(args):
    print(f"{machine()}; medians of {args.repeats} alternating runs")
    for part in (searches, fine_tuning, memory, stores):
        if part.__name__ in args.parts:
            part(args)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--unfreeze", default="layer4")
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--arrays", action="store_true")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--paths", type=int, nargs=2, default=[2000, 20_000])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument(
        "--parts", nargs="+", default=["searches", "fine_tuning", "memory", "stores"]
    )
    main(parser.parse_args())
