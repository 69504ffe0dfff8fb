"""How sure a number is, and whether two differ: intervals over cases and seeds, paired tests, the rule of verdicts.

`intervals` has fractions in closed form, `resampling` every other score, `ranks` areas under curves, `paired` tests of
two models, `comparing` all pairs of some and the rule by which one is called better, `calibration` what probabilities
mean. docs/statistics.md says when which is used, and what was measured of them.
"""

from ssmlab.core.statistics.comparing import FEWEST, LEVEL, Difference, differences, is_decided
from ssmlab.core.statistics.intervals import (
    Interval,
    fraction_interval,
    group_numbers,
    mean_interval,
    over_seeds,
    share_interval,
    wilson,
)
from ssmlab.core.statistics.paired import (
    cases_needed,
    holm,
    least_p,
    mcnemar,
    nadeau_bengio,
    permutation_test,
    wilcoxon,
)
from ssmlab.core.statistics.ranks import (
    Area,
    area_interval,
    average_precision,
    delong,
    mean_area,
    roc_area,
    weighted_roc_area,
)
from ssmlab.core.statistics.resampling import Score, ratio, resampled_interval, score_interval, statistics_of

__all__ = [
    "FEWEST",
    "LEVEL",
    "Area",
    "Difference",
    "Interval",
    "Score",
    "area_interval",
    "average_precision",
    "cases_needed",
    "delong",
    "differences",
    "fraction_interval",
    "group_numbers",
    "holm",
    "is_decided",
    "least_p",
    "mcnemar",
    "mean_area",
    "mean_interval",
    "nadeau_bengio",
    "over_seeds",
    "permutation_test",
    "ratio",
    "resampled_interval",
    "roc_area",
    "score_interval",
    "share_interval",
    "statistics_of",
    "weighted_roc_area",
    "wilcoxon",
    "wilson",
]
