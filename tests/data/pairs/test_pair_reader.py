"""What is read from files of pairs, what is left out of the training part, and what stays on one side."""

import random

import numpy as np
import pytest
from pair_files import folder, pairs, read, write
from pydantic import ValidationError

from ssmlab.core.errors import DataError
from ssmlab.data.pairs.cleaning import groups, text_key, unsuited
from ssmlab.data.pairs.config import PairConfig
from ssmlab.data.pairs.languages import check_languages, language_of, letters_of
from ssmlab.data.pairs.reader import read_lines

# What other programs take for the end of a line, or for none
ODD = [
    "a\u2028b",
    "a\x0bb",
    "a\x0cb",
    "a\x85b",
    "a\x1cb",
    "a\u2029b",
    "a\rb",
    "a\tb",
    "a\0b",
    "😀",
    "J",
    " ",
    "ß\u00a0!",
]


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines_end_in_lf_and_in_nothing_else(tmp_path, end, last, mark):
    lines = ["", *ODD, "", "x", *([] if not last else [""])]
    path = write(tmp_path / "t", lines, end, last=last)
    path.write_bytes(mark.encode() + path.read_bytes())
    assert read_lines(path) == lines


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "cp1252", "utf-8-sig"])
def test_other_encodings(tmp_path, encoding):
    lines = ["Le garçon", "déjà vu"] * 5
    path = write(tmp_path / "t", lines, encoding=encoding)
    if encoding in ("latin-1", "cp1252"):
        with pytest.raises(ValueError, match=r"line 1 is not utf-8 \(byte 0xe7\); convert it.* data.encoding"):
            read_lines(path)
        assert read_lines(path, encoding) == lines
    else:
        assert read_lines(path) == lines


def test_what_is_no_text(tmp_path):
    with pytest.raises(ValueError, match="is empty"):
        read_lines(write(tmp_path / "a", [], last=False))
    with pytest.raises(ValueError, match="zero bytes"):
        read_lines(write(tmp_path / "b", ["abc"] * 9, encoding="utf-16-le"))
    (tmp_path / "c").write_bytes(b"\x1f\x8b damaged")
    with pytest.raises(ValueError, match="cannot be read"):
        read_lines(tmp_path / "c")
    with pytest.raises(ValueError, match="cannot be read"):
        read_lines(tmp_path)


def test_every_file_with_a_problem_is_named_at_once(tmp_path):
    root = folder(tmp_path)
    write(root / "train.en", pairs(59)[0])
    write(root / "val.fr", ["é"] * 10, encoding="latin-1")
    with pytest.raises(DataError) as caught:
        read(root)
    first, second = sorted(caught.value.problems)
    assert "train.en: 59 lines, but" in first and first.endswith("train.fr has 60; line N of both must belong together")
    assert "val.fr: line 1 is not utf-8" in second
    write(root / "val.fr", pairs(10)[1])
    with pytest.raises(DataError, match="^[^\n]*train.en: 59 lines, but [^\n]*train.fr has 60[^\n]*$"):
        read(root)


def test_validation_and_test_are_as_in_the_files(tmp_path):
    root = folder(tmp_path)
    odd = [*ODD[:8], "", "x" * 5000]
    for name in ("val", "test"):
        write(root / f"{name}.en", odd), write(root / f"{name}.fr", odd[::-1])
    data = read(root)
    assert data.parts["val"].sources == odd and data.parts["test"].targets == odd[::-1]
    assert data.counts["train"] == 60


