"""Readers of conversations: what is read, and that every record that cannot be used is listed."""

import json

import pytest
from PIL import Image

from ssmlab.core.errors import DataError
from ssmlab.data.conversations import find_conversations, open_image, read_conversations, read_questions
from ssmlab.data.conversations.check import check_conversations
from ssmlab.data.conversations.scienceqa import answer_text, question_text
from ssmlab.data.kind_of_data import kind_of_data


def picture(path, mode="RGB", size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 3).save(path)


def record(image="a.png", question="<image>\nWhat?", answer="A cat.", **more):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return ({"image": image} if image is not None else {}) | {"conversations": turns} | more


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        picture(tmp_path / "images" / name)
    return tmp_path


def written(folder, rows, name="data.json", bom=False):
    text = "\n".join(map(json.dumps, rows)) if name.endswith("l") else json.dumps(rows)
    (folder / name).write_bytes(("\ufeff" if bom else "").encode() + text.encode())
    return folder / name


@pytest.mark.parametrize("name", ["data.json", "data.jsonl", "lines.json"])
@pytest.mark.parametrize("bom", [False, True])
def test_llava(folder, name, bom):
    rows = [
        record(id="x"),
        record(id=7, question="What is it?\n<image>"),
        record("b.png", "Say."),
        record(None, "Hello?", "Hello."),
        record(["a.png", "b.png"], "<image> or <image>?", "b"),
    ]
    path = written(folder, rows, name, bom)
    if name == "lines.json":
        path.write_text("\n".join(map(json.dumps, rows)))
    found = read_conversations(path)
    assert [one.id for one in found] == ["x", "7", "2", "3", "4"]
    assert [one.index for one in found] == [0, 1, 2, 3, 4]
    assert [one.turns[0].text for one in found] == [
        "<image>\nWhat?", "<image>\nWhat is it?", "<image>\nSay.", "Hello?", "<image> or <image>?",
    ]  # fmt: skip
    assert [len(one.images) for one in found] == [1, 1, 1, 0, 2]
    assert all(path.is_file() for one in found for path in one.images)
    assert found[4].source == rows[4] and found[0].question == "What?" and found[0].answer == "A cat."
    kept = read_conversations(path, image_first=False)
    assert kept[1].turns[0].text == "What is it?\n<image>"
    assert read_conversations(path, text_only=True)[4].turns[0].text == "or ?"
    assert read_conversations(path, folder / "images") == found


BAD = {
    "a list": [],
    "missing image": record("none.png"),
    "truncated image": record("cut.png"),
    "no image": record("text.png"),
    "bomb": record("bomb.png"),
    "out of the folder": record("../data.json"),
    "absolute": record("/etc/hostname"),
    "address": record("http://example.org/a.png"),
    "folder": record("."),
    "wrong role": {"image": "a.png", "conversations": [{"from": "system", "value": "x"}]},
    "no text": {"image": "a.png", "conversations": [{"from": "human", "value": 3}]},
    "begins with an answer": {"conversations": [{"from": "gpt", "value": "x"}]},
    "no answer": {"image": "a.png", "conversations": [{"from": "human", "value": "<image>"}]},
    "two in a row": {"conversations": [{"from": "human", "value": "x"}] * 2},
    "empty answer": record(answer=" \n"),
    "empty question": record(None, " "),
    "two marks": record(question="<image><image>"),
    "mark without image": record(None, "<image>\nWhat?"),
    "mark in an answer": record(question="What?", answer="<image>"),
    "no messages": {"image": "a.png", "conversations": []},
    "other keys": {"image": "a.png", "label": 3},
    "id": record(id=["x"]),
    "image is a number": record(4),
    "role is a list": {"conversations": [{"from": ["human"], "value": "x"}, {"from": "gpt", "value": "y"}]},
    "blank question": record(question=" \n"),
    "half a character": record(question="What \ud800?"),
}


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_every_bad_record_is_listed(folder, name, monkeypatch):
    images = folder / "images"
    (images / "cut.png").write_bytes((images / "a.png").read_bytes()[:40])
    (images / "text.png").write_text("no picture")
    picture(images / "bomb.png", "L", (300, 300))
    monkeypatch.setattr("ssmlab.data.images.decode.MAX_PIXELS", 300 * 299)
    rows = [record()]
    for bad in BAD.values():
        rows += [bad, record("b.png")]
    path = written(folder, rows, name)
    if name.endswith("l"):
        path.write_text(path.read_text() + "\n{broken\n")
    found = find_conversations(path)
    places = list(range(1, 2 * len(BAD), 2)) + [len(rows)] * name.endswith("l")
    assert [problem.index for problem in found.problems] == places
    assert [one.index for one in found.conversations] == [n for n in range(len(rows)) if n not in places]
    with pytest.raises(DataError) as caught:
        read_conversations(path)
    listed = "\n".join(caught.value.problems)
    assert f"{len(places)} of {len(rows) + name.endswith('l')} records cannot be used" in str(caught.value)
    for n, reason in (
        (3, "is missing in"), (5, "cannot be read"), (7, "not a picture"), (9, "more than the limit"),
        (11, "leaves the folder"), (13, "leaves the folder"), (15, "is no file"), (17, "is a folder"),
        (19, "'system'; expected human or gpt"), (23, "begins with an answer"), (25, "no answer to the last question"),
        (27, "both the human's"), (29, "(answer) is empty"),
        (33, "2 times <image> and 1 images"), (35, "1 times <image> and 0 images"), (37, "1 is an answer and holds"),
        (47, "from ['human']"), (51, "lone surrogate"),
    ):  # fmt: skip
        line = next(line for line in caught.value.problems if line.startswith((f"record {n}:", f"record {n} ")))
        assert reason in line, listed
    assert "records 31, 49: message 0 (question) is empty" in listed


