"""The tables of a recipe that classifies sequences. Nothing here imports torch."""

from typing import ClassVar, Literal

from pydantic import Field

from ssmlab.core.table import Encoding, Table
from ssmlab.tasks.language.recipe import SequenceRecipe


class LabelledData(Table):
    """Which sequences with labels."""

    path: str = ""
    """A folder, a file, or the name of data that are made."""
    kind: Literal["text", "dna", "audio"] = "text"
    """What the data are."""
    tokenizer: str = ""
    """A tokenizer.json, a sentencepiece model, or bytes; bytes, or that of the weights, if empty."""
    encoding: Encoding = "utf-8"
    """Of files of text, such as latin-1."""
    labels: str = ""
    """The column of the classes, where a table has them and it is not clear."""
    group: str = ""
    """The table's column of what stays in one part, such as a speaker."""
    length: int = Field(1024, ge=2)
    """Longer sequences are cut."""
    crop: Literal["start", "random"] = "start"
    """Which part is kept in training; in evaluation it is the start."""
    val_fraction: float = Field(0.1, gt=0, lt=0.5)
    """Of train, where the data come without a validation part."""
    split_seed: int = 0
    """Of the split and of the choice by `limit`."""
    limit: int = Field(0, ge=0)
    """At most so many sequences of each part, drawn class by class; 0 = all."""


class Head(Table):
    """What makes one prediction of a sequence: the mean over its tokens, or the features at the last one."""

    pool: Literal["mean", "last"] = "mean"
    """What the classifier reads: the mean over tokens, or the last one."""


class LabelledRecipe(SequenceRecipe):
    """A run of classifiers of sequences."""

    forms: ClassVar[str] = (
        "text: class folders of .txt; DNA: a folder of FASTA files, one a class, or class folders of them; audio: "
        "class folders of .wav, or <class>_<speaker>_<number>.wav; or generated"
    )

    task: Literal["classify_sequence"] = "classify_sequence"
    data: LabelledData = LabelledData()
    head: Head = Head()
