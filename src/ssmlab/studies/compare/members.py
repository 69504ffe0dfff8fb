"""Which trained models are one model with several seeds."""

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from ssmlab.core.files import read_json
from ssmlab.core.record import read_records
from ssmlab.models.registry import describe
from ssmlab.studies.compare.subjects import Subject


@dataclass(frozen=True, kw_only=True)
class Member:
    """One set of weights.

    Args:
        group: label of the model; members of one group differ by their seeds.
        title: of the group. seed: None where nobody says.
    """

    subject: Subject
    group: str
    title: str
    seed: int | None

    @property
    def digest(self) -> str:
        """Of the file of weights."""
        file = self.subject.weights or (self.subject.folder or Path()) / "model.safetensors"
        with open(file, "rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()


def members_of(subjects: list[Subject]) -> list[Member]:
    """Models are one where their runs' records say the same label and different seeds, and the network is the same."""
    told = [_told(subject) for subject in subjects]
    keys = [(label, subject.name) for subject, (label, _, _) in zip(subjects, told, strict=True)]
    found = []
    for subject, key, (label, seed, title) in zip(subjects, keys, told, strict=True):
        seeds = [s for k, (_, s, _) in zip(keys, told, strict=True) if k == key]
        together = None not in seeds and len(set(seeds)) == len(seeds)
        alone = sum(other == label for other, _ in dict.fromkeys(keys)) > 1
        group = label if together and not alone else subject.label
        found.append(Member(subject=subject, group=group, title=title, seed=seed))
    titles = Counter({member.group: member.title for member in found}.values())
    return [m if titles[m.title] == 1 else _called(m) for m in found]


def joined(subjects: list[Subject]) -> list[Subject]:
    """One subject a model: the first of its seeds, with the run's name of the model and the folders of the others."""
    groups: dict[str, list[Member]] = {}
    for member in members_of(subjects):
        groups.setdefault(member.group, []).append(member)
    found = []
    for group, (first, *others) in groups.items():
        if not others:
            found.append(first.subject)
            continue
        folders = tuple(other.subject.folder for other in others if other.subject.folder)
        assert first.subject.folder is not None  # only trained models have seeds
        label = f"{first.subject.folder.parent.parent.resolve().name}/{group}"
        found.append(replace(first.subject, label=label, title=first.title, others=folders))
    return found


def _called(member: Member) -> Member:
    return Member(subject=member.subject, group=member.group, title=member.group, seed=member.seed)


def _told(subject: Subject) -> tuple[str, int | None, str]:
    """Label, seed and title, from the files of the run that trained it."""
    if subject.folder is None:
        return subject.label, None, subject.title
    file = subject.folder / "records.jsonl"
    records = read_records(file) if file.is_file() else []
    label = (records[0].model if records else None) or subject.label
    run = read_json(subject.folder.parent.parent / "run.json")
    titles = {model.get("label"): model.get("title") for model in run.get("models", [])}
    return label, records[0].seed if records else None, titles.get(label) or describe(subject.name)
