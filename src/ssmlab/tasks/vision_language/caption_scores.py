"""CIDEr-D and BLEU-4 of captions, each with what the same captions reach on other images.

The numbers are those of the COCO caption evaluation on texts that are split into words already; the package that has it
starts a Java program for the words, is 104 MB, and no longer kept, so its 60 lines of arithmetic are written here anew.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import unescape

import numpy as np

from ssmlab.core.errors import DataError
from ssmlab.core.statistics import Interval, score_interval, statistics_of

ORDERS = 4
SIGMA = 6.0
_CLITIC = re.compile(r"(?<=\w)('(?:s|m|d|re|ve|ll))\b|(?<=\w)(n't)\b")
# abbreviations with their full stop; a word with its inner signs; a number with its separators; any other sign
_WORD = re.compile(
    r"'(?:s|m|d|re|ve|ll)\b|n't\b|(?:mr|mrs|ms|dr|st|jr|sr|vs)\.|(?:[a-z]\.){2,}|\d+(?:[.,:/]\d+)+|\w+(?:[-./&']\w+)*|[^\w\s]"
)
_PUNCTUATION = frozenset("'\"`.?!,:;-–—…“”‘’")
# the evaluation means to leave brackets out, but looks for their names in capitals among words in lower case
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "{": "-lcb-", "}": "-rcb-", "[": "-lsb-", "]": "-rsb-"}


def caption_words(text: str) -> str:
    """A caption in lower case, its words apart and without punctuation, joined by blanks.

    The Penn Treebank's words, as the COCO evaluation takes them: clitics apart ("do n't", "man 's"), words with hyphens
    whole. Rare abbreviations may differ.
    """
    text = _CLITIC.sub(
        lambda found: f" {found[0]}", unescape(text).lower().replace("’", "'").replace("cannot", "can not")
    )
    return " ".join(_BRACKETS.get(word, word) for word in _WORD.findall(text) if word not in _PUNCTUATION)


def cider_d(
    candidates: Sequence[str], references: Sequence[Sequence[str]], corpus: Sequence[Sequence[str]] | None = None
) -> np.ndarray:
    """CIDEr-D of every caption, (n,); the score of a set is the mean. Texts are split at blanks.

    Of every order of n-grams the cosine of tf-idf vectors, the candidate's counts clipped to the reference's, times a
    Gaussian of the difference in length; the mean over orders and references, times 10.
    Source: Vedantam et al. 2015 (arXiv:1411.5726).

    Args:
        references: of every candidate one at least.
        corpus: references of other images to take document frequencies from; None takes `references`. With a few images
            rare words weigh little: name the training captions.
    Raises:
        DataError: numbers differ, or a caption has no reference.
    """
    _check(candidates, references)
    documents = references if corpus is None else corpus
    seen = Counter(gram for texts in documents for gram in {gram for text in texts for gram in _grams(text)})
    total = np.log(float(len(documents)))

    def vector(text: str) -> tuple[list[dict[tuple[str, ...], float]], list[float], int]:
        weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(ORDERS)]
        counts = _grams(text)
        for gram, count in counts.items():
            weights[len(gram) - 1][gram] = count * (total - np.log(max(1.0, seen[gram])))
        norms = [float(np.sqrt(sum(value**2 for value in order.values()))) for order in weights]
        return weights, norms, sum(count for gram, count in counts.items() if len(gram) == 2)

    scores = []
    for candidate, texts in zip(candidates, references, strict=True):
        own, own_norms, own_length = vector(candidate)
        found = np.zeros(ORDERS)
        for text in texts:
            other, norms, length = vector(text)
            for n in range(ORDERS):
                shared = sum(min(v, other[n].get(gram, 0.0)) * other[n].get(gram, 0.0) for gram, v in own[n].items())
                if own_norms[n] and norms[n]:
                    shared /= own_norms[n] * norms[n]
                found[n] += shared * np.exp(-((own_length - length) ** 2) / (2 * SIGMA**2))
        scores.append(10 * found.mean() / len(texts))
    return np.array(scores)


def bleu_statistics(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """What BLEU needs of every caption, (n, 10): of each order n-grams that occur in a reference, and all; its length,
    and that of the nearest reference. Texts are split at blanks; rows add up. See `bleu_of`."""
    _check(candidates, references)
    rows = []
    for candidate, texts in zip(candidates, references, strict=True):
        own, most = _grams(candidate), Counter[tuple[str, ...]]()
        for text in texts:
            most |= _grams(text)
        length = len(candidate.split())
        equal, every = np.zeros(ORDERS), np.array([max(0, length - n) for n in range(ORDERS)], float)
        for gram, count in own.items():
            equal[len(gram) - 1] += min(count, most[gram])
        nearest = min((len(text.split()) for text in texts), key=lambda other: (abs(other - length), other))
        rows.append([*equal, *every, length, nearest])
    return np.array(rows)


def bleu_of(sums: np.ndarray) -> np.ndarray:
    """BLEU-4, 0 to 1, of statistics that were added up, (..., 10) -> (...); the brevity penalty included.

    Source: Papineni et al. 2002; the tiny numbers of the COCO evaluation keep it defined without any equal n-gram.
    """
    equal, every, length, nearest = sums[..., :4], sums[..., 4:8], sums[..., 8], sums[..., 9]
    precision = np.prod((equal + 1e-15) / (every + 1e-9), axis=-1) ** (1 / ORDERS)
    ratio = (length + 1e-15) / (nearest + 1e-9)
    return precision * np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)


@dataclass(frozen=True)
class CaptionScores:
    """Scores of captions with 95 % intervals over images.

    Attributes:
        cider, bleu: of the captions on their own images. cider_shuffled, bleu_shuffled: each on another image's
            references. cider_gain, bleu_gain: own less shuffled, over the same images.
        hits: share of a caption's content words that a reference has. n: images.
    """

    cider: Interval
    cider_shuffled: Interval
    cider_gain: Interval
    bleu: Interval
    bleu_shuffled: Interval
    bleu_gain: Interval
    hits: float
    n: int

    @property
    def above_shuffled(self) -> bool:
        """Whether both gains are above zero with their whole intervals."""
        return self.cider_gain.low > 0 and self.bleu_gain.low > 0


def score_captions(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    corpus: Sequence[Sequence[str]] | None = None,
    *,
    seed: int = 0,
) -> CaptionScores:
    """CIDEr-D and BLEU-4 of a caption an image, against the same captions on other images.

    A model that does not look at the image reaches the same on both. Texts are made words by `caption_words`.

    Args:
        candidates: image -> caption. references: image -> its captions; images without a candidate are refused.
        corpus: see `cider_d`. seed: of the shuffling and the intervals.
    Raises:
        DataError: images differ, or there are fewer than two.
    """
    missing = [name for name in references if name not in candidates]
    if missing or len(references) < 2:
        what = f"no caption of {missing[0]} and {len(missing) - 1} more" if missing else f"{len(references)} images"
        raise DataError(f"captions are needed of every image with references, of two at least; got {what}")
    texts = [caption_words(candidates[name]) for name in references]
    known = [[caption_words(text) for text in references[name]] for name in references]
    documents = None if corpus is None else [[caption_words(text) for text in group] for group in corpus]
    order = np.random.default_rng(seed).permutation(len(texts))
    turned = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))  # nobody keeps its own
    others = [texts[turned[i]] for i in range(len(texts))]
    cider, cider_other = (statistics_of(cider_d(lines, known, documents)) for lines in (texts, others))
    bleu, bleu_other = (bleu_statistics(lines, known)[None] for lines in (texts, others))
    hits = []
    for text, group in zip(texts, known, strict=True):
        words, said = set(text.split()) - _SMALL, {word for reference in group for word in reference.split()}
        hits.append(len(words & said) / len(words) if words else 0.0)
    return CaptionScores(
        cider=score_interval(cider, seed=seed),
        cider_shuffled=score_interval(cider_other, seed=seed),
        cider_gain=score_interval(cider, b=cider_other, seed=seed),
        bleu=score_interval(bleu, bleu_of, seed=seed),
        bleu_shuffled=score_interval(bleu_other, bleu_of, seed=seed),
        bleu_gain=score_interval(bleu, bleu_of, bleu_other, seed=seed),
        hits=float(np.mean(hits)),
        n=len(texts),
    )


_SMALL = frozenset(caption_words(
    "a an the and or of in on at to with by for from is are was were be being it its his her their this that there as "
    "into over while"
).split())  # fmt: skip


def _grams(text: str) -> Counter[tuple[str, ...]]:
    words = text.split()
    return Counter(tuple(words[i : i + n]) for n in range(1, ORDERS + 1) for i in range(len(words) - n + 1))


def _check(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(candidates) != len(references) or not candidates or not all(references):
        raise DataError(
            f"every caption needs a reference; got {len(candidates):,} captions and {len(references):,} lists of them"
        )
