"""Do pictures help a table, and how should they be handed on? 5 folds, mean and spread.

Sets of development: houses (four photographs and numbers -> price; R2 of its logarithm,
and MAPE), leaf (silhouette and 192 numbers -> species, from 3 images each; accuracy),
flags (flag and a mixed table with gaps -> region; balanced accuracy).

Rows: what the model sees, and which model it is, linear or gradient boosting. *frozen*:
embeddings of the pretrained network. *tuned*: what a network tuned with y hands on,
scores or numbers of its head (*head*) or embeddings, cross-fitted; and what that brings
against leaving it away: embeddings of the folds' networks as they are (*no map*), and
features of the training rows by the network that was tuned on them (*naive*). At the
end estimators that see the whole table: the exact head, and training end to end.

Networks are tuned once for all rows of the table that want them. Each measured fit is
added to the file of ``--results``; what stands there already is not measured again.
"""

import argparse
import time
from functools import partial
from pathlib import Path
from unittest.mock import patch

import joblib
import numpy as np
import pandas as pd
from _sets import DATA
from _timing import print_table
from bench_strategies import Results
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    mean_absolute_percentage_error,
    r2_score,
)
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sktransfer import (
    FeatureExtraction,
    FeatureExtractorTransformer,
    FineTuning,
    TransferClassifier,
    TransferRegressor,
)
from sktransfer.datasets import load_image_table

PHOTOS = ["frontal", "bedroom", "bathroom", "kitchen"]


class Rows:
    """A table with images; its training parts are used as the folds give them."""

    def train_rows(self, rows, seed):  # noqa: ARG002 (a set may draw some)
        return rows


class Houses(Rows):
    """Four photographs and a table -> price."""

    images, regression, inner = PHOTOS, True, 5
    metrics = ("R2 of log price", "MAPE")

    def __init__(self):
        table = load_image_table(DATA / "houses" / "houses.csv", PHOTOS)
        table["zipcode"] = table["zipcode"].astype(str)
        self.y = np.log(table.pop("price_usd").to_numpy(dtype=float))
        self.X = table.drop(columns="house_id")

    def scores(self, y, predicted):
        mape = mean_absolute_percentage_error(np.exp(y), np.exp(predicted))
        return r2_score(y, predicted), mape


class Flags(Rows):
    """A flag and a table with gaps -> one of five regions."""

    images, regression, inner = ["image"], False, 5
    metrics = ("balanced accuracy",)

    def __init__(self):
        table = load_image_table(DATA / "flags" / "flags.csv", "image")
        self.y = table["region"].to_numpy(dtype=str)
        # Part of the name, of the answer, and of another split.
        self.X = table.drop(columns=["country", "region", "subregion", "split"])

    def scores(self, y, predicted):
        return (balanced_accuracy_score(y, predicted),)


class Leaf(Rows):
    """A silhouette and 192 numbers -> one of 99 species, from 3 images each."""

    images, regression, inner = ["image"], False, 3
    metrics = ("accuracy",)

    def __init__(self):
        table = load_image_table(DATA / "leaf" / "leaf.csv", "image")
        self.y = table["species"].to_numpy(dtype=str)
        self.X = table.drop(columns=["species", "genus", "split"])

    def scores(self, y, predicted):
        return (accuracy_score(y, predicted),)

    def train_rows(self, rows, seed):
        rng, labels = np.random.default_rng(seed), self.y[rows]
        few = [rng.permutation(rows[labels == label])[:3] for label in set(labels)]
        return np.sort(np.concatenate(few))


SETS = {"houses": Houses, "leaf": Leaf, "flags": Flags}


class TunedOnce:
    """Mixin: a fit on rows and parameters that were seen before is not done again."""

    known = {}

    def _fit(self, X, y, *args):
        params = self.get_params()
        key = joblib.hash((type(self).__name__, params, X, y, args))
        if key not in self.known:
            super()._fit(X, y, *args)
            self.known[key] = dict(vars(self))
        vars(self).update(self.known[key])
        return self


