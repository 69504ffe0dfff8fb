"""What reports say of synthetic tasks."""

from ssmlab.reports.task_report import BOOTSTRAP, TaskReport
from ssmlab.tasks.shared.measures import ACCURACY, FORGETTING, LOSS, share

WHOLE = share("all_right", "Without a mistake", help="share of whole sequences", interval=False)
REPORT = TaskReport(
    items=("answer", "answers"), measures=(ACCURACY, WHOLE, LOSS, *FORGETTING), interval=BOOTSTRAP, resampled="rows"
)
