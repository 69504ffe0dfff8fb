"""Which sentence pairs are read, and what is done with them: the fields that a recipe's [data] has for them."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from ssmlab.core.table import Encoding, Table


class PairConfig(Table):
    """Sentence pairs: which files, which language is translated into which, what is left out, how they are divided."""

    path: str = ""
    """A folder or .zip, a file of tab-separated pairs, what two files begin with, or the source file."""
    target_path: str = ""
    """The target file, where `path` is the source file."""
    source: str = ""
    """The source language as file names have it, such as en; of the two that are there the first."""
    target: str = ""
    """The target language as file names have it, such as fr."""
    source_column: int = Field(1, ge=1)
    """Of tab-separated pairs."""
    target_column: int = Field(2, ge=1)
    """Of tab-separated pairs."""
    train: str = ""
    """Files of the training part, without the language; found by their names if empty."""
    val: str = ""
    """Files of the validation part, such as newstest2013."""
    test: str = ""
    """Files of the test part, such as test_2016_flickr where there are several."""
    encoding: Encoding = "utf-8"
    """Of files that are not UTF-8, such as latin-1."""
    clean: bool = True
    """Leave out training pairs that are too long, too unlike in length, in a strange script, or there twice."""
    max_length: int = Field(150, ge=1)
    """Most words of a side in the training part; a character of a script without blanks counts as a word."""
    max_ratio: float = Field(4.0, gt=1)
    """How many times as long as usual for these languages one side may be in the training part."""
    train_pairs: int = Field(0, ge=0)
    """So many pairs of the training part, the smaller subset inside the larger; 0 = all."""
    val_pairs: int = Field(1000, ge=1)
    """Of all, at most a tenth, where the data come without a validation part."""
    test_pairs: int = Field(1000, ge=1)
    """Of all, at most a tenth, where the data come without a test part."""
    split_seed: int = 0
    """Of the split and of the subset."""
    vocabulary: int | Literal["auto"] = "auto"
    """Subwords of both languages together, learned from the training pairs; auto: by how many pairs there are."""

    @model_validator(mode="after")
    def _agree(self):
        if self.source and self.source.casefold() == self.target.casefold():
            raise ValueError(f"source and target are both {self.source!r}; name two languages")
        if self.source_column == self.target_column:
            raise ValueError(f"source_column and target_column are both {self.source_column}; name two columns")
        if self.target_path and Path(self.target_path) == Path(self.path):
            raise ValueError(f"path and target_path are both {self.path}; name two files")
        if self.vocabulary != "auto" and self.vocabulary < 300:
            raise ValueError(
                f"vocabulary must be auto or at least 300 (256 bytes, marks, merges), got {self.vocabulary}"
            )
        return self
