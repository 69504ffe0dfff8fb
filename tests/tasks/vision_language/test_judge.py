"""Judges against a server of the test: marks, replies that cannot be read, disagreements."""

import json

import pytest

from ssmlab.core.errors import DataError, UserError
from ssmlab.tasks.vision_language.judge import decide, marks_of, read_comparison, read_rules, relative_score
from ssmlab.tasks.vision_language.scienceqa import Answers
from ssmlab.tasks.vision_language.writers import Reply, ServerWriter, in_order, open_writer
from tasks.vision_language.stub import serving


def lines(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def questions(tmp_path):
    kinds = ("conv", "detail")
    rows = [{"question_id": n, "image": "a.jpg", "text": f"Q{n}?", "category": kinds[n % 2]} for n in range(6)]
    boxes = [{"category": "cat", "bbox": [0.1, 0.2, 0.3, 0.45]}]
    lines(tmp_path / "context.jsonl", [{"image": "a.jpg", "captions": ["One.", "Two."], "instances": boxes}])
    return read_comparison(
        lines(tmp_path / "q.jsonl", rows),
        lines(tmp_path / "r.jsonl", [{"question_id": n, "text": f"reference {n}"} for n in range(6)]),
        lines(tmp_path / "a.jsonl", [{"question_id": n, "text": f"answer {n}"} for n in range(6)]),
        tmp_path / "context.jsonl",
    )


@pytest.mark.parametrize(
    ("reply", "marks"),
    [("8 9\nBecause", (8, 9)), ("8, 7.5", (8, 7.5)), (" 8  9 ", (8, 9)), ("8", None), ("8 9 10", None),
     ("8/10 9", None), ("Scores: 8 9", None), ("", None), ("80 90", None), ("-1 5", None), ("nan 5", None)],
)  # fmt: skip
def test_marks(reply, marks):
    assert marks_of(reply) == marks


@pytest.mark.parametrize("workers", [1, 3])
def test_relative_score(questions, workers):
    def answer(messages, n):
        text = messages[-1]["content"]
        assert messages[0]["role"] == "system" and text.startswith(
            "[Context]\nOne.\nTwo.\n\ncat: [0.1, 0.2, 0.3, 0.45]"
        )
        assert "[Assistant 1]\nreference" in text and "[End of Assistant 2]" in text
        k = int(text.split("[Question]\nQ")[1][0])
        return "I would say nine" if k == 3 else "10 9" if k == 5 else f"8 {k}\nexplained"

    with serving(answer) as (address, requests):
        score = relative_score(questions, ServerWriter(address, temperature=0.2), workers=workers)
    assert len(requests) == 6 and requests[0]["temperature"] == 0.2 and requests[0]["model"] == "stub"
    assert score.unreadable == {"3": "I would say nine"} and score.n == 6
    assert score.marks == {"0": (8, 0), "1": (8, 1), "2": (8, 2), "4": (8, 4), "5": (10, 9)}
    assert score.overall.value == pytest.approx(100 * 16 / 42)
    assert score.overall.low < score.overall.value < score.overall.high
    assert score.categories["conv"].value == pytest.approx(100 * 6 / 24)
    assert score.categories["detail"].value == pytest.approx(100 * 10 / 18)


def test_exchanged_answers(questions):
    def answer(messages, n):  # a judge that favours the first place
        return "9 5" if "[Assistant 1]\nreference" in messages[-1]["content"] else "9 7"

    with serving(answer) as (address, requests):
        score = relative_score(questions, ServerWriter(address), swap=True)
    assert len(requests) == 12 and set(score.marks.values()) == {(8.0, 7.0)}
    assert [len(texts) for texts in score.replies.values()] == [2] * 6


def test_rules(questions, tmp_path):
    (tmp_path / "rule.json").write_text(json.dumps({"llava_bench_conv": {"role": "Judged", "prompt": "Mark them."}}))
    rules = read_rules(tmp_path / "rule.json")
    with pytest.raises(DataError, match="no rule for the category detail"):
        relative_score(questions, None, rules)
    conv = [question for question in questions if question.category == "conv"]
    with serving(lambda messages, n: "5 5") as (address, requests):
        relative_score(conv, ServerWriter(address), rules)
    assert requests[0]["messages"][1]["content"].endswith("[End of Judged 2]\n\n[System]\nMark them.\n\n")
    (tmp_path / "rule.json").write_text("[]")
    with pytest.raises(DataError, match="expected"):
        read_rules(tmp_path / "rule.json")


def test_what_is_missing_is_listed(tmp_path):
    rows = [{"question_id": n, "image": "a.jpg", "text": "Q"} for n in range(3)]
    own = lines(tmp_path / "a.jsonl", [{"question_id": 0, "text": "x"}, {"question_id": 1, "text": "x"}])
    known = lines(tmp_path / "r.jsonl", [{"question_id": 0, "text": "x"}, {"question_id": 2, "text": "x"}])
    with pytest.raises(DataError, match="2 questions") as caught:
        read_comparison(lines(tmp_path / "q.jsonl", rows), known, own)
    assert caught.value.problems == ["question 1 has no reference", "question 2 has no answer"]


def test_disagreements():
    problems = {
        str(n): {
            "question": f"q{n}",
            "choices": ["a", "b"],
            "answer": n % 2,
            "hint": "",
            "image": None,
            "split": "test",
        }
        for n in range(6)
    }
    first = Answers({"0": "A", "1": "A", "2": "none", "3": "A", "4": "B", "7": "A"})
    second = Answers({"0": "A", "1": "B", "2": "B", "3": "B", "4": "B"})

    def answer(messages, n):
        text = messages[-1]["content"]
        assert "[Answer 1]\n" in text and "Options: (A) a (B) b" in text
        return {"q1": "Both say so. The answer is B.", "q2": "The answer is A.", "q3": "Hard to say."}[text[10:12]]

    with serving(answer) as (address, requests):
        found = decide(first, second, problems, ServerWriter(address), workers=2)
    assert len(requests) == 3 and found.disagreed == ["1", "2", "3"]
    assert found.indices == {"0": 0, "1": 1, "2": 0, "3": None, "4": 1}
    assert found.unreadable == ["3"] and found.replies["3"] == "Hard to say."
    assert (found.first, found.second) == ((1, 5), (3, 5))
    assert found.judged == (3, 4) and found.kept == (3, 5) and found.columns["Avg"] == (3, 4)
    with pytest.raises(DataError, match="none has an answer of both"):
        decide(first, Answers({"9": "A"}), problems, None)


def test_a_busy_server_is_asked_again(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with serving(lambda messages, n: "x", status=lambda n: 503 if n < 2 else 200) as (address, requests):
        assert ServerWriter(address).write([("user", "hi")]) == Reply("x")
    assert len(requests) == 3
    with (
        serving(lambda messages, n: "x", status=lambda n: 503) as (address, requests),
        pytest.raises(UserError, match=r"does not answer \(503 not now\), 2 times"),
    ):
        ServerWriter(address, "m", attempts=2).write([("user", "hi")])


@pytest.mark.parametrize(
    ("answer", "said"),
    [({"choices": []}, "something else"), ({"choices": [{"message": {"content": 3}}]}, "something else"),
     (b"<html>", "does not answer")],
)  # fmt: skip
def test_other_answers(answer, said):
    with serving(lambda messages, n: answer) as (address, _), pytest.raises(UserError, match=said):
        ServerWriter(address, "m", attempts=1).write([("user", "hi")])


def test_the_key_goes_to_the_server_alone(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving(lambda messages, n: "x", status=lambda n: 302 if n else 200) as (address, requests):
        writer = ServerWriter(address, "m")
        writer.write([("user", "hi")])
        assert requests[0]["key"] == "Bearer secret"
        with pytest.raises(UserError, match="refuses: 302") as caught:
            writer.write([("user", "hi")])
    assert "secret" not in str(caught.value)
    with pytest.raises(UserError, match="unencrypted"):
        ServerWriter("http://example.org/v1", "m")
    with pytest.raises(UserError, match="must hold no name") as caught:
        ServerWriter("https://me:hidden@example.org", "m")
    assert "hidden" not in str(caught.value)


def test_addresses(tmp_path):
    with serving(lambda messages, n: "x", models=("a", "b")) as (address, requests):
        with pytest.raises(UserError, match=r"has 2 models; name one \(a, b\)"):
            ServerWriter(address)
        for form in (address, f"{address}/", f"{address}/v1", f"{address}/v1/chat/completions"):
            ServerWriter(form, "a").write([("user", "hi")])
    assert {request["path"] for request in requests} == {"/v1/chat/completions"}
    for place in ("ftp://example.org", "http://"):
        with pytest.raises(UserError, match="no address"):
            open_writer(place)
    with pytest.raises(UserError, match="neither an address"):
        open_writer(str(tmp_path / "none"))


@pytest.mark.parametrize("workers", [1, 4])
def test_results_are_in_order(workers):
    assert list(in_order(lambda n: n * n, range(50), workers)) == [n * n for n in range(50)]
    found = []
    with pytest.raises(ZeroDivisionError):
        found.extend(in_order(lambda n: 1 // (5 - n), range(50), workers))