def test_the_training_part_is_cleaned_and_counted_by_reason(tmp_path):
    root = folder(tmp_path)
    english, french = pairs(60)
    bad = {
        "empty": [("", "Rien"), ("Nothing", " \u00a0")],
        "duplicate": [(english[0], french[0] + " "), (english[1], french[1])],
        "length": [("word " * 151, "mot " * 151), ("Code " + "x" * 2000, "Code " + "x" * 2000)],
        "ratio": [("Yes.", "Oui, " * 20), ("No, no, no, no, no, no, no, no, no, no, no, no, no.", "!")],
        "script": [("Привет, как дела", "Bonjour toi"), ("Good morning", "おはようございます")],
    }
    more = [pair for some in bad.values() for pair in some]
    (
        write(root / "train.en", [*english, *(s for s, _ in more)]),
        write(root / "train.fr", [*french, *(t for _, t in more)]),
    )
    data = read(root)
    assert data.removed == dict.fromkeys(bad, 2) | {"in val or test": 0}
    assert data.parts["train"].sources == english and data.read["train"] == 70
    data = read(root, clean=False)
    assert data.counts["train"] == 68 and data.removed == {"empty": 2, "in val or test": 0}


def test_good_pairs_of_any_languages_are_kept():
    sides = {
        "zh": "他们在花园里看见了一只狗。", "ja": "彼らは庭で犬を見ました。", "ru": "Они увидели собаку в саду.",
        "th": "พวกเขาเห็นสุนัขในสวน", "de": "Donaudampfschifffahrtsgesellschaft.", "ar": "رأوا كلبا في الحديقة.",
    }  # fmt: skip
    for text in sides.values():
        masks = unsuited(["They saw a dog in the garden."] * 20, [text] * 20, 150, 4.0)
        assert not any(mask.any() for mask in masks.values()), text
    numbers = unsuited(["They saw a dog.", "12:30 - 14:00"] * 9, ["Ils ont vu.", "12:30 - 14:00"] * 9, 150, 4.0)
    assert not any(mask.any() for mask in numbers.values())
    assert unsuited(["字" * 151], ["word"], 150, 1e9)["length"].all()
    assert not any(mask.any() for mask in unsuited([], [], 150, 4.0).values())


def test_letters_are_counted_in_pieces_of_many_lines(monkeypatch):
    lines = ["abc", "где", "", "a где", "12 !", "ひら カナ 字", "é", "abc где ひ", "ß"]
    names, whole = letters_of(lines)
    monkeypatch.setattr("ssmlab.data.pairs.languages._AT_A_TIME", 2)
    again, pieces = letters_of(lines)
    assert set(names) == set(again) == {"LATIN", "CYRILLIC", "CJK", "HIRAGANA", "KATAKANA"}
    order = [again.index(name) for name in names]
    assert (whole == pieces[:, order]).all() and whole.shape == (9, 5)
    assert whole[3].sum() == 4 and whole[4].sum() == 0 and whole[5].sum() == 5


def test_what_is_in_val_or_test_leaves_the_training_part(tmp_path):
    root = folder(tmp_path)
    clean = read(root)
    held = clean.parts["val"]
    with open(root / "train.en", "a", encoding="utf-8", newline="\n") as english:
        english.write(f"{held.sources[0]}\n{held.sources[1].upper().replace('.', ' !')}\nNothing of it here\n")
    with open(root / "train.fr", "a", encoding="utf-8", newline="\n") as french:
        french.write(f"Une autre phrase\nEncore une phrase\n{clean.parts['test'].targets[3]}\n")
    data = read(root)
    assert data.parts == clean.parts and data.removed["in val or test"] == 3
    assert data.leaks == {"val": {"exact": 1, "near": 1, "of": 10}, "test": {"exact": 1, "near": 0, "of": 10}}
    assert clean.leaks == {} and data.read["train"] == 63


def test_a_test_line_in_val_is_a_warning(tmp_path):
    root = folder(tmp_path)
    for tag in ("en", "fr"):
        lines = (root / f"test.{tag}").read_bytes().split(b"\n")
        (root / f"test.{tag}").write_bytes(b"\n".join([(root / f"val.{tag}").read_bytes().split(b"\n")[0], *lines]))
    assert read(root).warnings == ["of 11 test lines 1 are in val too, which flatters the test"]


