"""
Does the picture help?
======================

A table with a picture in one column: is the picture worth its cost, beside the other
columns? ``TransferRegressor`` takes the whole DataFrame, so scikit-learn's tools
answer: cross-validation with and without the column, and ``permutation_importance``, to
which a column of pictures is one feature like any other.

The data are made up but for the pictures, which are scikit-learn's handwritten digits:
parcels whose postage depends on how many items are in them, a number somebody wrote on
the label by hand, on the distance, and on the kind of wrapping.
"""

# %%
# The table
# ---------
# 400 parcels. The number on the label, 0 to 9, is only to be seen in the picture.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_digits
from sklearn.inspection import permutation_importance
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sktransfer import TransferRegressor

N = 400
rng = np.random.default_rng(0)
digits = load_digits()
wrapping = rng.choice(["paper", "wood", "foil"], N)
parcels = pd.DataFrame(
    {
        "label": [
            Image.fromarray((15 * d).astype(np.uint8)) for d in digits.images[:N]
        ],
        "distance": rng.uniform(0, 10, N),
        "wrapping": wrapping,
        "weekday": rng.choice(["Mon", "Tue", "Wed", "Thu", "Fri"], N),
    }
)
postage = (
    digits.target[:N]
    + parcels["distance"]
    + np.select([wrapping == "wood", wrapping == "foil"], [4, 2])
    + rng.normal(0, 1, N)
)
print(parcels.drop(columns="label").assign(postage=postage).head(3).round(1))

# %%
# With the picture and without
# ----------------------------
# What is no image is encoded by dtype: numbers standardized, categories one-hot. The
# network stays frozen, and ridge regression is solved on both together.

whole = TransferRegressor()
table = make_column_transformer(
    (StandardScaler(), ["distance"]),
    (OneHotEncoder(handle_unknown="ignore"), ["wrapping", "weekday"]),
)
candidates = {
    "pictures alone": TransferRegressor(tabular="drop"),
    "table alone": make_pipeline(table, Ridge()),
    "pictures and table": whole,
}
for name, model in candidates.items():
    scores = cross_val_score(model, parcels, postage, cv=5)
    print(f"{name:20} R2 {scores.mean():.2f} ± {scores.std():.2f}")

# %%
# How much each column is worth
# -----------------------------
# Shuffling a column on rows that were not learnt from shows how much the model lives on
# it: all pictures change their rows at once. Their features come from the cache, so 10
# repeats cost no pass through the network.

train, test, y_train, y_test = train_test_split(parcels, postage, random_state=0)
whole.fit(train, y_train)
found = permutation_importance(whole, test, y_test, n_repeats=10, random_state=0)
order = found.importances_mean.argsort()
for column in order[::-1]:
    mean, spread = found.importances_mean[column], found.importances_std[column]
    print(f"{parcels.columns[column]:10} {mean:.2f} ± {spread:.2f}")

figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
means, spreads = found.importances_mean[order], found.importances_std[order]
axes.barh(parcels.columns[order], means, xerr=spreads)
axes.axvline(0, color="grey", linewidth=0.5)
axes.set_xlabel("loss of R2 where the column is shuffled")
figure.savefig("does_the_picture_help.png", dpi=80)
print("Importances: does_the_picture_help.png")
