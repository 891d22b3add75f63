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


class Line(NamedTuple):
    """A value is immutable; `observed` makes the next one. Both coefficients are never negative."""

    fixed: float
    per_unit: float
    num_observed: int = 0
    prior_fixed: float = 0.0
    prior_per_unit: float = 0.0
    # Sums over the faded observations: of 1, x, y, x*x and x*y.
    weight: float = 0.0
    sum_x: float = 0.0
    sum_y: float = 0.0
    sum_xx: float = 0.0
    sum_xy: float = 0.0

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
        weight = 1.0 / (scale * min(value, scale))
        seen = self._replace(
            num_observed=self.num_observed + 1,
            weight=self.weight * _FADING + weight,
            sum_x=self.sum_x * _FADING + weight * units,
            sum_y=self.sum_y * _FADING + weight * value,
            sum_xx=self.sum_xx * _FADING + weight * units * units,
            sum_xy=self.sum_xy * _FADING + weight * units * value,
        )
        return seen._fitted()._relative_to_now(units, expected)

    def _fitted(self) -> Line:
        fixed, per_unit = self._scaled_prior()
        # The fit is fixed * (1 + du) and per_unit * (1 + dv), pulled towards du = dv = 0.
        aa = fixed * fixed * self.weight
        ab = fixed * per_unit * self.sum_x
        bb = per_unit * per_unit * self.sum_xx
        pull = _STIFFNESS / self._num_remembered() * (aa + 2.0 * ab + bb)
        left = fixed * (self.sum_y - fixed * self.weight - per_unit * self.sum_x)
        right = per_unit * (self.sum_xy - fixed * self.sum_x - per_unit * self.sum_xx)
        determinant = (aa + pull) * (bb + pull) - ab * ab
        if determinant <= 0.0:
            return self._replace(fixed=fixed, per_unit=per_unit)
        du = (left * (bb + pull) - right * ab) / determinant
        dv = (right * (aa + pull) - left * ab) / determinant
        return self._without_negatives(fixed * (1.0 + du), per_unit * (1.0 + dv))

    def _relative_to_now(self, units: float, expected: float) -> Line:
        """Where times have become slower, errors of the faster ones count as little as later ones
        will: else what was seen then would outweigh all that is seen from now on.
        """
        ratio = expected / max(self.at(units), expected)
        if ratio == 1.0 or self.num_observed == 1:
            return self
        fade = ratio * ratio
        return self._replace(
            weight=self.weight * fade,
            sum_x=self.sum_x * fade,
            sum_y=self.sum_y * fade,
            sum_xx=self.sum_xx * fade,
            sum_xy=self.sum_xy * fade,
        )

    def _num_remembered(self) -> float:
        """How many observations the faded ones amount to, were they equal."""
        return min(self.num_observed, 1.0 / (1.0 - _FADING))

    def _scaled_prior(self) -> tuple[float, float]:
        """The prior times the factor with which it fits best."""
        a, b = self.prior_fixed, self.prior_per_unit
        product = a * self.sum_y + b * self.sum_xy
        square = a * a * self.weight + 2.0 * a * b * self.sum_x + b * b * self.sum_xx
        return a * product / square, b * product / square

    def _without_negatives(self, fixed: float, per_unit: float) -> Line:
        if fixed < 0.0:
            fixed, per_unit = 0.0, self.sum_xy / self.sum_xx
        elif per_unit < 0.0:
            fixed, per_unit = self.sum_y / self.weight, 0.0
        return self._replace(fixed=fixed, per_unit=per_unit)


def prior_line(fixed: float, per_unit: float) -> Line:
    """What is assumed before anything was measured. Both must be above 0."""
    if fixed <= 0.0 or per_unit <= 0.0:
        raise ValueError(f"a prior's parts must be > 0, got {fixed} and {per_unit}")
    return Line(fixed, per_unit, prior_fixed=fixed, prior_per_unit=per_unit)
