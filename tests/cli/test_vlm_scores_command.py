"""`ssmlab vlm score`, `make-questions` and `data check` of conversations, as a user calls them."""

import json

import pytest
from PIL import Image

from cli.calling import call
from tasks.vision_language.stub import serving


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def read(name):
    with open(name) as file:
        return json.load(file)


def lines(name, rows):
    with open(name, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return name


def result_file(name, outputs, results):
    with open(name, "w") as file:
        json.dump({"acc": 50.123, "correct": 1, "count": 2, "results": results, "outputs": outputs}, file)
    return name


def problems(answers):
    rows = {}
    for pid, answer in answers.items():
        rows[pid] = {
            "question": f"Question {pid}", "choices": ["a", "b"], "answer": answer, "hint": "", "image": None,
            "grade": "grade2", "subject": "natural science", "split": "test",
        }  # fmt: skip
    with open("problems.json", "w") as file:
        json.dump(rows, file)
    return "problems.json"


def test_scienceqa(capsys):
    answers = result_file("answers.json", {"1": "The answer is B.", "2": "D", "3": "?"}, {"1": 1, "2": 1, "3": -1})
    assert call("vlm", "score", "scienceqa", answers) == 0
    out = capsys.readouterr().out
    assert "3 answers: 2 name a choice, 1 do not" in out and "stored indices: 2 of 3" in out
    assert "problem 2: stored 1, its text says 3" in out and "as stored: acc 50.123, correct 1, count 2" in out
    assert read("answers.scored.json")["results"] == {"1": 1, "2": 3, "3": -1}
    known = problems({"1": 1, "3": 0, "4": 0})
    assert call("vlm", "score", "scienceqa", answers, "--problems", known, "--out", "out.json") == 0
    out = capsys.readouterr().out
    assert "problems given: 3, of them without an answer 1" in out and "33.33%" in out
    assert read("out.json")["columns"]["NAT"] == {"correct": 1, "n": 3, "acc": 100 / 3}
    assert call("vlm", "score", "scienceqa", answers, "--part", "tset") == 2
    assert call("vlm", "score", "scienceqa", "none.json") == 2


def test_scienceqa_of_two_models(capsys):
    first = result_file("first.json", {"1": "A", "2": "A", "3": "A"}, {})
    second = result_file("second.json", {"1": "A", "2": "B", "3": "B"}, {})
    known = problems({"1": 0, "2": 1, "3": 0})
    assert call("vlm", "score", "scienceqa", first, "--second", second, "--problems", known) == 2
    with serving(lambda m, n: "The answer is B." if "Question 2" in m[-1]["content"] else "No idea") as (
        address,
        asked,
    ):
        command = ("vlm", "score", "scienceqa", first, "--second", second, "--problems", known, "--judge", address)
        assert call(*command) == 0
    out = capsys.readouterr().out
    assert len(asked) == 2 and "asked about 2 disagreements, 1 replies unreadable" in out
    assert "judged  100.00% (2 of 2)" in out and "problem 3: 'No idea'" in out
    assert read("first.scored.json")["judged"]["indices"] == {"1": 0, "2": 1, "3": None}


def test_short_answers(capsys):
    answers = lines("a.jsonl", [{"question_id": 1, "text": "No."}, {"question_id": 2, "text": "Yes, two."}])
    known = lines("r.jsonl", [{"question_id": 1, "answer": "no", "label": "no", "category": "x"},
                              {"question_id": 2, "answer": "2", "label": "yes", "category": "y"}])  # fmt: skip
    assert call("vlm", "score", "vqa", answers, "-r", known, "--out", "vqa.json") == 0
    assert read("vqa.json")["accuracy"][0] == 0.5
    assert call("vlm", "score", "pope", answers, "-r", known, "--out", "pope.json") == 0
    found = read("pope.json")
    assert set(found) == {"all", "x", "y"} and found["all"]["f1"] == 1
    assert "F1 100.0%" in capsys.readouterr().out
    lines("a.jsonl", [{"question_id": 1, "text": "No."}])
    assert call("vlm", "score", "pope", answers, "-r", known) == 2
    assert "no answers to 1 questions (2)" in capsys.readouterr().err


def test_captions(capsys):
    things = ["dog", "cat", "boat", "tree", "car", "bird", "house", "ball"]
    rows = [{"id": f"{n}", "image": f"{n}.jpg", "conversations": [
        {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": f"a {thing} in front of a {thing}."}]}
        for n, thing in enumerate(things)]  # fmt: skip
    known = lines("known.jsonl", rows)
    answers = lines("a.jsonl", [{"question_id": n, "text": f"A {x} in front of a {x}"} for n, x in enumerate(things)])
    assert call("vlm", "score", "captions", answers, "-r", known, "--corpus", known, "--out", "out.json") == 0
    assert read("out.json")["bleu"][0] == pytest.approx(1)
    assert "may not look" not in capsys.readouterr().out
    lines("a.jsonl", [{"image": f"{n}.jpg", "text": "a dog in front of a dog"} for n in range(8)])
    assert call("vlm", "score", "captions", answers, "-r", known) == 0
    assert "may not look" in capsys.readouterr().out
    lines("a.jsonl", [{"image": "9.jpg", "text": "x"}, {"image": "1.jpg"}])
    assert call("vlm", "score", "captions", answers, "-r", known) == 2
    assert "record 0: no image or id" in capsys.readouterr().err


def test_relative(capsys):
    questions = lines("q.jsonl", [{"question_id": n, "text": f"Q{n}", "category": "conv"} for n in range(4)])
    texts = [lines(name, [{"question_id": n, "text": "x"} for n in range(4)]) for name in ("r.jsonl", "a.jsonl")]
    options = ("--questions", questions, "-r", texts[0], "--out", "out.json", "--judge")
    with serving(lambda m, n: "What?" if "Q3" in m[-1]["content"] else "8 4") as (address, asked):
        assert call("vlm", "score", "relative", texts[1], *options, address) == 0
    out = capsys.readouterr().out
    assert "50.0" in out and "1 without a readable reply" in out and "question 3: 'What?'" in out
    assert asked[0]["temperature"] == 0.2 and read("out.json")["unreadable"] == {"3": "What?"}
    assert call("vlm", "score", "relative", texts[1], *options, "http://") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_data_check(capsys):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
    Image.new("L", (5, 4)).save("a.png")
    lines("data.jsonl", [{"image": "a.png", "conversations": turns}])
    assert call("data", "check", "data.jsonl") == 0
    assert "All records and images can be used" in capsys.readouterr().out
    lines("data.jsonl", [{"image": f"{n % 2}.png", "conversations": turns[: 1 + n // 2]} for n in range(50)])
    assert call("data", "check", "data.jsonl", "--images", ".") == 2
    out = capsys.readouterr().out
    assert "records 0, 1: no answer to the last question" in out
    assert f"records {', '.join(str(n) for n in range(2, 50, 2))}: image 0.png is missing" in out
    assert call("data", "check", "data.jsonl", "--json") == 2
    assert json.loads(capsys.readouterr().out)["task"] == "vision_language"


def test_make_questions(capsys):
    rows = []
    for n in range(40):
        kinds = [("square", "Yellow"), ("circle", "Black")][: n % 3]
        items = [{"type": t, "color": c, "size": 10, "x_loc": 1, "y_loc": 1} for t, c in kinds]
        rows.append({"sentence": "S.", "label": "true", "identifier": f"{n}-0", "structured_rep": [items]})
        Image.new("RGB", (4, 1)).save(f"dev-{n}-0-0.png")
    assert call("vlm", "make-questions", lines("dev.json", rows), "--out", "made") == 0
    out = capsys.readouterr().out
    assert "is there" in out and "most frequent answer 50.0%" in out
    assert call("data", "check", "made/train.json", "--images", ".") == 0
