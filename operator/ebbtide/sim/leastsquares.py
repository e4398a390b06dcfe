"""Least squares with coefficients that cannot be negative, in plain Python: dozens of columns, hundreds of rows."""

from collections.abc import Sequence

import msgspec

_SWEEPS = 4000
_STILL = 1e-10  # relative change of a sweep at which nothing moves any more
_RIDGE = 1e-9
_ROBUST_ROUNDS = 5
_ORDINARY = 1.5  # in middle absolute residuals: what is further off counts less


class Row(msgspec.Struct, frozen=True):
    """One observation: `value` is about the sum of coefficients times `columns`; residuals count `weight` times."""

    columns: tuple[float, ...]
    value: float
    weight: float = 1.0

    def residual(self, coefficients: Sequence[float]) -> float:
        """How much larger the value is than the coefficients say, times the weight."""
        said = sum(x * c for x, c in zip(self.columns, coefficients, strict=True))
        return (self.value - said) * self.weight


def nonnegative(rows: Sequence[Row]) -> list[float]:
    """The coefficients, all at least 0, with the least sum of squared residuals; ValueError without rows.

    A column that is zero in every row gets 0.
    """
    if not rows:
        raise ValueError("least squares need at least one row")
    count = len(rows[0].columns)
    products = [[0.0] * count for _ in range(count)]
    targets = [0.0] * count
    for row in rows:
        square = row.weight * row.weight
        filled = [(i, x) for i, x in enumerate(row.columns) if x]
        for i, x in filled:
            targets[i] += square * x * row.value
            for j, other in filled:
                products[i][j] += square * x * other
    return _descend(products, targets)


def robust(rows: Sequence[Row]) -> list[float]:
    """As `nonnegative`, with rows that are far off counted less: a machine that stops for a moment is no property.

    Weights are those of Huber: a residual of three times the ordinary counts a third.
    """
    found = nonnegative(rows)
    for _ in range(_ROBUST_ROUNDS):
        residuals = [abs(row.residual(found)) for row in rows]
        ordinary = _ORDINARY * sorted(residuals)[len(residuals) // 2]
        if ordinary <= 0.0:
            break
        found = nonnegative(
            [
                msgspec.structs.replace(row, weight=row.weight * min(1.0, ordinary / max(residual, 1e-300)) ** 0.5)
                for row, residual in zip(rows, residuals, strict=True)
            ]
        )
    return found


def _descend(products: Sequence[Sequence[float]], targets: Sequence[float]) -> list[float]:
    """Each coefficient in turn to its best value given the others, cut at 0, until nothing moves."""
    count = len(targets)
    found = [0.0] * count
    slopes = list(targets)  # minus the gradient: targets - products x found
    for _ in range(_SWEEPS):
        moved = 0.0
        for i in range(count):
            curvature = products[i][i] * (1.0 + _RIDGE)
            if curvature <= 0.0:
                continue
            change = max(-found[i], slopes[i] / curvature)
            if change:
                found[i] += change
                moved = max(moved, abs(change) / (abs(found[i]) + 1e-12))
                row = products[i]
                for j in range(count):
                    slopes[j] -= change * row[j]
        if moved < _STILL:
            break
    return found
