"""`ssmlab translate`: as many lines out as in, whatever is in them; one line for a mistake."""

import io
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from calling import call

from ssmlab.checkpoints.folder import save_model
from ssmlab.cli.translate import _line
from ssmlab.core.files import write_records
from ssmlab.core.record import Record
from ssmlab.data.pairs.subwords import train_subwords
from ssmlab.models import create_model
from ssmlab.tasks.translate.options import TranslateFileOptions
from ssmlab.tasks.translate.translator import Translation

HOSTILE = b"\n".join(
    [b"\xef\xbb\xbf", b"A dog runs.\r", b"two\xe2\x80\xa8separators\x0b\x0c\xc2\x85 in a line", b"a\ttab", b"\0", b"",
     b" \t ", b"\xff\xfe\x80 no UTF-8", "🐕 läuft".encode(), b"J", "собака бежит".encode(), b"</s> <pad>", b"y" * 3000,
     b"\r", b"no last line feed"]
)  # fmt: skip
BLANK = [0, 5, 6, 13]


def saved(place, name="translation_mamba_encdec_test"):
    """A model of bytes in a folder, where line feeds are likely."""
    torch.manual_seed(0)
    model = create_model(name, vocab_size=259).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.mul_(1 if key.endswith("dt_bias") else 3)
        model.lm_head.weight[[2, 13]] *= 2
    save_model(model, place, {"task": "translate", "separator_id": 1, "eos": 2})
    train_subwords(["abc"], 259).save(place)
    return place


def test_which_of_several_models_translates_is_said(tmp_path, capsysbinary):
    """The one with the highest BLEU on the validation part."""
    for name, bleu in (("first", 3.0), ("second", 5.0)):
        place = saved(tmp_path / "run" / "models" / name)
        write_records(place / "records.jsonl", [Record(model=name, split="val", metric="bleu", value=bleu)])
    source = tmp_path / "text"
    source.write_text("ab\n")
    assert call("translate", tmp_path / "run", source, "--device", "cpu", "--max-tokens", 2) == 0
    told = capsysbinary.readouterr().err.decode().replace("\n", "")
    assert "second (highest validation BLEU of 2 models)" in told


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("models"))


@pytest.fixture
def translate(folder, capsysbinary, monkeypatch):
    """Calls the command; returns the bytes that it printed."""

    def called(*arguments, code=0, stdin=None, folder=folder):
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin), isatty=lambda: False))
        assert call("translate", folder, "--device", "cpu", "--max-tokens", 12, *arguments) == code
        return capsysbinary.readouterr()

    return called


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_hostile_file_keeps_its_lines(translate, tmp_path, end):
    (tmp_path / "in").write_bytes(HOSTILE + end)
    printed = translate(tmp_path / "in", "--beams", 2)
    lines, sources = printed.out.split(b"\n"), (HOSTILE + end).split(b"\n")
    assert len(lines) == len(sources) and printed.out.endswith(b"\n") == bool(end)
    assert [line.endswith(b"\r") for line in lines] == [source.endswith(b"\r") for source in sources]
    assert not any(lines[i].strip(b"\r") for i in BLANK) and sum(map(bool, lines)) > 8
    assert b"15 lines, " in printed.err
    translate(tmp_path / "in", "--beams", 2, "--out", tmp_path / "out", "--batch-tokens", 1)
    assert (tmp_path / "out").read_bytes() == printed.out
    assert translate("--beams", 2, stdin=HOSTILE + end).out == printed.out
    for source, line in list(zip(sources, lines))[:6]:
        assert translate("--beams", 2, stdin=source.removeprefix(b"\xef\xbb\xbf") + b"\n").out == line + b"\n"


