"""What reports say of classifications of sequences."""

from dataclasses import replace

from ssmlab.tasks.classify.report import REPORT as IMAGES

REPORT = replace(IMAGES, items=("sequence", "sequences"))
