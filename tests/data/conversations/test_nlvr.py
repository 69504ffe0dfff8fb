"""NLVR's records, and the questions that a rule makes of them."""

import json
from collections import Counter

import pytest
from PIL import Image

from ssmlab.core.errors import DataError
from ssmlab.data.conversations import find_conversations, read_conversations
from ssmlab.data.conversations.nlvr import SIZES, group_of
from ssmlab.data.conversations.nlvr_questions import BOXES, TYPES, as_records, rule_questions

COLOURS, SHAPES = ("Yellow", "Black", "#0099ff"), ("square", "triangle", "circle")


def item(n):
    return {"type": SHAPES[n % 3], "color": COLOURS[n // 3 % 3], "size": 10 * (1 + n % 2), "x_loc": n, "y_loc": 3}


@pytest.fixture
def records(tmp_path):
    rows = []
    for n in range(120):
        boxes = [[item(n * (k + 1) // 2 + j * n) for j in range((n + k) % 4)] for k in range(3)]
        identifier = f"{n // 3}-{n % 3}"
        rows.append(
            {"sentence": "It is.", "label": "true" if n % 2 else "false", "identifier": identifier, "directory": "0",
             "structured_rep": boxes}
        )  # fmt: skip
        path = tmp_path / "images" / "0" / f"dev-{identifier}-{n % 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (4, 1)).save(path)
    (tmp_path / "dev.json").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "dev.json"


def test_records(records):
    found = read_conversations(records)
    assert len(found) == 120 and found[0].answer == "false" and found[1].answer == "true"
    assert found[1].images[0].name == "dev-0-1-1.png"
    assert found[0].turns[0].text == "<image>\nIs this sentence true or false? It is."
    assert [group_of(one) for one in found[2:4]] == ["0", "1"]


def test_bad_records(records):
    rows = [json.loads(line) for line in records.read_text().split("\n")]
    rows[1]["label"], rows[2]["sentence"], rows[3]["identifier"] = "maybe", "", "999-0"
    records.write_text("\n".join(map(json.dumps, rows)))
    problems = find_conversations(records).problems
    assert [problem.index for problem in problems] == [1, 2, 3]
    assert "0/dev-999-0-0.png is missing" in problems[2].reason


def test_answers_come_equally_often(records):
    found = read_conversations(records)
    parts = {part: rule_questions(found, part) for part in ("train", "test")}
    groups = [{one.source["identifier"].split("-")[0] for one in made.conversations} for made in parts.values()]
    assert groups[0] and groups[1] and not groups[0] & groups[1]
    for made in parts.values():
        assert set(made.majority) == set(TYPES)
        answers = {kind: {c.answer for c in made.conversations if c.source["type"] == kind} for kind in TYPES}
        for kind, (n, share) in made.majority.items():
            assert n and share == pytest.approx(1 / len(answers[kind]))
        by_text = Counter((c.source["question"], c.answer) for c in made.conversations)
        for text in {text for text, _ in by_text}:
            assert len({n for (asked, _), n in by_text.items() if asked == text}) == 1


def test_answers_are_right(records):
    names = {"Yellow": "yellow", "Black": "black", "#0099ff": "blue"}
    made = rule_questions(read_conversations(records), "train").conversations
    assert len({one.id for one in made}) == len(made)
    by_id = {one.source["identifier"]: one.source["structured_rep"] for one in read_conversations(records)}
    checked = Counter()
    for one in made:
        words = one.source["question"].rstrip("?").split()
        boxes = dict(zip(BOXES, by_id[one.source["identifier"]], strict=True))
        if place := set(words) & set(BOXES):
            boxes = {name: boxes[name] for name in place}
            assert one.images[0].stem.endswith("-0")  # in others the boxes stand in another order
            checked["box"] += 1
        items = [x for box in boxes.values() for x in box]
        sizes = [size for size, name in SIZES.items() if name in words]
        colours, shapes = (
            [x for x in words if x in names.values()],
            [x.rstrip("s") for x in words if x.rstrip("s") in SHAPES],
        )
        fits = [
            x for x in items
            if (not colours or names[x["color"]] == colours[0]) and (not shapes or x["type"] == shapes[0])
            and (not sizes or x["size"] == sizes[0])
        ]  # fmt: skip
        if words[0] == "How":
            assert one.answer == str(len(fits))
        elif words[0] == "Is":
            assert one.answer == ("yes" if fits else "no")
        elif shapes:
            assert {names[x["color"]] for x in fits} == {one.answer}
        else:
            continue
        checked[words[0]] += 1
        checked["size"] += bool(sizes)
    assert all(checked[kind] for kind in ("How", "Is", "Which", "box", "size"))


def test_the_choice_is_the_seeds(records):
    found = read_conversations(records)
    one, same, other = (rule_questions(found, "train", seed=seed).conversations for seed in (0, 0, 1))
    assert one == same and one != other
    rows = as_records(one, records.parent / "images")
    (records.parent / "train.json").write_text(json.dumps(rows))
    again = read_conversations(records.parent / "train.json", records.parent / "images")
    assert [(c.turns, c.images) for c in again] == [(c.turns, c.images) for c in one]


def test_what_is_refused(records):
    found = read_conversations(records)
    with pytest.raises(DataError, match="no part"):
        rule_questions(found, "val")
    with pytest.raises(DataError, match="no picture is in the part test"):
        rule_questions(found, "test", test_share=0)
    del found[0].source["structured_rep"]
    with pytest.raises(DataError, match="no structured_rep"):
        rule_questions(found, "train")