def test_problems_with_one_reason_share_a_line(folder):
    with pytest.raises(DataError, match="records 0, 1: image c.png is missing"):
        read_conversations(written(folder, [record("c.png"), record("c.png"), record()]))


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "is empty"), ('[{"conversations": [', "cut off"), ("[" * 100_000, "cut off"), ("[]", "without objects"),
     ('{"a": 1}', "begins with an object with a"), ("\0\0", "zero bytes")],
)  # fmt: skip
def test_damaged_files(tmp_path, content, said):
    (tmp_path / "data.json").write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        read_conversations(tmp_path / "data.json")
    assert "\n" not in str(caught.value)


def test_names_that_are_wrong(folder):
    path = written(folder, [record()])
    for arguments, said in (
        ({"path": folder / "date.json"}, "did you mean data.json"),
        ({"path": path, "kind": "lava"}, "did you mean llava"),
        ({"path": path, "images": folder / "no"}, "is not there"),
        ({"path": path, "part": "train"}, "has no parts"),
        ({"path": path, "kind": "nlvr"}, "expected nlvr's records"),
        ({"path": folder / "images"}, "no conversations about images"),
    ):
        with pytest.raises(DataError, match=said):
            read_conversations(**arguments)


def test_questions(folder):
    rows = [{"question_id": 5, "image": "a.png", "text": "What?", "category": "conv"}, record("b.png")]
    found = read_questions(written(folder, rows, "questions.jsonl"))
    assert [one.turns for one in found] == [found[0].turns, found[1].turns]
    assert [turn.text for one in found for turn in one.turns] == ["<image>\nWhat?", "<image>\nWhat?"]
    assert found[0].id == "5" and found[0].source["category"] == "conv"
    with pytest.raises(DataError, match="record 0: image c.png is missing"):
        read_questions(written(folder, [{"image": "c.png", "text": "x"}]))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.csv", 'image,caption\na.png,A cat.\nb.png,"A dog, black."\n'),
        ("captions.tsv", 'a.png#0\tA cat.\nb.png#1\tA dog, black.\n'),
        ("results.csv", "image_name| comment_number| comment\na.png| 0| A cat.\nb.png| 1| A dog, black.\n"),
    ],
)  # fmt: skip
def test_tables_of_captions(folder, name, text):
    (folder / name).write_text(text)
    found = read_conversations(folder / name)
    assert [one.answer for one in found] == ["A cat.", "A dog, black."]
    assert [one.images[0].name for one in found] == ["a.png", "b.png"]
    assert found[0].turns[0].text.startswith("<image>\n")
    assert read_conversations(folder / name, kind="captions") == found


def test_lines_next_to_a_list(folder):
    (folder / "train.en").write_text("A cat.\nA dog.\n")
    (folder / "train_images.txt").write_text("a.png\nb.png\n")
    (folder / "others.txt").write_text("a.png\n")
    assert [(one.images[0].name, one.answer) for one in read_conversations(folder / "train.en")] == [
        ("a.png", "A cat."), ("b.png", "A dog."),
    ]  # fmt: skip
    (folder / "train_images.txt").unlink()
    with pytest.raises(DataError, match="no list of images next to it"):
        read_conversations(folder / "train.en")


