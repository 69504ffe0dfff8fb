"""Names of languages, and whether two texts are in the languages that they are said to be in."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ssmlab.core.errors import DataError

# ISO 639-1, with blanks between
TWO_LETTERS = (
    "aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo "
    "es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka "
    "kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng "
    "nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su "
    "sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu"
)
# ISO 639-3, both forms where there are two
THREE_LETTERS = {
    three: two
    for two, threes in {
        "ar": "ara", "bg": "bul", "ca": "cat", "cs": "ces cze", "da": "dan", "de": "deu ger", "el": "ell gre",
        "en": "eng", "es": "spa", "et": "est", "fa": "fas per", "fi": "fin", "fr": "fra fre", "he": "heb", "hi": "hin",
        "hr": "hrv", "hu": "hun", "hy": "hye arm", "id": "ind", "is": "isl ice", "it": "ita", "ja": "jpn",
        "ka": "kat geo", "km": "khm", "ko": "kor", "lt": "lit", "lv": "lav", "mk": "mkd mac", "nl": "nld dut",
        "no": "nor nob", "pl": "pol", "pt": "por", "ro": "ron rum", "ru": "rus", "sk": "slk slo", "sl": "slv",
        "sq": "sqi alb", "sr": "srp", "sv": "swe", "sw": "swa", "ta": "tam", "th": "tha", "tr": "tur", "uk": "ukr",
        "ur": "urd", "vi": "vie", "zh": "zho chi cmn",
    }.items()
    for three in threes.split()
}  # fmt: skip
LANGUAGE_NAMES = {
    name: language
    for language, names in {
        "ar": "arabic", "bg": "bulgarian", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german deutsch",
        "el": "greek", "en": "english", "es": "spanish español", "et": "estonian", "fi": "finnish",
        "fr": "french français", "he": "hebrew", "hi": "hindi", "hr": "croatian", "hu": "hungarian",
        "id": "indonesian", "it": "italian italiano", "ja": "japanese", "ko": "korean", "lt": "lithuanian",
        "lv": "latvian", "nl": "dutch nederlands", "no": "norwegian", "pl": "polish", "pt": "portuguese",
        "ro": "romanian", "ru": "russian", "sk": "slovak", "sl": "slovenian", "sv": "swedish", "th": "thai",
        "tr": "turkish", "uk": "ukrainian", "vi": "vietnamese", "zh": "chinese",
    }.items()
    for name in names.split()
}  # fmt: skip
# Frequent words of languages in Latin letters
FREQUENT = {
    "ca": "el la els les de i a en un una que no és per amb del al es",
    "cs": "a v na se je o s z do to že za jsou ve k i po si jako pro",
    "da": "og i en at er det på til de af med for ikke den et der har som jeg",
    "de": "der die das und ein eine in ist mit auf zu den von ich nicht einem im sich dem",
    "en": "the a i of to and in is on with that it for are at you he his by be this do me my so",
    "es": "el la de y en un una que los se del las con por no es al su para",
    "et": "ja on ei et see mis ta kui ma oli ka kes või aga seda",
    "fi": "ja on ei se että hän ovat oli mutta kun minä joka tämä niin ole",
    "fr": "le la les de des et un une est en dans que il à du pas sur qui au",
    "hr": "je i u na se da su za od s o kao koji ne što",
    "hu": "a az és egy nem hogy is van ez meg de volt csak már",
    "id": "yang di dan ini itu dengan untuk tidak dari dalam saya adalah ke",
    "it": "il la di e un una che in è del per non con le si della gli al",
    "lt": "ir yra kad su į iš tai buvo bet ar aš jis nuo",
    "lv": "un ir ar no uz par ka tas bija kas nav es",
    "nl": "de het een en van in is op dat met te zijn niet voor ik die",
    "no": "og i en er det på til av for ikke med den et som har jeg å de",
    "pl": "w i na się z do nie to że jest o jak za po od jego przez",
    "pt": "o a de e em um uma que os do da não no se com na as por para",
    "ro": "și în de la a un o cu pe nu este din că mai care se",
    "sk": "a v na sa je o s z do to že za sú vo k i po si ako pre",
    "sl": "je in v na se da so za ki pa ne z sem bi od",
    "sv": "och i en att är det på som av för med inte den ett har jag till de",
    "tr": "bir ve bu da de için ne o mi çok ile var ben daha",
    "vi": "là và của có không một cho tôi được trong người những với",
}
SCRIPTS = {
    "ARABIC": "ar fa ur ps",
    "ARMENIAN": "hy",
    "BENGALI": "bn as",
    "CJK": "zh",
    "CYRILLIC": "ru uk bg be mk sr kk ky mn tg",
    "DEVANAGARI": "hi mr ne sa",
    "GEORGIAN": "ka",
    "GREEK": "el",
    "GUJARATI": "gu",
    "HANGUL": "ko",
    "HEBREW": "he yi",
    "HIRAGANA": "ja",
    "KANNADA": "kn",
    "KHMER": "km",
    "LAO": "lo",
    "MALAYALAM": "ml",
    "MYANMAR": "my",
    "SINHALA": "si",
    "TAMIL": "ta",
    "TELUGU": "te",
    "THAI": "th",
}
SCRIPT_OF = {language: script for script, languages in SCRIPTS.items() for language in languages.split()}
NO_BLANKS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")  # scripts without blanks between words
SAMPLE = 3_000  # lines
LEAST_WORDS = 100
_AT_A_TIME = 50_000  # lines


def language_of(tag: str) -> str:
    """The two letters of a language: de of de, DE, de_AT, deu and ger; "" for any other word."""
    first = re.split("[-_@]", tag.casefold())[0]
    return first if len(first) == 2 and first in TWO_LETTERS.split() else THREE_LETTERS.get(first, "")


def is_language(tag: str) -> bool:
    """Whether a word of a file's name names a language."""
    return bool(language_of(tag))


