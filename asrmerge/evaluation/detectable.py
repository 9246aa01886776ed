"""The smallest difference that a test set could have shown."""

from __future__ import annotations

import math


def minimum_detectable_difference(standard_error: float, units: int, *, level: float = 0.05, power: float = 0.8) -> float | None:
    """The true difference that a two-sided paired test at ``level`` would find with probability ``power``, in any direction.

    (t(1 − level / 2) + t(power)) × standard error, with the quantiles of Student's distribution of units − 1 degrees of freedom:
    2.8 standard errors for many units, 3.3 for eight speakers. If a comparison shows no difference, this says how large a one
    may have been missed. Source: H. Bloom, "Minimum detectable effects: a simple way to report the statistical power of
    experimental designs", Evaluation Review 19(5), 1995. A bootstrap's standard error is too small by √((units − 1) / units),
    which is made good here (A. Davison and D. Hinkley, "Bootstrap Methods and their Application", 1997, ch. 2).

    Args:
        standard_error: of the paired difference of two models' error rates, by the bootstrap, in the same unit as the result.
        units: how many speakers or utterances were drawn from.

    Returns:
        None where nothing is known about how the difference spreads: from a single unit, or if the models never differ.

    Raises:
        ValueError: if level or power does not lie between 0 and 1.
    """
    from scipy.special import stdtrit

    if not (0 < level < 1 and 0 < power < 1):
        raise ValueError(f"level and power must lie between 0 and 1; got {level} and {power}")
    if units < 2 or standard_error <= 0:
        return None
    quantiles = float(stdtrit(units - 1, 1 - level / 2) + stdtrit(units - 1, power))
    return quantiles * standard_error * math.sqrt(units / (units - 1))
