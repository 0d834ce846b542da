"""Both accountants beside formulas that share nothing with them: `python -m benchmarks.epsilon`.

For `R` rounds in which every client takes part, each with noise of `z` sensitivities, the least delta of an epsilon is
known exactly: together they are one Gaussian mechanism with a mean of `mu = sqrt(R) / z` (Balle, Wang 2018, theorem 8;
Dong, Roth, Su 2022, corollary 3.3). A site's own noise has a sensitivity of two lengths, so `mu = 2 sqrt(R) / z`.

The second formula is Renyi's divergence of the sampled Gaussian mechanism, integrated over the real line as it is
defined, and turned into an epsilon at the best order (Balle, Barthe, Gaboardi, Hsu, Sato 2020, theorem 21). At a rate
of 1 it is what the job's accountant should say; at a lower rate it is what somebody would claim who counted that a
client is drawn into few rounds, which neither accountant does.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq, minimize_scalar  # type: ignore[import-untyped]
from scipy.special import log_ndtr, logsumexp  # type: ignore[import-untyped]

from fedgalore.maths.privacy import epsilon, epsilon_of_site

ROWS = [(0.7, 1, 1e-5), (1.0, 1, 1e-5), (1.0, 20, 1e-5), (1.5, 100, 1e-6), (4.0, 100, 1e-6), (20.0, 100, 1e-6)]
ROWS += [(20.0, 1000, 1e-8), (100.0, 1, 1e-5)]  # noise multiplier, rounds, delta
RATE = 0.1
POINTS = 20_001


def exact_delta(mean: float, epsilon: float) -> float:
    """Least delta of a Gaussian mechanism whose mean moves by so many standard deviations."""
    first, second = log_ndtr(mean / 2 - epsilon / mean), epsilon + log_ndtr(-mean / 2 - epsilon / mean)
    return float(math.exp(first) * -math.expm1(min(0.0, second - first)))


def exact_epsilon(mean: float, delta: float) -> float:
    """Least epsilon of it at this delta, by bisection."""
    highest = mean * (mean / 2 + 40)  # there the first term alone is below any delta
    if exact_delta(mean, 0.0) <= delta:
        return 0.0
    return float(brentq(lambda at: exact_delta(mean, at) - delta, 0.0, highest, xtol=1e-10))


def integrated_divergence(noise_multiplier: float, rate: float, order: float) -> float:
    """Renyi's divergence of order `order` of `(1 - q) N(0, z^2) + q N(1, z^2)` from `N(0, z^2)`.

    By the trapezoidal rule: the integrand falls like a normal density on both sides, where the rule converges faster
    than any power.
    """
    z = noise_multiplier
    x = np.linspace(-20 * z, order + 20 * z, POINTS)
    moved, stayed = math.log(rate) + (2 * x - 1) / (2 * z**2), -math.inf if rate == 1 else math.log1p(-rate)
    density = -(x**2) / (2 * z**2) - math.log(z * math.sqrt(2 * math.pi))
    integrand = order * np.logaddexp(moved, stayed) + density
    return float((logsumexp(integrand) + math.log(x[1] - x[0])) / (order - 1))


def integrated_epsilon(noise_multiplier: float, rounds: int, rate: float, delta: float) -> float:
    """What so many rounds cost by `integrated_divergence`, at the best of all orders up to 512."""

    def at(log_order: float) -> float:
        above = math.exp(log_order)
        order = 1 + above
        spent = rounds * integrated_divergence(noise_multiplier, rate, order)
        return spent + math.log(above / order) - (math.log(delta) + math.log(order)) / above

    best = minimize_scalar(at, bounds=(math.log(0.05), math.log(511)), method="bounded", options={"xatol": 1e-4})
    return float(best.fun)


def main() -> None:
    print(f"| z | rounds | delta | job | exact | integral | integral, one of {1 / RATE:.0f} | site | exact |")
    print("|---|---|---|---|---|---|---|---|---|")
    for z, rounds, delta in ROWS:
        mean = math.sqrt(rounds) / z
        numbers = [
            epsilon(z, rounds, delta),
            exact_epsilon(mean, delta),
            integrated_epsilon(z, rounds, 1.0, delta),
            integrated_epsilon(z, rounds, RATE, delta),
            epsilon_of_site([z] * rounds, delta),
            exact_epsilon(2 * mean, delta),
        ]
        print(f"| {z:g} | {rounds} | {delta:g} | " + " | ".join(f"{each:.3f}" for each in numbers) + " |")


if __name__ == "__main__":
    main()
