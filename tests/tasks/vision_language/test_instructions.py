"""Instruction data from a server of the test: forms, refused replies, and a file that goes on after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssmlab.core.errors import DataError, UserError
from ssmlab.data.conversations import read_conversations
from ssmlab.tasks.vision_language.instructions import (
    Refused,
    forms,
    make_instructions,
    messages_for,
    parse_pairs,
    turns_of,
)
from ssmlab.tasks.vision_language.scenes import Scene, read_scenes
from ssmlab.tasks.vision_language.writer_options import KINDS
from ssmlab.tasks.vision_language.writers import Reply, ServerWriter
from tasks.vision_language.stub import serving

PAIRS = (
    "Question:\nWhat is {n}?\n===\nAnswer:\nIt is number {n}.\n===\n"
    "Question:\nWhere?\n===\nAnswer:\nOn the left, {n} steps away."
)
LONG = "Number {n} " + "is seen next to a tree, in front of a wall and below the sky, " * 3
BAD = {
    3: "", 10: "I'm sorry, I cannot help with that.", 17: "The captions say that it is number 17. " * 8,
    24: {"choices": [{"message": {"content": "Question:\nWhat?\n===\nAns"}, "finish_reason": "length"}]},
    31: "Question:\nWhat?\n===\nAnswer:", 38: "<image> is seen here. " * 8,
    45: "There is a cat at [0.1, 0.2, 0.3, 0.4]. " * 8,
}  # fmt: skip


def scenes(n):
    boxes = (("cat", (0.1, 0.2, 0.3, 0.4)),)
    return [Scene(f"{k}", f"{k}.jpg", (f"Caption {k}.", "Another one."), boxes) for k in range(n)]


def kind_of(messages):
    """Which kind of record a request is for."""
    return next(kind for kind in KINDS if messages[0]["content"] == forms()[kind]["system"].strip())


def answer(messages, number=0):
    n = int(messages[-1]["content"].split("Caption ")[1].split(".")[0])
    kind = kind_of(messages)
    if n in BAD and kind == "conversation":
        return BAD[n]
    if kind == "conversation":
        return PAIRS.format(n=n)
    text = LONG.format(n=n) if n != 5 else "Short."
    return text if kind == "detail" else f"Question:\nWhy {n}?\n===\nAnswer:\n{text}"


def make(address, out, n=60, workers=1, **options):
    return make_instructions(scenes(n), ServerWriter(address), out, workers=workers, **options)


@pytest.mark.parametrize("workers", [1, 4])
def test_records(tmp_path, workers):
    out = tmp_path / "made.jsonl"
    with serving(answer) as (address, requests):
        made = make(address, out, workers=workers)
    assert len(requests) == made.asked == 180 and made.records + made.refused == 180
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["id"], row["kind"]) for row in rows[:4]] == [
        ("0", "conversation"), ("0", "detail"), ("0", "reasoning"), ("1", "conversation"),
    ]  # fmt: skip
    assert [message["value"] for message in rows[0]["conversations"]] == [
        "<image>\nWhat is 0?", "It is number 0.", "Where?", "On the left, 0 steps away.",
    ]  # fmt: skip
    assert rows[1]["conversations"][0]["value"].removeprefix("<image>\n") in forms()["detail"]["questions"]
    refused = [json.loads(line) for line in (tmp_path / "made.refused.jsonl").read_text().splitlines()]
    assert {int(row["id"]) for row in refused} == {5, *BAD}
    assert all(row["reason"] and "reply" in row for row in refused) and len(refused) == len(BAD) + 2
    assert sum(made.reasons.values()) == made.refused
    for row in rows:
        (tmp_path / row["image"]).touch()
    found = read_conversations(out, tmp_path, decoded=False)
    assert len(found) == made.records


def test_equal_replies_are_kept_once(tmp_path):
    with serving(lambda messages, n: PAIRS.format(n=1)) as (address, _):
        made = make(address, tmp_path / "made.jsonl", 3, kinds=("conversation",))
    assert (made.records, made.reasons) == (1, {"the same as an earlier record": 2})


def test_going_on(tmp_path):
    """Whatever was there when the program ended, the file becomes the same."""
    with serving(answer) as (address, requests):
        make(address, tmp_path / "whole.jsonl", 12, workers=2)
        whole, dropped = ((tmp_path / f"whole{end}").read_bytes() for end in (".jsonl", ".refused.jsonl"))
        for cut, cut_refused in ((0, 0), (700, 0), (len(whole) - 3, len(dropped)), (len(whole), 20), (5, len(dropped))):
            out = tmp_path / "part.jsonl"
            out.write_bytes(whole[:cut])
            out.with_suffix(".refused.jsonl").write_bytes(dropped[:cut_refused])
            out.with_suffix(".settings.json").write_bytes((tmp_path / "whole.settings.json").read_bytes())
            made = make(address, out, 12, workers=3)
            assert out.read_bytes() == whole and out.with_suffix(".refused.jsonl").read_bytes() == dropped
            assert made.records + made.refused == 36
        before = len(requests)
        assert make(address, tmp_path / "whole.jsonl", 12).asked == 0 and len(requests) == before


def test_other_settings_are_refused(tmp_path):
    out = tmp_path / "made.jsonl"
    with serving(answer) as (address, _):
        make(address, out, 2, seed=0)
        with pytest.raises(UserError, match="begun with other seed"):
            make(address, out, 2, seed=1)
        with pytest.raises(UserError, match="begun with other scenes"):
            make(address, out, 3, seed=0)
        with pytest.raises(UserError, match="begun with other kinds"):
            make(address, out, 2, kinds=("detail",), seed=0)
        with pytest.raises(UserError, match=r"ends in \.jsonl"):
            make(address, tmp_path / "made.json", 2)
        with pytest.raises(UserError, match="kinds must be of"):
            make(address, out, 2, kinds=("talk",))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "made.jsonl", "made.refused.jsonl", "made.settings.json",
    ]  # fmt: skip


def test_a_server_that_fails_keeps_what_there_is(tmp_path):
    out = tmp_path / "made.jsonl"
    with (
        serving(answer, status=lambda n: 200 if n < 7 else 404) as (address, _),
        pytest.raises(UserError, match="refuses: 404"),
    ):
        make(address, out, 4)
    assert len(out.read_text().splitlines()) == 7
    with serving(answer) as (address, requests):
        make(address, out, 4)
    assert len(requests) == 5


def test_one_request_that_a_server_refuses(tmp_path):
    with serving(answer, status=lambda n: 400 if n == 4 else 200) as (address, requests):
        made = make(address, tmp_path / "made.jsonl", 3)
    assert len(requests) == 9 and made.records == 8
    assert made.reasons == {f"{address}/v1 refuses: 400 not now": 1}
    with (
        serving(answer, status=lambda n: 400) as (address, requests),
        pytest.raises(UserError, match="refuses: 400"),
    ):
        make(address, tmp_path / "none.jsonl", 4)
    assert len(requests) == 1


def test_the_key_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving(answer) as (address, _):
        make(address, tmp_path / "made.jsonl", 6)
    assert not any(b"secret" in path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.slow
def test_killed_twice_gives_the_same_file(tmp_path):
    """The command, killed as a machine would do it."""
    rows = [{"id": scene.id, "image": scene.image, "captions": list(scene.captions)} for scene in scenes(100)]
    (tmp_path / "scenes.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def slow(messages, number):
        time.sleep(0.004)
        return answer(messages)

    with serving(slow) as (address, requests):

        def start(name):
            out = tmp_path / name / "made.jsonl"
            command = [sys.executable, "-m", "ssmlab", "vlm", "make-instructions", str(tmp_path / "scenes.jsonl")]
            options = ["--writer", address, "--out", str(out), "--kind", "conversation", "--workers", "2"]
            return out, subprocess.Popen(command + options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

        out, running = start("killed")
        for lines in (15, 45):
            while running.poll() is None and (not out.exists() or out.read_bytes().count(b"\n") < lines):
                time.sleep(0.005)
            assert running.poll() is None
            os.kill(running.pid, signal.SIGKILL)
            running.communicate()
            _, running = start("killed")
        said = running.communicate()[0].decode()
        assert running.returncode == 0, said
        asked = len(requests)
        whole, running = start("whole")
        running.communicate()
    assert 100 <= asked <= 110
    for end in (".jsonl", ".refused.jsonl", ".settings.json"):
        assert out.with_suffix(end).read_bytes() == whole.with_suffix(end).read_bytes()
    assert "93 records" in said and "7 refused" in said


def test_messages():
    scene = scenes(1)[0]
    for kind in KINDS:
        messages = messages_for(scene, kind)
        roles = [role for role, _ in messages]
        assert roles == ["system"] + ["user", "assistant"] * len(forms()[kind]["examples"]) + ["user"]
        assert ("cat: [0.1, 0.2, 0.3, 0.4]" in messages[-1][1]) == (kind != "conversation")
        for _, reply in messages[2:-1:2]:  # the examples keep the rules
            assert turns_of(scene, kind, Reply(reply))


@pytest.mark.parametrize(
    ("text", "said"),
    [("What?", "part 1 must be one question"), ("Question: a\n===\nQuestion: b", "part 2 must be one answer"),
     ("Question: a\nAnswer: b", "one question"), ("Question: a", "no answer"), ("===", "empty"),
     ("Question: a\n===\nAnswer: b\nQuestion: c\n===\nAnswer: d", "one answer")],
)  # fmt: skip
def test_other_forms_are_refused(text, said):
    with pytest.raises(Refused, match=said):
        parse_pairs(text)


def test_forms_that_are_read():
    text = "question: a\nb\n====\nANSWER: c\n===\n\nQuestion:d\n ===  \nAnswer:\ne\n==="
    assert parse_pairs(text) == [("a\nb", "c"), ("d", "e")]
    again = "Question: Which?\n===\nAnswer: A.\n===\nQuestion: which\n===\nAnswer: B."
    assert turns_of(scenes(1)[0], "conversation", Reply(again)) == [("Which?", "A.")]
    with pytest.raises(Refused, match="2 questions, expected 1"):
        turns_of(scenes(1)[0], "reasoning", Reply("Question: a\n===\nAnswer: b\n===\nQuestion: c\n===\nAnswer: d"))


def test_scenes(tmp_path):
    path = tmp_path / "scenes.jsonl"
    good = {"id": 3, "image": "a.jpg", "captions": ["A."], "instances": [{"category": "cat", "bbox": [10, 0, 20, 50]}],
            "width": 100, "height": 50}  # fmt: skip
    path.write_text(json.dumps(good))
    (scene,) = read_scenes(path)
    assert scene == Scene("3", "a.jpg", ("A.",), (("cat", (0.1, 0, 0.2, 1)),))
    assert scene.known() == "A.\n\ncat: [0.1, 0, 0.2, 1]" and scene.known(False) == "A."
    bad = [good, good | {"width": 10}, {"caption": "x"}, 3, good | {"instances": [{"bbox": [1]}]}]
    path.write_text("\n".join(map(json.dumps, bad)))
    with pytest.raises(DataError) as caught:
        read_scenes(path)
    assert [line.split(":")[0] for line in caught.value.problems] == [f"record {n}" for n in (1, 2, 3, 4)]
    path.write_text("\n".join(map(json.dumps, [good, good, good | {"id": 4, "captions": [], "instances": []}])))
    with pytest.raises(DataError, match="2 scenes") as caught:
        read_scenes(path)
    (tmp_path / "captions.csv").write_text("image,caption\nx/a.jpg,A.\nx/b.jpg,B.\nx/a.jpg,C.\n")
    assert read_scenes(tmp_path / "captions.csv") == [
        Scene("x/a", "x/a.jpg", ("A.", "C.")), Scene("x/b", "x/b.jpg", ("B.",)),
    ]  # fmt: skip
    items = [{"type": "square", "color": "#0099ff", "size": 20, "x_loc": 10, "y_loc": 80}]
    row = {"sentence": "S.", "label": "true", "identifier": "1-0", "directory": "2", "structured_rep": [[], items, []]}
    (tmp_path / "dev.json").write_text(
        json.dumps(row) + "\n" + json.dumps(row | {"label": "false", "identifier": "1-1"})
    )
    first, second = read_scenes(tmp_path / "dev.json")
    assert first == Scene("1-0", "2/dev-1-0-0.png", ("S.",), (("medium blue square", (0.4, 0.8, 0.45, 1)),))
    assert second.captions == ()


@pytest.mark.slow
def test_models_of_folders_write(tmp_path):
    """One of ours and one of transformers, tiny and random: they write something, and the same again."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from ssmlab.tasks.vision_language.writers import open_writer

    words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(30)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", pad_token="w2")
    fast.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    fast.save_pretrained(tmp_path)
    config = LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    writer = open_writer(str(tmp_path), max_tokens=5, device="cpu")
    reply = writer.write([("system", "w4 w5"), ("user", "w6")])
    assert reply == writer.write([("system", "w4 w5"), ("user", "w6")]) and reply.text.split()
    assert Path(tmp_path).name == writer.name