class Classifier(TunedOnce, TransferClassifier):
    pass


class Regressor(TunedOnce, TransferRegressor):
    pass


class Naive(FeatureExtractorTransformer):
    """Features of the training rows by the network that was tuned on them."""

    def fit_transform(self, X, y=None):
        return self.fit(X, y).transform(X)


class WithoutMap(FeatureExtractorTransformer):
    """Embeddings of the folds' networks as they are."""

    def fit_transform(self, X, y=None):
        with patch("sktransfer._cross_fitting.RigidMap") as rigid_map:
            rigid_map.between.return_value = lambda features: features
            return super().fit_transform(X, y)


class Bench:
    """The rows of the table for one set.

    Parameters
    ----------
    data : Houses, Flags or Leaf
        The set.
    args : Namespace
        Options of the command line.
    """

    def __init__(self, data, args):
        self.data, self.args = data, args
        self.network = {"backbone": args.backbone, "image_size": args.size}
        if args.weights is not None:
            self.network["weights"] = args.weights

    def rows(self):
        """Names of the rows, and functions that make their estimators."""
        found = {}
        for name, blocks in self.blocks().items():
            for model in self.args.models:
                found[f"{name}, {model}"] = partial(self.pipeline, blocks, model)
        whole = {
            "images, exact head": (FeatureExtraction(), "drop"),
            "frozen + table, exact head": (FeatureExtraction(), "table"),
            "images, fine-tuned": (self.strategy(), "drop"),
            "fusion, fine-tuned end to end": (self.strategy(), "table"),
        }
        for name, (strategy, tabular) in whole.items():
            found[name] = partial(self.estimator, strategy, tabular)
        return found

    def blocks(self):
        """For each row the transformer of images, if any, and if it has a table."""
        tuned = {"strategy": self.tuner(), "cv": self.data.inner, "random_state": 0}
        own = {"random_state": 0, **self.network}
        head = FeatureExtractorTransformer(**tuned)
        embedding = FeatureExtractorTransformer(output="embedding", **tuned)
        without = WithoutMap(output="embedding", **tuned)
        return {
            "table": (None, True),
            "frozen": (FeatureExtractorTransformer(**own), False),
            "frozen + table": (FeatureExtractorTransformer(**own), True),
            "tuned head": (head, False),
            "tuned head + table": (head, True),
            "tuned head, naive + table": (Naive(**tuned), True),
            "tuned embedding + table": (embedding, True),
            "tuned embedding, no map + table": (without, True),
            "tuned embedding, naive + table": (
                Naive(output="embedding", **tuned),
                True,
            ),
        }

    def strategy(self):
        unfreeze = self.args.unfreeze
        return FineTuning(int(unfreeze) if unfreeze.isdecimal() else unfreeze)

    def tuner(self):
        tuner = Regressor if self.data.regression else Classifier
        return tuner(**self.training(self.strategy()))

    def training(self, strategy):
        return {
            **self.network,
            "strategy": strategy,
            "max_epochs": self.args.epochs,
            "random_state": 0,
        }

    def table(self):
        """The same preparation of the table for all rows."""
        numbers = make_pipeline(SimpleImputer(), StandardScaler())
        words = make_pipeline(
            SimpleImputer(strategy="most_frequent"),
            OneHotEncoder(
                handle_unknown="infrequent_if_exist",
                min_frequency=5,
                sparse_output=False,
            ),
        )
        is_number = make_column_selector(dtype_include="number")
        others = make_column_selector(dtype_exclude="number")
        return ColumnTransformer([("n", numbers, is_number), ("w", words, others)])

    def pipeline(self, blocks, model):
        images, with_table = blocks
        parts = []
        if images is not None:
            scaled = make_pipeline(images, StandardScaler())
            parts = [(column, scaled, column) for column in self.data.images]
        if with_table:
            columns = [c for c in self.data.X.columns if c not in self.data.images]
            parts.append(("table", self.table(), columns))
        models = {"linear": self.linear, "boosting": self.boosting}
        return make_pipeline(ColumnTransformer(parts), models[model]())

    def linear(self):
        if self.data.regression:
            return RidgeCV(np.logspace(-1, 5, 13))
        strengths = {"C": [0.001, 0.01, 0.1, 1.0]}
        return GridSearchCV(LogisticRegression(max_iter=2000), strengths, cv=3)

    def boosting(self):
        regression = self.data.regression
        if regression:
            return HistGradientBoostingRegressor(random_state=0)
        few = self.data.inner  # images a class, where they are that few
        leaf = 20 if few > 3 else few
        return HistGradientBoostingClassifier(random_state=0, min_samples_leaf=leaf)

    def estimator(self, strategy, tabular):
        estimator = TransferRegressor if self.data.regression else TransferClassifier
        return estimator(
            **self.training(strategy),
            image_columns=self.data.images,
            tabular=self.table() if tabular == "table" else tabular,
        )

    def splits(self):
        """Training and test rows of each fold."""
        kind = KFold if self.data.regression else StratifiedKFold
        splitter = kind(self.args.folds, shuffle=True, random_state=0)
        rows = np.arange(len(self.data.y))
        if self.args.rows:
            rows = np.random.default_rng(0).permutation(rows)[: self.args.rows]
        for k, (train, test) in enumerate(splitter.split(rows, self.data.y[rows])):
            yield self.data.train_rows(rows[train], k), rows[test]

    def measure(self, make, train, test):
        """Scores on the test rows, and seconds of the fit."""
        X, y = self.data.X, self.data.y
        start = time.perf_counter()
        model = make().fit(X.iloc[train], y[train])
        seconds = time.perf_counter() - start
        return self.data.scores(y[test], model.predict(X.iloc[test])), seconds


