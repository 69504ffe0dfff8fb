"""What `ssmlab compress` found, and its answer."""

from dataclasses import dataclass
from functools import cached_property

from ssmlab.core import formats
from ssmlab.core.record import Record
from ssmlab.reports.primary_metric import too_few
from ssmlab.studies.compare.model_refs import ModelRef
from ssmlab.studies.compress.kinds import Terms
from ssmlab.studies.study import Report

DENSE, BEFORE, AFTER = "dense", "before fine-tuning", "after fine-tuning"


@dataclass(frozen=True, kw_only=True)
class Result(Report):
    """What the command found.

    Args:
        spectra: by layer, the share of the energy of every direction, the largest first.
        replaced: by model, what was replaced. unmeasured: why there is no quality, or None.
        doubt: why the dense model's numbers decide nothing, see `reports.caveats.doubt`.
    """

    ref: ModelRef
    terms: Terms
    spectra: dict[str, list[float]]
    replaced: dict[str, list]
    unmeasured: str | None
    doubt: str = ""

    @cached_property
    def found(self) -> dict[tuple[str | None, str, str | None], Record]:
        return {(r.model, r.metric, r.class_): r for r in self.records}

    def value(self, label: str, metric: str, class_: str | None = None) -> float | None:
        """A number of a model, or None."""
        record = self.found.get((label, metric, class_))
        return None if record is None else record.value

    @property
    def labels(self) -> list[str]:
        return list(self.replaced)

    def cost(self, label: str) -> float:
        """Multiply-accumulates of an item."""
        return self.value(label, f"macs{self.terms.suffix}") or 0.0

    @property
    def answer(self) -> str:
        """One sentence: the lightest model that is not worse than the dense one, else what is saved at most."""
        terms, dense = self.terms, self.cost(DENSE) or 1
        name, text = terms.quality[terms.primary_metric]
        when = AFTER if self.value(DENSE, terms.primary_metric, AFTER) is not None else BEFORE
        record = self.found.get((DENSE, terms.primary_metric, when))
        if record is None:
            least = min(self.labels[1:], key=self.cost)
            return f"{least} has {formats.percent(self.cost(least) / dense)} of the dense model's multiply-accumulates"
        if self.doubt:
            return f"No verdict: {self.doubt}"
        if few := too_few(record.n, f"{terms.item}s"):
            return f"No verdict: {few}"
        found = {label: self.found[label, terms.primary_metric, when].value for label in self.labels}
        low, high = record.spread or (record.value, record.value)
        bound = low if terms.higher_is_better else high
        good = [label for label in self.labels[1:] if terms.better(found[label], bound)]
        if not good:
            return f"every setting is worse than the dense model's interval ({text(bound)})"
        best = min(good, key=self.cost)
        return (
            f"{best} has {formats.percent(self.cost(best) / dense)} of the multiply-accumulates and "
            f"{text(found[best])} {name.lower()}, dense {text(found[DENSE])}"
        )
