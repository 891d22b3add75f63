"""A line through what was measured: seconds (or bytes) = fixed + per_unit * units.

Weighted least squares over relative errors, in which older observations fade, so that a worker
that becomes slower is believed soon. Observations of one size cannot tell the fixed part from the
other: there the line keeps the proportions of its prior and takes only the scale from what it saw.
"""

from __future__ import annotations

from typing import NamedTuple

# An observation weighs half as much after 14 later ones.
_FADING = 0.95
# How strongly the prior's proportions hold against observations that say little about them: as one
# of the observations so many times weaker. Two or three short ones, a fifth wrong, would else make
# a slope of 0, and long prompts would seem to cost nothing.
_STIFFNESS = 0.02
# Once the line is known, one observation is believed up to so many times what was expected: a
# worker that stalls once is not slow for ever, one that stays slow is followed step by step.
_MAX_SURPRISE = 4.0
_KNOWN_AFTER = 8
# Seconds or bytes below it are taken for it: squares of it are still far from 0.
_SMALLEST = 1e-9


class _Sums(NamedTuple):
    """Over the faded observations: of 1, x, y, x*x and x*y."""

    weight: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def after(self, weight: float, x: float, y: float) -> _Sums:
        return _Sums(
            self.weight * _FADING + weight,
            self.x * _FADING + weight * x,
            self.y * _FADING + weight * y,
            self.xx * _FADING + weight * x * x,
            self.xy * _FADING + weight * x * y,
        )

    def times(self, factor: float) -> _Sums:
        return _Sums(*[factor * one for one in self])


class Line(NamedTuple):
    """A value is immutable; `observed` makes the next one. Both coefficients are never negative."""

    fixed: float
    per_unit: float
    num_observed: int = 0
    prior_fixed: float = 0.0
    prior_per_unit: float = 0.0
    sums: _Sums = _Sums()

    def at(self, units: float) -> float:
        return self.fixed + self.per_unit * units

    def observed(self, units: float, value: float) -> Line:
        """The line after one more observation; one that is not positive teaches nothing."""
        if value <= 0.0 or units < 0.0:
            return self
        value = max(value, _SMALLEST)
        expected = max(self.at(units), _SMALLEST)
        if self.num_observed >= _KNOWN_AFTER:
            value = min(value, _MAX_SURPRISE * expected)
        # Relative errors count, not absolute ones. The first observation alone sets the scale, so
        # that a prior for other hardware has no say in it. One that was much faster than expected
        # weighs more: nothing computes faster than it can, but a first turn may compile kernels.
        scale = expected if self.num_observed else value
        sums = self.sums.after(1.0 / (scale * min(value, scale)), units, value)
        num_observed = self.num_observed + 1
        fixed, per_unit = self._fitted(sums, num_observed)
        slowdown = (fixed + per_unit * units) / expected
        if slowdown > 1.0 and num_observed > 1:
            # Times have become slower: errors of the faster ones count as little as later ones
            # will, else what was seen then would outweigh all that is seen from now on.
            sums = sums.times(1.0 / (slowdown * slowdown))
        return Line(fixed, per_unit, num_observed, self.prior_fixed, self.prior_per_unit, sums)

    def _fitted(self, sums: _Sums, num_observed: int) -> tuple[float, float]:
        weight, x, y, xx, xy = sums
        fixed, per_unit = self._scaled_prior(sums)
        # The fit is fixed * (1 + du) and per_unit * (1 + dv), pulled towards du = dv = 0.
        aa = fixed * fixed * weight
        ab = fixed * per_unit * x
        bb = per_unit * per_unit * xx
        # How many observations the faded ones amount to, were they equal.
        num_remembered = min(num_observed, 1.0 / (1.0 - _FADING))
        pull = _STIFFNESS / num_remembered * (aa + 2.0 * ab + bb)
        left = fixed * (y - fixed * weight - per_unit * x)
        right = per_unit * (xy - fixed * x - per_unit * xx)
        determinant = (aa + pull) * (bb + pull) - ab * ab
        if determinant <= 0.0:
            return fixed, per_unit
        du = (left * (bb + pull) - right * ab) / determinant
        dv = (right * (aa + pull) - left * ab) / determinant
        if du < -1.0:
            return 0.0, xy / xx
        if dv < -1.0:
            return y / weight, 0.0
        return fixed * (1.0 + du), per_unit * (1.0 + dv)

    def _scaled_prior(self, sums: _Sums) -> tuple[float, float]:
        """The prior times the factor with which it fits best."""
        weight, x, y, xx, xy = sums
        a, b = self.prior_fixed, self.prior_per_unit
        product = a * y + b * xy
        square = a * a * weight + 2.0 * a * b * x + b * b * xx
        return a * product / square, b * product / square


def prior_line(fixed: float, per_unit: float) -> Line:
    """What is assumed before anything was measured. Both must be above 0."""
    if fixed <= 0.0 or per_unit <= 0.0:
        raise ValueError(f"a prior's parts must be > 0, got {fixed} and {per_unit}")
    return Line(fixed, per_unit, prior_fixed=fixed, prior_per_unit=per_unit)
