import math

import pytest

from ssmlab.core import formats


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (formats.percent, 0.96667, "96.7 %"),
        (formats.percent, 1.0, "100.0 %"),
        (formats.points, 0.0167, "+1.7"),
        (formats.points, -0.0167, "−1.7"),
        (formats.points, -0.0001, "0.0"),
        (formats.large, 12_412_000, "12.4 M"),
        (formats.large, 1.8e9, "1.8 G"),
        (formats.large, 999_600, "1 M"),
        (formats.large, 9_999, "9,999"),
        (formats.large, 16, "16"),
        (formats.rate, 1167.4, "1,167"),
        (formats.rate, 78.0, "78.0"),
        (formats.rate, 7.314, "7.31"),
        (formats.rate, 24_120, "24.1 k"),
        (formats.whole, 1797, "1,797"),
        (formats.seconds, 0.0121, "12.1 ms"),
        (formats.seconds, 5, "5.00 s"),
        (formats.seconds, 99.97, "1 min 40 s"),
        (formats.seconds, 200, "3 min 20 s"),
        (formats.seconds, 3600 * 2 + 300, "2 h 5 min"),
        (formats.size, 432_013_312, "412 MiB"),
        (formats.size, 3 * 2**30, "3 GiB"),
        (formats.size, 1000 * 1024, "1,000 KiB"),
        (formats.size, 2000 * 2**30, "2,000 GiB"),
        (formats.seconds, 0.9997, "1.00 s"),
        (formats.ratio, 1.1, "1.10 ×"),
        (formats.ratio, 13.25, "13.2 ×"),
        (formats.ratio, 1234.5, "1,234 ×"),
        (formats.listing, ["a", "b", "c"], "a, b and c"),
        (formats.listing, ["a"], "a"),
    ],
)
def test_numbers_for_people(function, value, text):
    assert function(value) == text


@pytest.mark.parametrize(
    "function", [formats.percent, formats.large, formats.rate, formats.whole, formats.seconds, formats.size]
)
def test_a_diverged_number_is_said_to_be_none(function):
    assert function(math.nan) == "not a number"


def test_ranges_and_counts():
    assert formats.percent_range(0.943, 0.9812) == "[94.3, 98.1]"
    assert formats.plural(1, "seed") == "1 seed"
    assert formats.plural(1200, "class", "classes") == "1,200 classes"
