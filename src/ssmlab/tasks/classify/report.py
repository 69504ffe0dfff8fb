"""What reports say of classifications of images."""

from ssmlab.reports.task_report import TaskReport
from ssmlab.tasks.shared.measures import CLASSIFICATION, FORGETTING, LOSS

REPORT = TaskReport(items=("image", "images"), measures=(*CLASSIFICATION, LOSS, *FORGETTING))
