"""What translation models read: pairs of sentences, their vocabulary, and their tokens. torch is not imported."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ssmlab.checkpoints.find import PREPROCESS
from ssmlab.core.errors import DataError, RecipeError
from ssmlab.core.files import read_json, write_atomically
from ssmlab.core.progress import Progress
from ssmlab.data.pairs.marian import MarianPieces, load_words
from ssmlab.data.pairs.reader import PairData, Pairs, read_pairs
from ssmlab.data.pairs.subwords import Subwords, load_subwords, train_subwords, vocabulary_size
from ssmlab.data.splits import split_hash
from ssmlab.data.synthetic.pairs import generated_pairs
from ssmlab.models.catalogue import user_folder
from ssmlab.models.download import local_folder
from ssmlab.tasks.translate.batches import Marks
from ssmlab.tasks.translate.scores import EvaluationSet, require

GENERATED = "generated"
GENERATED_PAIRS = {"train": 400, "val": 40, "test": 40}
FORM = 1  # of cached vocabularies; another one where `train_subwords` makes others of the same texts


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """All parts of a run's data.

    Args:
        pairs: by part.
        source, target: codes of the languages, "" where nothing says them.
        words: vocabularies, by the folder of the model that brings one; "" is that of the training part.
        describe: what run.json says about the data.
    """

    pairs: dict[str, Pairs]
    source: str
    target: str
    words: dict[str, Subwords | MarianPieces]
    describe: dict
    _tokens: dict[tuple[str, str], tuple[list[np.ndarray], list[np.ndarray]]] = field(default_factory=dict, repr=False)

    def marks(self, start: str = "") -> Marks:
        """The tokens that begin and end a target, in the vocabulary of the folder that a model starts from."""
        return Marks(self.words[start].sep, self.words[start].eos)

    def tokens(self, part: str, start: str = "") -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The tokens of a part's sources and targets, without marks.

        Args:
            start: the folder that a model starts from, whose vocabulary it reads with; "" for the run's own.
        """
        if (part, start) not in self._tokens:
            pairs, words = self.pairs[part], self.words[start]
            self._tokens[part, start] = words.encode_all(pairs.sources), words.target.encode_all(pairs.targets)
        return self._tokens[part, start]

    @cached_property
    def sets(self) -> dict[str, EvaluationSet]:
        """The validation and the test part as scores take them."""
        return {
            part: EvaluationSet(*self.pairs[part].sides, source=self.source, target=self.target)
            for part in ("val", "test")
        }


def load_pairs(recipe: Any, progress: Progress | None = None) -> Corpus:
    """Read everything that a recipe for translation names, and learn its vocabulary.

    Raises:
        DataError: with all problems by file name. RecipeError: a model has no name and nothing to start from.
        UserError: what scores translations is not installed.
    """
    nameless = [model.label for model in recipe.models if not (model.name or recipe.start_of(model))]
    if nameless:
        raise RecipeError(
            "no translation model is named to start from; give its folder as model=DIR (the models "
            f"{', '.join(nameless)} of the recipe are ways to train it)"
        )
    require("sacrebleu")
    config, progress = recipe.data, progress or Progress()
    progress.say(f"reading {config.path}")
    found = _generated(config.train_pairs) if config.path == GENERATED else read_pairs(config)
    pairs, notes = dict(found.parts), [*found.notes, *found.warnings]
    if config.limit:
        for part in ("val", "test"):
            pairs[part] = pairs[part].take(range(min(config.limit, len(pairs[part]))))
        notes.append(f"at most {config.limit:,} pairs of the validation and of the test part are used")
    starts = list(dict.fromkeys(recipe.start_of(model) for model in recipe.models))
    source, target = (
        "" if code == side else code for code, side in ((found.source, "source"), (found.target, "target"))
    )
    words = {start: _vocabulary(recipe, pairs["train"], start, (source, target), progress) for start in starts}
    corpus = Corpus(pairs=pairs, source=source, target=target, words=words, describe={})
    first, most = starts[0], recipe.training.tokens_per_batch
    counts = {part: len(both) for part, both in pairs.items()}
    tokens = {part: tuple(int(sum(map(len, side))) for side in corpus.tokens(part, first)) for part in pairs}
    long = sum(max(len(s), len(t) + 1) > most for s, t in zip(*corpus.tokens("train", first), strict=True))
    if long:
        notes.append(f"{long:,} training pairs have more tokens than a batch ({most:,}) and are left out")
    notes.append(
        f"{words[first].size:,} subwords, from the training pairs alone" if not first else f"subwords of {first}"
    )
    corpus.describe.update(
        found.describe()
        | {
            "path": config.path,
            "items": "pairs",
            "counts": counts,
            "tokens": {part: target for part, (_, target) in tokens.items()},
            "source_tokens": {part: source for part, (source, _) in tokens.items()},
            "vocabulary": words[first].size,
            "notes": notes,
        }
    )
    return corpus


def _generated(train_pairs: int) -> PairData:
    """Made-up pairs, as many for training; 0: all of them."""
    sources, targets = generated_pairs(sum(GENERATED_PAIRS.values()))
    parts, begin = {}, 0
    for part, count in GENERATED_PAIRS.items():
        parts[part] = Pairs(sources[begin : begin + count], targets[begin : begin + count])
        begin += count
    if train_pairs:
        parts["train"] = parts["train"].take(range(min(train_pairs, len(parts["train"]))))
    return PairData(
        name=GENERATED, path=GENERATED, format=GENERATED, source="en", target="fr", parts=parts,
        read=dict(GENERATED_PAIRS), divided=(), removed={}, leaks={},
        split_hash=split_hash({part: pairs.sources for part, pairs in parts.items()}), notes=["generated"],
    )  # fmt: skip


def _vocabulary(recipe: Any, train: Pairs, start: str, languages: tuple[str, str], progress: Progress) -> Any:
    """That of the model that is started from, else one that is learned from the training part, or was before.

    Raises:
        DataError: the model translates other languages than the data have.
    """
    config = recipe.data
    if start:
        folder = Path(start) if Path(start).is_dir() else local_folder(start)
        about = read_json(folder / PREPROCESS)
        trained, given = ((about.get("source", ""), about.get("target", "")), languages)
        if all(trained) and all(given) and trained != given:
            raise DataError(
                f"{start} translates {trained[0]} to {trained[1]}, the data are {given[0]} to {given[1]}; give "
                f"data.source={trained[0]} data.target={trained[1]}, or another model"
            )
        return load_words(folder)
    size = vocabulary_size(len(train)) if config.vocabulary == "auto" else config.vocabulary
    digest = hashlib.sha256(f"{FORM} {size}\n".encode())
    for text in (*train.sources, *train.targets):
        digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
    file = user_folder("XDG_CACHE_HOME", ".cache") / "vocabularies" / f"{digest.hexdigest()[:32]}.json"
    if file.is_file():
        try:
            return load_subwords(file)
        except DataError:
            file.unlink()  # it is made anew
    progress.say(f"learning a vocabulary of {size:,} subwords from {len(train):,} pairs")
    words = train_subwords([*train.sources, *train.targets], size)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, words.content)
    return words
