"""Texts that differ in a few words across parts."""

import random

from ssmlab.data.near import near_texts

WORDS = [f"word{i}" for i in range(500)]


def text(seed, n=120):
    return " ".join(random.Random(seed).choices(WORDS, k=n))


def test_a_few_changed_words_are_found():
    items = [("train", f"t{i}", text(i)) for i in range(30)] + [("test", f"e{i}", text(100 + i)) for i in range(10)]
    assert near_texts(items) == []
    words = text(3).split()
    words[10], words[90] = "other", "words"
    items[35] = ("test", "e5", " ".join(words).upper())
    (said,) = near_texts(items)
    assert said.startswith("1 of 10 test texts differ in a few words from one in train or val (test: e5 and train: t3)")


def test_equal_short_and_different_texts_are_not():
    assert near_texts([("train", "a", text(1)), ("test", "b", text(1))]) == []
    assert near_texts([("train", "a", "good film"), ("test", "b", "good  film")]) == []
    half = " ".join([*text(1).split()[:60], *text(2).split()[:60]])
    assert near_texts([("train", "a", text(1)), ("val", "b", half)]) == []
