"""What reports say of classifications of images."""

from ssmlab.reports import calibration, class_tables
from ssmlab.reports.task_report import TaskReport
from ssmlab.tasks.shared.measures import CLASS_LOSS, CLASSIFICATION, COMPARED, FORGETTING, LABEL_AUC

REPORT = TaskReport(
    items=("image", "images"),
    primary=(LABEL_AUC,),
    measures=(*CLASSIFICATION, CLASS_LOSS, *FORGETTING),
    compared=COMPARED,
    plots=(calibration.plots,),
    sections=(
        ("calibration", "Calibration", calibration.section),
        ("class-intervals", "Per class, with intervals", class_tables.section),
    ),
)
