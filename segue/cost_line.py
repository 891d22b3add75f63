"""A line fitted to measurements: seconds (or bytes) = fixed + per_unit * units.

The fit is weighted least squares over relative errors. Older observations fade, so that the line
soon follows a worker that becomes slower. Observations of a single size cannot separate the fixed
part from the slope: then the line keeps its prior's proportions, and learns only the scale.
"""

from __future__ import annotations

from typing import NamedTuple

# An observation weighs half as much after 14 later ones.
_FADING = 0.95
# Weight of the prior's proportions, relative to one observation. Without it, two or three short
# observations with errors of a fifth could give a slope of 0, as if long prompts cost nothing.
_STIFFNESS = 0.02
# Once the line is known, an observation counts as at most this many times the expected value: a
# single stall does not make a worker slow for ever, and one that stays slow is followed in steps.
_MAX_SURPRISE = 4.0
_KNOWN_AFTER = 8
# Smaller values of seconds or bytes are raised to this, whose square is still far from 0.
_SMALLEST = 1e-9


class _Sums(NamedTuple):
    """Weighted sums of 1, x, y, x*x and x*y over the faded observations."""

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
    """Immutable; `observed` returns the next line. Neither coefficient is ever negative."""

    fixed: float
    per_unit: float
    num_observed: int = 0
    prior_fixed: float = 0.0
    prior_per_unit: float = 0.0
    sums: _Sums = _Sums()

    def at(self, units: float) -> float:
        return self.fixed + self.per_unit * units

    def observed(self, units: float, value: float) -> Line:
        """The line after one more observation. Ignores a value that is not positive."""
        if value <= 0.0 or units < 0.0:
            return self
        value = max(value, _SMALLEST)
        expected = max(self.at(units), _SMALLEST)
        if self.num_observed >= _KNOWN_AFTER:
            value = min(value, _MAX_SURPRISE * expected)
        # Relative errors count, not absolute ones. The first observation alone sets the scale, so
        # that a prior for other hardware does not affect it. An observation much faster than
        # expected weighs more: nothing runs faster than it can, but a first turn may compile
        # kernels.
        scale = expected if self.num_observed else value
        sums = self.sums.after(1.0 / (scale * min(value, scale)), units, value)
        num_observed = self.num_observed + 1
        fixed, per_unit = self._fitted(sums, num_observed)
        slowdown = (fixed + per_unit * units) / expected
        if slowdown > 1.0 and num_observed > 1:
            # The worker has become slower: scale down the errors of the earlier, faster times, or
            # they would outweigh all later ones.
            sums = sums.times(1.0 / (slowdown * slowdown))
        return Line(fixed, per_unit, num_observed, self.prior_fixed, self.prior_per_unit, sums)

    def _fitted(self, sums: _Sums, num_observed: int) -> tuple[float, float]:
        weight, x, y, xx, xy = sums
        fixed, per_unit = self._scaled_prior(sums)
        # The fit is fixed * (1 + du) and per_unit * (1 + dv), pulled towards du = dv = 0.
        aa = fixed * fixed * weight
        ab = fixed * per_unit * x
        bb = per_unit * per_unit * xx
        # The number of unfaded observations that the faded ones are worth.
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
        """The prior, scaled by the factor that fits best."""
        weight, x, y, xx, xy = sums
        a, b = self.prior_fixed, self.prior_per_unit
        product = a * y + b * xy
        square = a * a * weight + 2.0 * a * b * x + b * b * xx
        return a * product / square, b * product / square


def prior_line(fixed: float, per_unit: float) -> Line:
    """The line assumed before any measurement. Both parts must be above 0."""
    if fixed <= 0.0 or per_unit <= 0.0:
        raise ValueError(f"a prior's parts must be > 0, got {fixed} and {per_unit}")
    return Line(fixed, per_unit, prior_fixed=fixed, prior_per_unit=per_unit)
