"""The tokenizer of OPUS-MT's folders: the tokens of transformers' `MarianTokenizer`."""

import json
import pickle
import warnings

import pytest

from ssmlab.core.errors import DataError
from ssmlab.data.pairs.marian import MarianPieces, load_words
from ssmlab.data.pairs.subwords import Subwords, train_subwords

pytest.importorskip("sentencepiece")
ENGLISH = [
    "A dog runs over the green grass.",
    "Two men are sitting on a bench.",
    "The old man reads a book at home.",
] * 4
FRENCH = [
    "Un chien court sur l'herbe verte.",
    "Deux hommes sont assis sur un banc.",
    "Le vieil homme lit un livre.",
] * 4
TEXTS = [
    "A dog reads.",
    "",
    "  two  blanks ",
    "Étoile 日本 ☃",
    ">>fra<< The dog",
    ">>xyz<< The dog",
    "one\ttab",
    "a\u00a0b",
    "J",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What transformers writes, from vocabularies that are learned here."""
    from sentencepiece import SentencePieceTrainer
    from transformers import MarianTokenizer

    folder = tmp_path_factory.mktemp("opus")
    for side, texts in (("source", ENGLISH), ("target", FRENCH)):
        with open(folder / f"{side}.spm", "wb") as file:
            SentencePieceTrainer.train(
                sentence_iterator=iter(texts), model_writer=file, vocab_size=80, hard_vocab_limit=False, minloglevel=2,
                bos_id=-1, eos_id=0, unk_id=1, pad_id=-1,
            )  # fmt: skip
    vocabularies = [_pieces(folder / f"{side}.spm") for side in ("source", "target")]
    words = ["</s>", "<unk>", ">>fra<<", *sorted({*vocabularies[0], *vocabularies[1]} - {"</s>", "<unk>"}), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({word: token for token, word in enumerate(words)}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that sacremoses is not there
        theirs = MarianTokenizer(
            *(str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")),
            source_lang="en", target_lang="fr",
        )  # fmt: skip
    saved = tmp_path_factory.mktemp("saved")
    theirs.save_pretrained(saved)
    (saved / "config.json").write_text(json.dumps({"model_type": "marian", "decoder_start_token_id": len(words) - 1}))
    return saved, theirs


def _pieces(path):
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(path))
    return [pieces.id_to_piece(i) for i in range(len(pieces))]


def test_sources_and_targets_have_their_tokens(folder):
    saved, theirs = folder
    ours = load_words(saved)
    assert isinstance(ours, MarianPieces)
    for text in [*TEXTS, *ENGLISH[:3], *FRENCH[:3]]:
        assert ours.encode(text) == theirs(text)["input_ids"], text
        assert [*ours.target.encode(text), ours.eos] == theirs(text_target=text)["input_ids"], text
    assert [row.tolist() for row in ours.encode_all(TEXTS)] == [ours.encode(text) for text in TEXTS]


def test_their_texts(folder):
    saved, theirs = folder
    ours = load_words(saved)
    for text in [*TEXTS, *FRENCH[:3]]:
        tokens = theirs(text_target=text)["input_ids"]
        expected = theirs.decode([theirs.pad_token_id, *tokens], skip_special_tokens=True)
        assert ours.target.decode([ours.sep, *tokens]) == expected, text
    assert ours.target.decode([*ours.target.encode(FRENCH[1]), ours.eos, ours.pad]) == FRENCH[1]


def test_marks(folder):
    saved, theirs = folder
    ours = load_words(saved)
    assert (ours.eos, ours.pad, ours.sep) == (theirs.eos_token_id, theirs.pad_token_id, theirs.pad_token_id)
    assert ours.size == len(theirs.get_vocab()) and ours.target.target.side == "target"
    typed = ours.target.encode("</s> <pad>")  # of a user's text, no marks
    assert ours.eos not in typed and ours.pad not in typed
    copy = pickle.loads(pickle.dumps(ours))
    assert copy.encode("A dog") == ours.encode("A dog")


def test_it_goes_with_a_model_that_was_trained_here(folder, tmp_path):
    ours = load_words(folder[0])
    ours.save(tmp_path)
    (tmp_path / "preprocess.json").write_text(json.dumps({"separator_id": 5}))
    again = load_words(tmp_path)
    assert again.sep == 5 and again.encode("The dog") == ours.encode("The dog")
    assert again.target.decode(ours.target.encode(FRENCH[0])) == FRENCH[0]


def test_our_own_folders_open_by_the_same_call(tmp_path):
    words = train_subwords(ENGLISH + FRENCH, 300)
    words.save(tmp_path)
    found = load_words(tmp_path)
    assert isinstance(found, Subwords) and found.target is found and found.encode("A dog") == words.encode("A dog")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("target.spm", None, "lacks target.spm; copy the folder again"),
        ("source.spm", b"no model", "source.spm is no model of sentencepiece"),
        ("vocab.json", b'{"a": 1}', "has no token '<unk>'"),
        ("tokenizer_config.json", b'{"separate_vocabs": true}', "a vocabulary for each language"),
    ],
)
def test_what_is_missing_is_told(folder, tmp_path, name, content, message):
    load_words(folder[0]).save(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_words(tmp_path).target.encode("a")
