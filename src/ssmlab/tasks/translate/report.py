"""What reports say of translation models."""

from ssmlab.core import formats
from ssmlab.reports.task_report import BOOTSTRAP, QUALITY, Measure, TaskReport
from ssmlab.tasks.shared.measures import LOSS

BLEU = Measure("bleu", "BLEU", QUALITY, 1, formats.decimal(2), help="sacreBLEU, 13a, cased", interval=True, bounded=False)
CHRF = Measure("chrf", "chrF++", QUALITY, 1, formats.decimal(2), interval=True, bounded=False)
REPORT = TaskReport(items=("sentence", "sentences"), measures=(BLEU, CHRF, LOSS), interval=BOOTSTRAP, resampled="sentences")
