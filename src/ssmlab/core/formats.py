"""Numbers as people write them: 96.7 %, 12.4 M, 3 min 20 s."""

import math

_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
UNKNOWN = "–"


def percent(value: float, decimals: int = 1) -> str:
    """A fraction as a percentage: 0.9667 -> "96.7 %"."""
    return f"{100 * value:.{decimals}f} %" if math.isfinite(value) else "not a number"


def percent_range(low: float, high: float, decimals: int = 1) -> str:
    """A confidence interval of a fraction, in percent: "[94.3, 98.1]"."""
    return f"[{100 * low:.{decimals}f}, {100 * high:.{decimals}f}]"


def points(value: float) -> str:
    """A difference of two fractions in percentage points with its sign: 0.0167 -> "+1.7"."""
    text = f"{abs(100 * value):.1f}"
    return text if text == "0.0" else ("+" if value > 0 else "−") + text


def large(value: float) -> str:
    """Three digits and a scale: 12_412_000 -> "12.4 M"; whole numbers below 10,000 stay as they are."""
    if not math.isfinite(value):
        return "not a number"
    if abs(value) < 10_000:
        return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:.3g}"
    # 999,600 is 1 M and not 1e+03 k: choose the scale after rounding to three digits.
    rounded = float(f"{value:.3g}")
    scale, letter = next((scale, letter) for scale, letter in _SCALES if abs(rounded) >= scale)
    return f"{rounded / scale:.4g} {letter}"


def rate(value: float) -> str:
    """A speed with the digits that mean something: 7.31, 88.3, 1,167, 24.1 k."""
    if not math.isfinite(value) or abs(value) >= 99.95:
        return large(float(f"{value:.4g}")) if math.isfinite(value) else "not a number"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def whole(value: float) -> str:
    """A count: 1797 -> "1,797"."""
    return f"{value:,.0f}" if math.isfinite(value) else "not a number"


def decimal(digits: int):
    """A formatter with a fixed number of decimals."""
    return lambda value: f"{value:.{digits}f}" if math.isfinite(value) else "not a number"


def seconds(value: float) -> str:
    """A duration: 0.012 -> "12 ms", 200 -> "3 min 20 s"."""
    if not math.isfinite(value):
        return "not a number"
    if value < 0.9995:
        return f"{1000 * value:.3g} ms"
    if value < 9.995:
        return f"{value:.2f} s"
    if value < 99.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(value: float) -> str:
    """Memory: 432_013_312 -> "412 MiB"."""
    if not math.isfinite(value):
        return "not a number"
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1023.5:
            return f"{_three(value)} {unit}"
        value /= 1024
    return f"{_three(value)} GiB"


def ratio(value: float) -> str:
    """How many times: 1.034 -> "1.03 ×"."""
    if not math.isfinite(value):
        return UNKNOWN
    return f"{value:.2f} ×" if value < 10 else f"{_three(value)} ×"


def _three(value: float) -> str:
    """Three digits, more before the point where there are more: 97.6, 1,012 and never 1.01e+03."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


def plural(n: int, word: str, words: str | None = None) -> str:
    """A count with its noun: "1 seed", "3 seeds"."""
    return f"{n:,} {word if n == 1 else words or word + 's'}"


def listing(words: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
