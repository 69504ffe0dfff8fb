"""What reports say of time and memory against length."""

from ssmlab.reports.task_report import TaskReport

REPORT = TaskReport(
    items=("length", "lengths"),
    not_compared=("Time and memory against length", "no model is better or worse here; see the plots."),
)
