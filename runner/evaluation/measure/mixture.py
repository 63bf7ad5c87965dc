"""How speech and the bed sound, band by band: a small Gaussian mixture for each, fitted to the call itself."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bots.levels import RATE_HZ, STEP, Samples

COMPONENTS = 4
ITERATIONS = 12
FEWEST = 60
MOST = 3000
_WINDOW = 256
_EDGES_HZ = (120, 250, 420, 680, 1050, 1600, 2400, 3500, 5000, 7600)
_FLOOR = 1e-9
_NARROWEST_DB2 = 4.0

Bands = NDArray[np.float64]


def band_levels(samples: Samples, steps: NDArray[np.int64]) -> Bands:
    """Return the level of nine bands, in dB, around the middle of each of the steps."""
    padded = np.pad(samples, _WINDOW)
    starts = steps * STEP + STEP // 2 - _WINDOW // 2 + _WINDOW
    windows = padded[np.clip(starts, 0, padded.size - _WINDOW)[:, None] + np.arange(_WINDOW)]
    power = np.square(np.abs(np.fft.rfft(windows * np.hanning(_WINDOW).astype(np.float32), axis=1)))
    bins = np.searchsorted(np.fft.rfftfreq(_WINDOW, 1 / RATE_HZ), _EDGES_HZ)
    bands = np.add.reduceat(power, bins, axis=1)[:, : len(_EDGES_HZ) - 1]
    return 10 * np.log10(bands.astype(np.float64) + _FLOOR)


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians with diagonal spreads."""

    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    variances: NDArray[np.float64]

    @classmethod
    def fitted(cls, data: Bands) -> "Mixture | None":
        """Fit it; None where there is too little to go by. The same data gives the same mixture."""
        if len(data) < FEWEST:
            return None
        data = data[:: -(-len(data) // MOST)]
        # From the quiet to the loud: a start that depends on nothing but the data.
        parts = np.array_split(np.argsort(data.mean(axis=1), kind="stable"), COMPONENTS)
        means = np.stack([data[part].mean(axis=0) for part in parts])
        variances = np.stack([data[part].var(axis=0) for part in parts]) + _NARROWEST_DB2
        weights = np.full(COMPONENTS, 1 / COMPONENTS)
        mixture = cls(weights, means, variances)
        for _ in range(ITERATIONS):
            joint = mixture._joint(data)
            share = np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))
            mass = share.sum(axis=0) + 1e-6
            means = share.T @ data / mass[:, None]
            variances = share.T @ np.square(data) / mass[:, None] - np.square(means)
            mixture = cls(mass / mass.sum(), means, np.maximum(variances, 0) + _NARROWEST_DB2)
        return mixture

    def log_likelihood(self, data: Bands) -> NDArray[np.float64]:
        """Return it for each row."""
        return np.logaddexp.reduce(self._joint(data), axis=1)

    def _joint(self, data: Bands) -> NDArray[np.float64]:
        precision = 1 / self.variances
        # Of (x - mean)^2 / variance, multiplied out, so that it takes two products of matrices.
        distance = np.square(data) @ precision.T - 2 * data @ (self.means * precision).T
        distance += (np.square(self.means) * precision).sum(axis=1)
        constant = np.log(self.weights) - 0.5 * np.log(2 * np.pi * self.variances).sum(axis=1)
        return constant - 0.5 * distance
