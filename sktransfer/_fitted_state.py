"""What a fit leaves on an estimator: all of it, nothing, or what was there before."""

from contextlib import contextmanager

from sktransfer._randomness import derived_seed, seed_of

_SPLIT, _GOES_ON = 3, 5
# What a fit may not change when it goes on from an earlier one.
_STRUCTURE = (
    "backbone",
    "weights",
    "image_size",
    "image_shape",
    "image_columns",
    "tabular",
    "modality_dropout",
    "resize",
    "head",
)
_OF_TRAINING = (
    "_net",
    "_history",
    "_n_epochs",
    "_split_seed",
    "history_",
    "n_iter_",
    "lr_",
    "weight_decay_",
    "gain_over_probe_",
)


class FittedState:
    """Mixin of estimators whose fits may fail half way, or go on from earlier ones."""

    def _forget_fit(self):
        """Leave nothing that looks fitted behind a fit that failed."""
        for name in list(vars(self)):
            if name.endswith("_") and not name.startswith("_"):
                delattr(self, name)
        self._forget_training()

    def _forget_training(self):
        for name in _OF_TRAINING:
            self.__dict__.pop(name, None)

    @contextmanager
    def _nothing_half_fitted(self, goes_on):
        """Leave an estimator whose fit failed unfitted, or as it was before."""
        before = dict(vars(self))
        try:
            yield
        except BaseException:
            if goes_on:
                if vars(self).get("_net") is not before.get("_net"):
                    before.pop("_net", None)  # taken out: it may be trained in part
                vars(self).clear()
                vars(self).update(before)
            else:
                self._forget_fit()
            raise

    def _structural_params(self):
        return {name: getattr(self, name) for name in _STRUCTURE}

    def _check_same_structure(self):
        for name, before in self._structure.items():
            now = getattr(self, name)
            if now is not before and repr(now) != repr(before):
                raise _other_structure(name, now, before)

    def _check_same_layer(self, strategy):
        now = {"layer": strategy.layer, "pooling": strategy.pooling}
        before = dict(zip(now, self._layer, strict=True))
        if now != before:
            raise _other_structure("strategy", now, before)

    def _seed_of_this_fit(self):
        """Seed of this call; a fit that goes on does not repeat the last one."""
        n_epochs = self.__dict__.get("_n_epochs", 0)
        seed = seed_of(self.random_state)
        return derived_seed(seed, _GOES_ON, n_epochs) if n_epochs else seed

    def _seed_of_split(self, seed):
        """Seed of early stopping's split: that of the first fit in fits that go on.

        With another one they would be judged on rows that they have learnt from. `seed`
        is that of this fit.
        """
        return vars(self).setdefault("_split_seed", derived_seed(seed, _SPLIT))


def _other_structure(name, now, before):
    return ValueError(
        f"Parameter {name}: found {now!r} in a fit that goes on from one with "
        f"{before!r}. Set it back, or fit a clone of this estimator."
    )
