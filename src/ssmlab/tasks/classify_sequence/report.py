"""What reports say of classifications of sequences."""

from ssmlab.reports.task_report import TaskReport
from ssmlab.tasks.shared.measures import CLASSIFICATION, FORGETTING, LOSS

REPORT = TaskReport(items=("sequence", "sequences"), measures=(*CLASSIFICATION, LOSS, *FORGETTING))
