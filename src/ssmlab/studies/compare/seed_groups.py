"""Which trained models are one model with several seeds."""

from collections import Counter
from dataclasses import dataclass, replace

from ssmlab.core.files import read_json
from ssmlab.core.record import read_records
from ssmlab.models.registry import describe
from ssmlab.studies.compare.model_refs import ModelRef


@dataclass(frozen=True, kw_only=True)
class SeedGroup:
    """One model, trained once or with several seeds.

    Args:
        label: of the model in the records. title: what people call it.
        models: one set of weights a seed. seeds: theirs; None where no record names one.
    """

    label: str
    title: str
    models: tuple[ModelRef, ...]
    seeds: tuple[int | None, ...]


def seed_groups(refs: list[ModelRef]) -> list[SeedGroup]:
    """Models are one where their runs' records have the same label, different seeds and the same network."""
    trained: list[tuple[str, int | None, str]] = []  # label, seed and title, from the files of the run
    for ref in refs:
        if ref.folder is None:
            trained.append((ref.label, None, ref.title))
            continue
        file = ref.folder / "records.jsonl"
        first = next(iter(read_records(file)), None) if file.is_file() else None
        label = (first and first.model) or ref.label
        models = read_json(ref.folder.parent.parent / "run.json").get("models", [])
        titles = {model.get("label"): model.get("title") for model in models}
        trained.append((label, first.seed if first else None, titles.get(label) or describe(ref.name)))
    keys = [(label, ref.name) for ref, (label, _, _) in zip(refs, trained, strict=True)]
    groups: dict[str, SeedGroup] = {}
    for ref, key, (label, seed, title) in zip(refs, keys, trained, strict=True):
        seeds = [s for k, (_, s, _) in zip(keys, trained, strict=True) if k == key]
        together = None not in seeds and len(set(seeds)) == len(seeds)
        alone = sum(other == label for other, _ in dict.fromkeys(keys)) > 1
        name = label if together and not alone else ref.label
        group = groups.get(name) or SeedGroup(label=name, title=title, models=(), seeds=())
        groups[name] = replace(group, title=title, models=(*group.models, ref), seeds=(*group.seeds, seed))
    called = Counter(group.title for group in groups.values())
    return [group if called[group.title] == 1 else replace(group, title=group.label) for group in groups.values()]


def with_all_seeds(refs: list[ModelRef]) -> list[ModelRef]:
    """One reference a model: the first of its seeds, with the run's name of the model and the others' folders."""
    found = []
    for group in seed_groups(refs):
        first, *others = group.models
        if others:
            folders = tuple(other.folder for other in others if other.folder)
            assert first.folder is not None  # only trained models have seeds
            label = f"{first.folder.parent.parent.resolve().name}/{group.label}"
            first = replace(first, label=label, title=group.title, others=folders)
        found.append(first)
    return found
