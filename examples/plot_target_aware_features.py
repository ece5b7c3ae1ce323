"""
What a tuned network says about each picture, without a leak
============================================================

A table has a picture in one column and a number in another. A network tuned on the
pictures hands on what it says about each, one number, and a classical model puts both
together. But what a network says about the pictures it was tuned on is not what it says
about new ones: it has seen their labels. The next model would trust it too much.

``FeatureExtractorTransformer(strategy=...)`` is therefore cross-fitted:
``fit_transform`` gives each row the output of a network that has not seen that row's
label, and ``transform`` uses the network that was tuned on all rows.

The pictures are scikit-learn's handwritten digits. A row is positive if its digit, the
number beside it, and some noise add up to more than nine: neither the picture nor the
number is enough.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import (
    FeatureExtraction,
    FeatureExtractorTransformer,
    FineTuning,
    TransferClassifier,
)

# %%
# The table
# ---------

digits = load_digits()
rng = np.random.default_rng(0)
numbers = rng.uniform(0, 10, len(digits.target))
noise = rng.normal(scale=3, size=len(numbers))
labels = np.where(digits.target + numbers + noise > 9, "more", "less")
pictures = pd.Series(list((digits.images * 15).astype(np.uint8)))
table = pd.DataFrame({"picture": pictures, "number": numbers})

train, new = slice(0, 240), slice(240, 900)
table_train, y_train = table.iloc[train], labels[train]
table_new, y_new = table.iloc[new], labels[new]

# %%
# One call, three sets of features
# --------------------------------
# After ``fit_transform`` the transformer holds the network that was tuned on all rows.
# Its ``transform`` of the same rows is what naive code would hand on.

tuner = TransferClassifier(
    strategy=FineTuning(unfreeze=1), max_epochs=6, image_size=48, random_state=0
)
tuned = FeatureExtractorTransformer(strategy=tuner, cv=4, random_state=0)
cross_fitted = tuned.fit_transform(table_train["picture"], y_train)
naive = tuned.transform(table_train["picture"])
of_new_rows = tuned.transform(table_new["picture"])

# %%
# The naive features tell the training rows' classes apart far better than the network
# can tell those of new rows. The cross-fitted ones look as new rows will.

figure, axes = plt.subplots(1, 4, figsize=(13, 3), layout="constrained")
shown = {
    "training rows, naive": (naive, y_train),
    "training rows, cross-fitted": (cross_fitted, y_train),
    "new rows": (of_new_rows, y_new),
}
bins = np.linspace(of_new_rows.min(), of_new_rows.max(), 25)
for axis, (title, (values, y)) in zip(axes, shown.items(), strict=False):
    for label in ("less", "more"):
        axis.hist(
            values[y == label, 0].clip(bins[0], bins[-1]),
            bins,
            alpha=0.6,
            label=label,
            density=True,
        )
    auc = roc_auc_score(y == "more", values[:, 0])
    axis.set(title=f"{title}\nAUC {auc:.2f}", xlabel="score of the network", yticks=[])
axes[0].legend()

# %%
# The next model
# --------------
# A logistic regression sees the number and what is handed on about the picture. Fitted
# on naive features it believes the picture and neglects the number. Frozen features,
# which learn nothing from the labels, need no cross-fitting, but here there are 576 of
# them, and 240 rows.

frozen = FeatureExtractorTransformer(image_size=48)
ways = {
    "number alone": (np.empty((240, 0)), np.empty((660, 0))),
    "frozen": (
        frozen.fit_transform(table_train["picture"]),
        frozen.transform(table_new["picture"]),
    ),
    "naive": (naive, of_new_rows),
    "cross-fitted": (cross_fitted, of_new_rows),
}
scores = []
for name, (of_train, of_new) in ways.items():
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    X_train = np.column_stack([table_train["number"], of_train])
    X_new = np.column_stack([table_new["number"], of_new])
    model.fit(X_train, y_train)
    scores.append(
        [
            roc_auc_score(y == "more", model.decision_function(X))
            for X, y in ((X_train, y_train), (X_new, y_new))
        ]
    )
    print(f"{name:14} AUC on its training rows {scores[-1][0]:.3f}, ", end="")
    print(f"on new rows {scores[-1][1]:.3f}")

places = np.arange(len(ways))
for shift, part, values in zip(
    (-0.2, 0.2), ("training rows", "new rows"), np.transpose(scores), strict=True
):
    axes[3].bar(places + shift, values, 0.4, label=part)
axes[3].set(title="The next model", ylabel="AUC", ylim=(0.5, 1))
axes[3].set_xticks(places, ways, rotation=20)
axes[3].legend(loc="upper right")
plt.show()

# %%
# As a step of a pipeline
# -----------------------
# ``Pipeline`` calls ``fit_transform`` in its fit and ``transform`` in predict: nothing
# has to be done by hand, and cross-validation is honest. ``"feature_extraction"`` tunes
# nothing but the head, in a second; what the head says can be all that the next model
# needs.

pipe = make_pipeline(
    ColumnTransformer(
        [
            (
                "picture",
                FeatureExtractorTransformer(
                    image_size=48, strategy="feature_extraction", random_state=0
                ),
                "picture",
            )
        ],
        remainder="passthrough",
    ),
    StandardScaler(),
    LogisticRegression(),
)
auc = cross_val_score(pipe, table_train, y_train, cv=5, scoring="roc_auc")
print(f"as a step: AUC {auc.mean():.3f} in cross-validation, ", end="")
on_new = pipe.fit(table_train, y_train).decision_function(table_new)
print(f"{roc_auc_score(y_new == 'more', on_new):.3f} on new rows")

# %%
# Labels that mean nothing
# ------------------------
# The extreme case: the labels are shuffled, so there is nothing to learn. A head that
# is hardly held back learns them by heart, and its naive feature convinces the next
# model that there was something.

shuffled = rng.permutation(y_train)
head = FeatureExtractorTransformer(
    image_size=48, strategy=FeatureExtraction(C=1.0), random_state=0
)
honest = head.fit_transform(table_train["picture"], shuffled)
leaking = head.transform(table_train["picture"])
for name, values in {"naive": leaking, "cross-fitted": honest}.items():
    next_model = LogisticRegression().fit(values, shuffled)
    found = roc_auc_score(shuffled == "more", next_model.decision_function(values))
    print(f"labels without meaning, {name:12}: AUC on the training rows {found:.3f}")
