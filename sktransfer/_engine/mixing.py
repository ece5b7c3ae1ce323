"""WiSE-FT: a fit ends on the straight line from the probe to the trained weights.

Networks that were tuned from the same weights at usual rates can be mixed: on the line
between them the loss is no higher than at its ends (Neyshabur, Sedghi and Zhang, "What
is being transferred in transfer learning?", NeurIPS 2020). At rates that are too high
it is, so some training rows judge the weights between before they are taken.
"""

from dataclasses import dataclass, replace

import numpy as np

# Training rows, at most, that judge the weights between.
_ROWS = 512


@dataclass
class Mixing:
    """Where one fit ends.

    Parameters
    ----------
    net : TransferNet
        The net that is trained.
    coefficient : float
        How far from the probe towards the trained weights; 1 is all the way.
    probe : dict or None, default=None
        Snapshot of the module as the probe left it; None where there was no probe.
    """

    net: object
    coefficient: float
    probe: dict | None = None

    def keep_probe(self):
        """Keep the weights of now as those of the probe."""
        if self.coefficient < 1:
            self.probe = self.net.module_.snapshot()

    def move(self):
        """Go from the trained weights back to those between."""
        self.net.module_.restore(self.probe, 1 - self.coefficient)
        # Statistics of the network between need not lie between those at its ends.
        self.net.settle_statistics()

    def move_if_no_worse(self, rows):
        """Go back, unless the loss between is above that at both ends.

        Parameters
        ----------
        rows : Rows
            Training rows that are the same in each pass.

        Returns
        -------
        str
            Empty, or why the weights are the trained ones still.
        """
        module, rows = self.net.module_, _some(rows)
        trained = module.snapshot()
        self.move()
        between, loss = module.snapshot(), self.net.mean_loss(rows)
        module.restore(self.probe)
        at_probe = self.net.mean_loss(rows)
        module.restore(trained)
        if loss <= at_probe or loss <= (at_end := self.net.mean_loss(rows)):
            module.restore(between)
            return ""
        return (
            f"Parameter mixing: found {self.coefficient}, but there the loss on "
            f"training rows is {loss:.3g}, against {at_probe:.3g} for the probe and "
            f"{at_end:.3g} for what was trained, which was kept. The network has gone "
            "far from the one it started from. Lower `lr` or the strategy's "
            "`backbone_lr_ratio`, or pass mixing=1.0."
        )


def _some(dataset):
    n = len(dataset.rows)
    chosen = np.linspace(0, n - 1, min(n, _ROWS)).astype(int)
    return replace(dataset, rows=dataset.rows[chosen])