def test_documents_keep_their_lines(translate, tmp_path):
    place = saved(tmp_path / "model", "translation_mamba_test")
    (tmp_path / "in").write_bytes(HOSTILE)
    printed = translate(tmp_path / "in", "--beams", 2, "--scores", "--documents", folder=place).out.split(b"\n")
    lines = translate(tmp_path / "in", "--beams", 2, "--scores", folder=place).out.split(b"\n")
    assert len(printed) == len(lines) == 15 and all(printed[i].strip(b"\r") == b"0.000000\t" for i in BLANK)
    # a line is as if alone where it begins a document, and nowhere else; scores to the rounding of other batches
    begins = [i for i in range(15) if i not in BLANK and (i == 0 or i - 1 in BLANK)]
    gaps = [abs(float(one.split(b"\t")[0]) - float(other.split(b"\t")[0])) for one, other in zip(printed, lines)]
    assert [i for i in range(15) if i not in BLANK and gaps[i] < 1e-5] == begins
    more = translate("--beams", 2, "--scores", "--documents", stdin=HOSTILE, folder=place)
    assert more.out.split(b"\n") == printed and b"15 lines, " in more.err


def test_nothing_is_nothing(translate):
    assert translate(stdin=b"").out == b"" and translate(stdin=b"\n\n").out == b"\n\n"


def test_what_would_break_a_line_becomes_a_blank():
    found = Translation("two\nlines\rand\u2028more", -0.5, "eos", [], [])
    assert _line(found, TranslateFileOptions()) == "two lines and\u2028more"
    assert _line(found, TranslateFileOptions(scores=True)) == "-0.500000\ttwo lines and\u2028more"
    assert "\n" not in _line(found, TranslateFileOptions(nbest=2))


def test_scores_lists_and_given_translations(translate, tmp_path):
    (tmp_path / "in").write_bytes(b"A dog runs.\n\nJ\n")
    plain = translate(tmp_path / "in").out.split(b"\n")
    rows = [line.split(b"\t", 1) for line in translate(tmp_path / "in", "--scores").out.split(b"\n")[:-1]]
    assert [text for _, text in rows] == plain[:-1] and float(rows[1][0]) == 0 and float(rows[0][0]) < 0
    lists = [json.loads(line) for line in translate(tmp_path / "in", "--nbest", 3).out.split(b"\n")[:-1]]
    assert [len(row["nbest"]) for row in lists] == [3, 1, 3]
    assert lists[0]["text"] == lists[0]["nbest"][0]["text"] and lists[0]["score"] == pytest.approx(
        float(rows[0][0]), abs=1e-6
    )
    (tmp_path / "given").write_bytes(b"un chien\n\nJ\n")
    scores = translate(tmp_path / "in", "--force", tmp_path / "given").out.split(b"\n")[:-1]
    assert len(scores) == 3 and float(scores[0]) < 0 and float(scores[1]) == 0


def test_mistakes_are_one_line(translate, tmp_path):
    (tmp_path / "in").write_bytes(b"a\nb\n")
    (tmp_path / "short").write_bytes(b"a\n")
    (tmp_path / "wide").write_bytes("a\n".encode("utf-16"))
    for arguments, message in (
        ([tmp_path / "none"], "FILE: there is no file"),
        ([tmp_path], "is a folder; give a text"),
        ([tmp_path / "wide"], "is UTF-16; save it as UTF-8"),
        ([tmp_path / "in", "--force", tmp_path / "short"], "has 2 lines"),
        (["--force", tmp_path / "short"], "--force needs the FILE"),
        ([tmp_path / "in", "--nbest", 3, "--beams", 2], "nbest=3 texts need as many beams, got beams=2"),
        ([tmp_path / "in", "--nbest", 2, "--paragraphs"], "leave out paragraphs"),
        (
            [tmp_path / "in", "--documents", "--out", tmp_path / "new"],
            "has an encoder, which reads each sentence anew",
        ),
        ([tmp_path / "in", "--documents", "--force", tmp_path / "in"], "as it is given; leave out --documents"),
        ([tmp_path / "in", "--out", tmp_path], "is a folder; name a file"),
        ([tmp_path / "in", "--out", tmp_path / "no" / "out"], "is in no folder that is there"),
        ([tmp_path / "in", "--out", tmp_path / "in"], "is the file that is read"),
    ):
        error = translate(*arguments, code=2).err.decode()
        assert message in error and error.count("\n") == 1, error
    assert (tmp_path / "in").read_bytes() == b"a\nb\n" and not (tmp_path / "new").exists()