def test_a_split_keeps_what_shares_a_source_or_a_target_on_one_side(tmp_path):
    random.seed(0)
    english, french = pairs(300)
    rows = list(zip(english, french, strict=True))
    rows += [(s, random.choice(french)) for s in english[:60]]  # chains: a source has two targets, and so on
    rows += [(s.lower().rstrip("."), t + " !") for s, t in rows[100:140]]
    random.shuffle(rows)
    data = read(write(tmp_path / "p.tsv", ["\t".join(row) for row in rows]))
    assert data.divided == ("val", "test") and set(data.counts) == {"train", "val", "test"}
    assert 30 <= data.counts["val"] <= 45 and 30 <= data.counts["test"] <= 45
    keys = {part: [{text_key(text) for text in side} for side in data.parts[part].sides] for part in data.parts}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not keys[one][0] & keys[other][0] and not keys[one][1] & keys[other][1]
    assert data.leaks == {}

    random.shuffle(rows)  # the order of the lines does not matter
    again = read(write(tmp_path / "q.tsv", ["\t".join(row) for row in rows]))
    assert again.split_hash == data.split_hash
    assert read(tmp_path / "q.tsv", split_seed=1).split_hash != data.split_hash


def test_the_size_of_the_parts_is_said_or_a_tenth(tmp_path):
    path = write(tmp_path / "p.tsv", ["\t".join(row) for row in zip(*pairs(400), strict=True)])
    assert read(path).counts == {"train": 320, "val": 40, "test": 40}
    assert read(path, val_pairs=7, test_pairs=12).counts == {"train": 381, "val": 7, "test": 12}
    with pytest.raises(DataError, match="no pairs for val, test"):
        read(write(tmp_path / "one.tsv", ["a\tb"]))


def test_one_part_that_is_missing_is_taken_from_train(tmp_path):
    root = folder(tmp_path, (60, 10), ("train", "test"))
    test = read(root).parts["test"]
    assert test.sources == pairs(70)[0][60:] and read(root).divided == ("val",)
    assert read(root).counts == {"train": 54, "val": 6, "test": 10}


def test_subsets_are_inside_each_other_and_leave_the_rest_alone(tmp_path):
    root = folder(tmp_path, (400, 10, 10))
    whole, subsets = read(root), {n: read(root, train_pairs=n) for n in (10, 50, 200)}
    kept = [set(subsets[n].parts["train"]) for n in (10, 50, 200)]
    assert [len(some) for some in kept] == [10, 50, 200] and kept[0] < kept[1] < kept[2] < set(whole.parts["train"])
    assert all(data.parts["val"] == whole.parts["val"] for data in subsets.values())
    assert set(read(root, train_pairs=50, split_seed=1).parts["train"]) != kept[1]
    with pytest.raises(DataError, match="train_pairs is 401, but 400 training pairs are left; 0 takes all"):
        read(root, train_pairs=401)


def test_swapped_languages_are_noticed(tmp_path):
    root = folder(tmp_path, tags=("fr", "en"))
    with pytest.raises(DataError, match="the en side is in fr and the fr side in en; swap the files or columns"):
        read(root, source="en", target="fr")
    path = write(tmp_path / "p.tsv", ["\t".join(row) for row in zip(*pairs(100), strict=True)])
    with pytest.raises(DataError, match="the fra side is in eng and the eng side in fra"):
        read(path, source="fra", target="eng")
    assert read(path, source="fra", target="eng", source_column=2, target_column=1).counts["train"] == 80
    assert read(path, source="x", target="y").counts["train"] == 80


def test_another_language_than_is_said_is_a_warning(tmp_path):
    path = write(tmp_path / "p.tsv", ["\t".join(row) for row in zip(*pairs(100), strict=True)])
    (warning,) = read(path, source="en", target="cs").warnings
    assert "the cs side reads like fr; look whether data.source and data.target are right" in warning
    for target in ("fr", "fra", "x", "eo"):  # of the last two nothing is known
        assert not read(path, source="en", target=target).warnings