def test_texts_next_to_images(folder):
    images = folder / "images"
    (images / "a.txt").write_text("A cat.\nAn animal.\n")
    picture(images / "c.png")
    found = find_conversations(images)
    assert [one.answer for one in found.conversations] == ["A cat.", "An animal."]
    assert [(problem.index, problem.id) for problem in found.problems] == [(2, "b.png"), (3, "c.png")]
    (images / "b.txt").write_text("")
    assert "is empty" in find_conversations(images).problems[0].reason


def test_coco(folder):
    values = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"id": 9, "image_id": 1, "caption": "A cat."}, {"id": 10, "image_id": 2, "caption": "x"}],
    }
    found = find_conversations(written(folder, values))
    assert (found.kind, [one.answer for one in found.conversations]) == ("captions", ["A cat."])
    assert str(found.problems[0]) == "record 1 (10): no image 2"


def test_rows_of_a_table_that_are_wrong(folder):
    (folder / "c.csv").write_text("image,caption\na.png,A cat, black.\nb.png,\nc.png,x\nb.png,A dog.\n")
    found = find_conversations(folder / "c.csv")
    assert [problem.index for problem in found.problems] == [0, 1, 2]
    assert "needs quotes" in found.problems[0].reason and len(found.conversations) == 1


PROBLEM = {
    "question": "Question: which?", "choices": ["this", "that"], "answer": 1, "hint": "", "image": None,
    "grade": "grade2", "subject": "natural science", "lecture": "It is  so.", "solution": "See.", "split": "train",
}  # fmt: skip


def test_scienceqa(folder):
    problems = {
        "1": PROBLEM,
        "2": PROBLEM | {"image": "image.png", "split": "test", "hint": "A hint.", "lecture": ""},
        "3": PROBLEM | {"answer": 2},
        "4": PROBLEM | {"choices": ["one"]},
        "5": PROBLEM | {"question": " "},
    }
    picture(folder / "images/test/2/image.png")
    found = find_conversations(written(folder, problems, "problems.json"))
    assert (found.kind, [problem.id for problem in found.problems]) == ("scienceqa", ["3", "4", "5"])
    assert found.conversations[0].turns[0].text == "which?\nContext: N/A\nOptions: (A) this (B) that"
    assert found.conversations[0].answer == "It is so. See. The answer is B."
    assert found.conversations[1].turns[0].text.startswith("<image>\nwhich?\nContext: A hint.")
    assert found.conversations[1].images[0].is_file()
    assert question_text(PROBLEM, letter_only=True).endswith("letter from the given choices directly.")
    assert answer_text(PROBLEM | {"lecture": "", "solution": ""}) == "The answer is B."
    assert [one.id for one in read_conversations(folder / "problems.json", part="test")] == ["2"]
    with pytest.raises(DataError, match="holds no records of part val"):
        read_conversations(folder / "problems.json", part="val")


def test_a_picture_of_any_mode_is_rgb(tmp_path):
    for mode in ("RGBA", "L", "P", "CMYK", "1", "I;16", "LA"):
        suffix = "jpg" if mode == "CMYK" else "png"
        picture(tmp_path / f"{mode[:2]}.{suffix}", mode)
        assert open_image(tmp_path / f"{mode[:2]}.{suffix}").mode == "RGB"


def test_check(folder):
    rows = [
        record(),
        record(),
        record("b.png", "<image>\nWhat is it?", "A big dog.", id="x"),
        record(None, "a", "b", id="x"),
    ]
    path = written(folder, rows)
    assert kind_of_data(str(path)) == ("vision_language", "conversations")
    assert kind_of_data(str(folder)) == ("vision_language", "conversations")
    report = check_conversations(path)
    assert report.ok and (report.records, report.images, report.turns) == (4, 2, {1: 4})
    assert report.words == {"question": (1, 1.0, 3), "answer": (1, 2.0, 3)}
    assert report.sizes == {"width": (8, 8.0, 8), "height": (6, 6.0, 6)}
    assert any("1 record more than once" in note for note in report.notes)
    assert any("1 id of more than one record" in note for note in report.notes)
    assert json.loads(json.dumps(report.to_dict()))["turns"] == {"1": 4}
