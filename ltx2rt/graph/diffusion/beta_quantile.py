"""Quantiles of the beta distribution, to float64 accuracy and with the standard library only."""

from __future__ import annotations

import math


def beta_quantile(probability: float, alpha: float, beta: float) -> float:
    """The x in [0, 1] below which a Beta(alpha, beta) variable falls with the given probability.

    Raises:
        ValueError: if the probability is outside [0, 1] or a parameter is not positive.
    """
    if not 0 <= probability <= 1 or alpha <= 0 or beta <= 0:
        raise ValueError(f"No beta quantile for probability {probability}, alpha {alpha}, beta {beta}.")
    if probability in (0.0, 1.0):
        return probability
    low, high = 0.0, 1.0
    # Bisection over a monotone function: 60 halvings leave less than one unit in the last place of 1.
    for _ in range(60):
        middle = (low + high) / 2
        if beta_distribution(middle, alpha, beta) < probability:
            low = middle
        else:
            high = middle
    return high


def beta_distribution(x: float, alpha: float, beta: float) -> float:
    """Regularised incomplete beta function: the probability that a Beta(alpha, beta) variable is at most x."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    # The continued fraction converges fast only below the mean; above it, use the symmetric complement.
    if x > (alpha + 1) / (alpha + beta + 2):
        return 1 - beta_distribution(1 - x, beta, alpha)
    log_front = alpha * math.log(x) + beta * math.log1p(-x) - math.log(alpha)
    log_front -= math.lgamma(alpha) + math.lgamma(beta) - math.lgamma(alpha + beta)
    return math.exp(log_front) / _continued_fraction(x, alpha, beta)


def _continued_fraction(x: float, alpha: float, beta: float) -> float:
    """1 + d1/(1 + d2/(1 + ...)) by Lentz's method, with d_n of the incomplete beta function."""
    tiny = 1e-300
    value, c, d = 1.0, 1.0, 0.0
    for n in range(1, 500):
        m = n // 2
        if n % 2:
            term = -(alpha + m) * (alpha + beta + m) * x / ((alpha + 2 * m) * (alpha + 2 * m + 1))
        else:
            term = m * (beta - m) * x / ((alpha + 2 * m - 1) * (alpha + 2 * m))
        d = 1 / ((1 + term * d) or tiny)
        c = (1 + term / c) or tiny
        value *= c * d
        if abs(c * d - 1) < 1e-16:
            break
    return value