def main(args):
    results = Results(args.results)
    for name in args.sets:
        bench = Bench(SETS[name](), args)
        rows = bench.rows()
        if args.only:
            rows = {k: v for k, v in rows.items() if any(p in k for p in args.only)}
        setting = f"{args.backbone} {args.size} {args.epochs} {args.unfreeze}"
        found = {label: [] for label in rows}
        for k, (train, test) in enumerate(bench.splits()):
            TunedOnce.known.clear()
            for label, make in rows.items():
                key = (setting, name, f"{args.folds} folds", f"{args.rows} rows", label)
                measure = partial(bench.measure, make, train, test)
                fit = results.get((*key, k), measure)
                found[label].append(fit)
                print(f"{name} fold {k} | {label}: {fit}", flush=True)
        print(f"\n{name}: {type(bench.data).__doc__}\n")
        table = [[label, *cells(fits)] for label, fits in found.items()]
        print_table(["model", *bench.data.metrics, "seconds"], table)


def cells(fits):
    """Mean and spread of each score, and the median of the seconds."""
    scores, seconds = zip(*fits, strict=True)
    scores = pd.DataFrame(scores)
    spread = scores.std(ddof=0)
    pairs = zip(scores.mean(), spread, strict=True)
    return [*(f"{m:.3f} ± {s:.3f}" for m, s in pairs), f"{np.median(seconds):.0f}"]


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="mini")
    parser.add_argument("--weights", help="a file; the default are the network's own")
    parser.add_argument("--size", type=int, help="image size, px")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--unfreeze", default="all", help="of FineTuning")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--rows", type=int, help="a random part of the set, for trials")
    parser.add_argument("--results", type=Path, help="file of measured fits")
    models = ["linear", "boosting"]
    parser.add_argument("--models", nargs="+", choices=models, default=models)
    parser.add_argument(
        "--only", nargs="+", help="rows whose names contain one of these"
    )
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    return parser.parse_args()


if __name__ == "__main__":
    main(parse_args())
