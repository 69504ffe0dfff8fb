"""The folders of a data set, walked from the top: which are parts, folds or portions, and which are classes."""

import re
from collections.abc import Callable, Iterable

from ssmlab.data import names as words
from ssmlab.data.contents import count, some
from ssmlab.data.files import FolderFiles, ZipFiles
from ssmlab.data.kinds import Example, Kind, Sorted


class ClassTree:
    """Sorts examples by their folders, into `found`.

    Args:
        chosen: names of the examples.
        is_class: whether a folder of this name is a class; None for all, and then folds and portions are looked for.
    """

    def __init__(
        self,
        files: FolderFiles | ZipFiles,
        chosen: list[str],
        kind: Kind,
        is_class: Callable[[str], object] | None,
        found: Sorted,
    ):
        self.noun, self.is_class, self.found = kind.noun, is_class, found
        self.direct: dict[str, list[str]] = {}  # folder -> examples directly in it
        self.live: dict[str, list[str]] = {}  # folder -> names of the folders in it that hold examples
        self.all: dict[str, list[str]] = {}  # the same of all folders
        self.filled: set[str] = set()  # class folders
        self.busy = {name.rpartition("/")[0] for name in files.files}  # folders with any file
        for folder in sorted(files.folders):
            above, _, last = folder.rpartition("/")
            self.all.setdefault(above, []).append(last)
        reached = set()
        for name in chosen:
            folder = name.rpartition("/")[0]
            self.direct.setdefault(folder, []).append(name)
            while folder and folder not in reached:
                reached.add(folder)
                above, _, last = folder.rpartition("/")
                self.live.setdefault(above, []).append(last)
                folder = above

    def sort(self, top: str | None) -> None:
        """Sort everything below the folder `top`; None finds the folder that holds all."""
        folder = top or ""
        while top is None and self._only_holds_one(folder):
            folder = _join(folder, self.inside(folder)[0])
        self.found.prefix = folder + "/" if folder else ""
        self.walk(folder, None, None)

    def inside(self, folder: str) -> list[str]:
        return self.live.get(folder, [])

    def below(self, folder: str) -> Iterable[str]:
        yield from self.direct.get(folder, ())
        for child in self.inside(folder):
            yield from self.below(_join(folder, child))

    def _only_holds_one(self, folder):
        inside, every = self.inside(folder), self.all.get(folder, ())
        if len(inside) != 1 or self.direct.get(folder) or words.parts_among(every):
            return False
        if any(self._is_empty(_join(folder, name)) for name in every):
            return False  # a class folder without anything next to it
        return bool(self.inside(_join(folder, inside[0])))

    def _is_empty(self, folder):
        return folder not in self.busy and not self.all.get(folder)

    def walk(self, folder: str, part: str | None, group: str | None) -> None:
        """Decide what the folders directly in this one are."""
        self._add_loose(self.direct.get(folder, ()), part, group)
        inside, parts = self.inside(folder), self._parts(folder)
        rest = [name for name in inside if name not in parts]
        if parts:
            self._check_parts(folder, parts)
            for name, of in parts.items():
                self.enter(_join(folder, name), of, group)
            if not all(map(words.is_fold, rest)):
                classes = {low for name in parts for low in self._inside_all(_join(folder, name))}
                more = [
                    name
                    for name in rest
                    if self.is_class is None and classes & set(self._inside_all(_join(folder, name)))
                ]
                self._leave_out(folder, [name for name in rest if name not in more], part, group)
                for name in more:
                    inside = count(len(list(self.below(_join(folder, name)))), self.noun)
                    self.found.notes.append(
                        f"left out: {name}/ ({inside}), no part by its name though it holds the same classes; move its "
                        "files into train/ to use them"
                    )
                return
            part = part or "train"  # fold1, fold2 ... and test
        labelled = [name for name in rest if not words.is_no_class(name)]
        if self.is_class is None and rest and all(map(words.is_fold, rest)) and (parts or len(rest) > 1):
            own = self._report_own_parts(folder, rest)  # then folds say nothing about what stays together
            self.found.folds += [] if own else rest
            for name in rest:
                self.enter(_join(folder, name), part, group if own else name)
        elif self.is_class is None and len(rest) > 1 == len(labelled) and words.holds_labelled(labelled[0]):
            self._leave_out(folder, [name for name in rest if name not in labelled], part, group)
            self.enter(_join(folder, labelled[0]), part, group)
        elif self.is_class is None and self._are_portions(folder, rest):
            self.found.notes.append(f"{some(f'{n}/' for n in rest)}: no classes; what they hold is put together")
            for name in rest:
                self.enter(_join(folder, name), part, group)
        elif not parts:
            self._add_classes(folder, rest, part, group)

    def enter(self, folder: str, part: str | None, group: str | None) -> None:
        """Walk a part, a fold or a portion, through folders that only hold one other: train/images/<class>."""
        while not self.direct.get(folder) and len(inside := self.inside(folder)) == 1:
            (name,) = inside
            same = name.casefold() == folder.rpartition("/")[2].casefold()
            is_class = self.is_class is not None and self.is_class(name)
            if is_class or not (same or words.is_filler(name)):
                break
            folder = _join(folder, name)
        self.walk(folder, part, group)

    def _parts(self, folder):
        """Name -> part of the folders in this one, unless it is a class that is called so."""
        named = words.parts_among(self.all.get(folder, ()))
        named = {name: part for name, part in named.items() if not words.is_of_masks(name, named)}
        places = [_join(folder, name) for name in named]
        flat = all(self.direct.get(place) and not self.inside(place) for place in places)
        plain = [name for name in self.inside(folder) if name not in named and self.direct.get(_join(folder, name))]
        return {} if len(set(named.values())) == 1 and flat and plain else named  # a train among buses

    def _check_parts(self, folder, parts):
        start = (f"{folder}/" if folder else "").removeprefix(self.found.prefix)
        for part in sorted(set(parts.values())):
            same = [name for name, of in parts.items() if of == part]
            if len({re.sub(r"[\d\s_-]+", "", name.casefold()) for name in same}) > 1:  # train_1, train_2 are one
                both = " and ".join(f"{start}{name}/" for name in same)
                self.found.problems.append(f"{both}: both mean the {part} part; keep one of them")
            if part == "val" and not any(name in self.inside(folder) for name in same):
                self.found.problems.append(
                    f"{start}{same[0]}/: has no {self.noun}s; add some, or delete it to take validation from train"
                )

    def _report_own_parts(self, folder, inside):
        """Report folders that are data sets of their own; whether there are any."""
        places = {name: _join(folder, name) for name in inside}
        own = {place: parts for place in places.values() if (parts := words.parts_among(self.all.get(place, ())))}
        if own:
            has, fix = ("has", "this folder") if len(own) == 1 else ("each has", "one of them")
            parts = sorted({part for parts in own.values() for part in parts})
            self.found.problems.append(
                f"{some(f'{place}/' for place in own)}: {has} parts of its own ({some(parts)}); give {fix} as the path"
            )
        return bool(own)

    def _are_portions(self, folder, inside):
        """Whether these are shares of a download (batch_1), or dates above class folders; years may be classes."""
        if len(inside) < 2 or all(map(words.is_portion, inside)):
            return len(inside) > 1
        places = [_join(folder, name) for name in inside]
        lower = {name for place in places for name in self.inside(place)}
        return (
            all(map(words.is_date, inside))
            and all(self.inside(place) and not self.direct.get(place) for place in places)
            and not all(map(words.is_date, lower))
        )

    def _add_classes(self, folder, inside, part, group):
        """These folders are the classes, if nothing speaks against it."""
        is_class = self.is_class or (lambda name: not words.is_no_class(name))
        classes = [name for name in inside if is_class(name)]
        self._leave_out(folder, [name for name in inside if name not in classes], part, group)
        if self.is_class is None and self._add_nested(folder, classes, part, group):
            return
        if self.is_class is None:
            classes = self._without_copies(folder, classes)
            self._report_alike(folder, classes)
            if part is None:
                self._report_own_parts(folder, classes)
        for name in self.all.get(folder, ()):
            place = _join(folder, name)
            unread = [file for file in self.found.unread if file.startswith(place + "/")]
            of_masks = any(file.startswith(place + "/") for file in self.found.masks)
            missing = is_class(name) and not of_masks and (part or unread or self._is_empty(place))
            if name in inside or not missing:
                continue
            only = f", only files that are not read ({some(unread)})" if unread else ""
            self.found.problems.append(
                f"{place.removeprefix(self.found.prefix)}/: no {self.noun}s in this class folder{only}; add "
                f"{self.noun}s or delete the folder"
            )
            self.found.classes.append(name)
        for name in classes:
            place = _join(folder, name)
            self.filled.add(place)
            self.found.examples += [Example(example, part, name, group) for example in self.below(place)]

    def _add_nested(self, folder, classes, part, group):
        """Add <class>/<part>/* and <class>/<fold>/*; whether it was that."""
        places = {name: _join(folder, name) for name in classes}
        lower = {name: self.inside(place) for name, place in places.items()}
        every = {low for names in lower.values() for low in names}
        if not classes or not all(lower.values()) or any(self.direct.get(place) for place in places.values()):
            return False
        if any(self.inside(_join(places[name], low)) for name in classes for low in lower[name]):
            return False
        parts = {} if part else words.parts_among(every)
        folds = len(every) > 1 and all(map(words.is_fold, every))
        if not folds and (set(parts) != every or len(set(parts.values())) < 2):
            return False
        self.found.folds += sorted(every) if folds else []
        for name, place in places.items():
            self.filled.add(place)
            for low in lower[name]:
                of, side = (part, low) if folds else (parts[low], group)
                self.found.examples += [Example(e, of, name, side) for e in self.below(_join(place, low))]
        return True

    def _report_alike(self, folder, classes):
        """Folders that all hold the same class folders are not the classes, and nothing says what they are."""
        lower = [frozenset(self._inside_all(_join(folder, name))) for name in classes]
        if len(classes) < 2 or len(set(lower)) > 1 or len(lower[0]) < 2:
            return
        if any(self.direct.get(_join(folder, name)) for name in classes) or any(
            words.is_filler(name) or re.search(r"\d", name) or name.casefold() in words.VIEWS for name in lower[0]
        ):
            return  # years, patients, views: they belong to their class
        self.found.problems.append(
            f"{some(f'{name}/' for name in classes)}: all hold the same folders ({some(sorted(lower[0]))}); which of "
            "the two levels are the classes? Put the files of each class together, or give one of them as the path"
        )

    def _inside_all(self, folder):
        """What is in a folder, or in the only one in it that says nothing: a/images/<these>."""
        inside = self.inside(folder)
        while len(inside) == 1 and not self.direct.get(folder) and words.is_filler(inside[0]):
            folder = _join(folder, inside[0])
            inside = self.inside(folder)
        return inside

    def _without_copies(self, folder, classes):
        """The classes but for a folder that holds folders of all the others once more, as an archive unpacked twice."""
        kept = []
        for name in classes:
            others = {other for other in classes if other != name}
            if len(others) > 1 and others <= set(self.inside(_join(folder, name))):
                inside = count(len(list(self.below(_join(folder, name)))), self.noun)
                self.found.notes.append(f"left out: {name}/ ({inside}), which holds the same class folders once more")
            else:
                kept.append(name)
        return kept

    def _add_loose(self, names, part, group):
        self.found.loose += [Example(name, part, None, group) for name in names]

    def _leave_out(self, folder, names, part, group):
        """Folders that are no class."""
        for name in names:
            place = _join(folder, name)
            inside = list(self.below(place))
            if self.is_class is None and words.is_no_class(name):
                own = place.removeprefix(self.found.prefix)
                self.found.notes.append(
                    f"left out: {own}/ ({count(len(inside), self.noun)}), which is no class by its name"
                )
            else:
                self._add_loose(inside, part, group)


def _join(folder, name):
    return f"{folder}/{name}" if folder else name