@pytest.mark.parametrize(
    ("tag", "lines"),
    [
        ("ru", ["Он видит собаку в саду и не знает почему."]),
        ("zh", ["他在花园里看见了一只狗。"]),
        ("ces", ["Už to není jako dřív a já nevím, co si o tom mám myslet.", "On je na ulici se psem."]),
        ("de", ["Der Hund ist nicht in dem Garten, und ich sehe ihn auf der Straße."]),
    ],
)
def test_languages_are_told_apart_by_their_script_or_their_frequent_words(tag, lines):
    english = ["He is in the garden with the dog and I do not know why.", "It is a house that you like."] * 40
    others = lines * (80 // len(lines))
    check_languages(english, others, "en", tag, "x")
    check_languages(others, english, tag, "eng", "x")
    with pytest.raises(DataError, match=f"x: the en side is in {tag} and the {tag} side in en"):
        check_languages(others, english, "en", tag, "x")


def test_a_part_that_is_the_other_way_round_is_noticed_whatever_the_languages(tmp_path):
    root = folder(tmp_path, (200, 60, 60), tags=("src", "tgt"))
    assert read(root).counts["val"] == 60
    (root / "val.src").rename(root / "x")
    (root / "val.tgt").rename(root / "val.src")
    (root / "x").rename(root / "val.tgt")
    with pytest.raises(DataError, match=", val: the two sides are the other way round than in the training part"):
        read(root)


def test_the_same_text_on_both_sides_and_lines_out_of_step(tmp_path):
    english, french = pairs(400)
    random.seed(1)
    english = [e + " and so on" * random.randrange(6) for e in english]
    french = [f + " et ainsi de suite" * (e.count("so on")) for e, f in zip(english, french, strict=True)]
    write(tmp_path / "a.en", english), write(tmp_path / "a.fr", french)
    assert read(tmp_path / "a").warnings == []
    write(tmp_path / "b.en", english), write(tmp_path / "b.fr", [*french[1:], french[0]])
    (warning,) = read(tmp_path / "b").warnings
    assert "long sources do not have long targets" in warning
    write(tmp_path / "c.en", english), write(tmp_path / "c.fr", english)
    with pytest.raises(DataError, match="in 100% of the pairs both sides are the same text"):
        read(tmp_path / "c")


def test_groups_are_the_components_of_sources_and_targets():
    """Compared with the plainest way: names are handed on until nothing changes."""
    random = np.random.default_rng(0)
    sources, targets = ([b"%d" % i for i in random.integers(0, 60, 80)] for _ in range(2))
    names = list(range(80))
    for _ in range(80):
        names = [
            min(n for n, s, t in zip(names, sources, targets, strict=True) if s == own or t == other)
            for own, other in zip(sources, targets, strict=True)
        ]
    found = groups(sources, targets)
    assert len(set(names)) > 5
    assert len(set(zip(names, found, strict=True))) == len(set(names)) == len(set(found))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("The dog.", "the  DOG !", True),
        ("l'homme", "l’homme", True),
        ("Caf\u00e9", "cafe\u0301", True),
        ("cafe", "café", False),
        ("?", "!", False),
        ("की", "के", False),  # the marks of letters count
        ("1,5", "15", False),
    ],
)
def test_texts_are_near_where_case_blanks_and_punctuation_differ(one, other, same):
    assert (text_key(one) == text_key(other)) == same


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"source": "en", "target": "EN"}, "are both 'en'"),
        ({"source_column": 2}, "are both 2"),
        ({"path": "a", "target_path": "a"}, "are both a"),
        ({"vocabulary": 100}, "at least 300"),
        ({"encoding": "utf-9"}, "no encoding that Python knows"),
        ({"max_lenght": 3}, "Extra inputs"),
    ],
)
def test_mistakes_in_a_recipe(keys, said):
    with pytest.raises(ValidationError, match=said):
        PairConfig(**keys)


def test_names_of_languages():
    found = [
        language_of(tag) for tag in ("de", "DE", "de_AT", "deu", "ger", "zh-CN", "cmn", "sr@latin", "tsv", "x", "")
    ]
    assert found == ["de", "de", "de", "de", "de", "zh", "zh", "sr", "", "", ""]
