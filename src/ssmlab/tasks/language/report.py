"""What reports say of language models."""

from ssmlab.reports.task_report import BOOTSTRAP, TaskReport
from ssmlab.tasks.shared.measures import FORGETTING, LOSS, TOKENS, UNITS, bits

REPORT = TaskReport(
    items=("token", "tokens"),
    primary=tuple(map(bits, UNITS)),
    measures=(*TOKENS, LOSS, *FORGETTING),
    interval=BOOTSTRAP,
    resampled="rows",
)