def letters_of(lines: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Names of scripts, such as LATIN and HAN's CJK, and how many letters of each a line has: (n, scripts)."""
    names: dict[str, int] = {}
    blocks = []
    table = np.full(0x110000, -1, np.int16)  # code point -> script, -1 for what is no letter
    for begin in range(0, len(lines), _AT_A_TIME):
        some = lines[begin : begin + _AT_A_TIME]
        codes = np.frombuffer("".join(some).encode("utf-32-le", "surrogatepass"), np.uint32)
        present = np.zeros(len(table), bool)
        present[codes] = True
        for code in np.flatnonzero(present & (table == -1)).tolist():
            letter = chr(code)
            script = unicodedata.name(letter, "").split(" ")[0].split("-")[0] if letter.isalpha() else ""
            if script:
                table[code] = names.setdefault(script, len(names))
        line = np.repeat(np.arange(len(some)), [len(text) for text in some])
        scripts = table[codes]
        kept = scripts >= 0
        width = max(1, len(names))
        counts = np.bincount(line[kept] * width + scripts[kept], minlength=len(some) * width)
        blocks.append(counts.reshape(len(some), width))
    counts = np.zeros((len(lines), max(1, len(names))), np.int64)
    for begin, block in zip(range(0, len(lines), _AT_A_TIME), blocks, strict=True):
        counts[begin : begin + len(block), : block.shape[1]] = block
    return list(names) or [""], counts


def check_languages(sources: Sequence[str], targets: Sequence[str], source: str, target: str, where: str) -> None:
    """Look whether the sides are in each other's language.

    Args:
        source, target: the languages; any names. Nothing is checked where one of them has no table here.
        where: what holds the lines, for the message.
    Raises:
        DataError: they are.
    """
    own, other = language_of(source), language_of(target)
    if not own or not other or own == other:
        return
    right = share(sources, own, other), share(targets, other, own)
    if _turned(right, (share(sources, other, own), share(targets, own, other))):
        raise DataError(
            f"{where}: the {source} side is in {target} and the {target} side in {source}; swap the files or columns, "
            "or source and target"
        )


def other_language(lines: Sequence[str], tag: str) -> str:
    """The language that lines read like, where it is another one than they are said to be in; "" where nothing is sure.

    Sure is where its frequent words are a tenth of all and three times as many as those of the language that is said:
    Danish and Norwegian, or Czech and Slovak, are not told apart.
    """
    own, words = language_of(tag), _pieces(lines)
    if own not in FREQUENT and own not in SCRIPT_OF:
        return ""
    shares = {name: _share_among(words, set(known.split())) or 0.0 for name, known in FREQUENT.items()}
    best = max(shares, key=shares.__getitem__)
    return best if shares[best] > max(0.1, 3 * shares.get(own, 0.0)) else ""


def check_sides(part: Sequence[Sequence[str]], train: Sequence[Sequence[str]], where: str) -> None:
    """Look whether the sides of a part are the other way round than those of the training part, whatever the languages.

    Args:
        part, train: sources and targets.
    Raises:
        DataError: they are.
    """
    frequent = [{piece for piece, _ in _pieces(side).most_common(50)} for side in train]
    own = [frequent[0] - frequent[1], frequent[1] - frequent[0]]
    shares = [[_share_among(_pieces(side), known) for known in own] for side in part]
    if _turned((shares[0][0], shares[1][1]), (shares[0][1], shares[1][0])):
        raise DataError(f"{where}: the two sides are the other way round than in the training part; swap its files")


def share(lines: Sequence[str], language: str, against: str) -> float | None:
    """How much of some lines is a language's: of the letters in its script, or of the words among its frequent ones
    that are no frequent ones of the language `against`.

    None: nothing is known of the language, or there are too few words.
    """
    script = SCRIPT_OF.get(language)
    if script:
        names, counts = letters_of(_sample(lines))
        return float(counts[:, names.index(script)].sum() / max(1, counts.sum())) if script in names else 0.0
    known = set(FREQUENT.get(language, "").split()) - set(FREQUENT.get(against, "").split())
    return _share_among(_pieces(lines), known) if known else None


def _turned(right, wrong) -> bool:
    """Whether both sides are much nearer to the other's language than to their own."""
    if None in right or None in wrong:
        return False
    return all(w > 0.05 and w > 2 * r for w, r in zip(wrong, right, strict=True))


def _share_among(words: Counter[str], known: set[str]) -> float | None:
    return sum(words[word] for word in known) / words.total() if words.total() >= LEAST_WORDS else None


def _pieces(lines: Sequence[str]) -> Counter[str]:
    """Words, or characters where there are no blanks between words."""
    text = " ".join(_sample(lines)).casefold()
    words = re.findall(r"\w+", text)
    return Counter(words if len(words) * 10 > len(text) else text)


def _sample(lines: Sequence[str]) -> Sequence[str]:
    return lines[:: max(1, len(lines) // SAMPLE)]
