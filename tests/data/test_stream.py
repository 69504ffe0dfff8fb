"""Streams: every record once a pass, in an order of the seed alone, from any position on as if never interrupted."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from ssmlab.cli.main import main
from ssmlab.core.errors import DataError
from ssmlab.data.stream import texts
from ssmlab.data.stream.labelled import Chosen, count_labels, is_sharded, open_shards, preparing
from ssmlab.data.stream.shuffle import Stream
from ssmlab.data.stream.texts import TextRows, TokenRows


class Numbers:
    """Shards of different sizes; record r of shard s is (s, r)."""

    sizes = (5, 0, 9, 1, 7)

    def __len__(self):
        return len(self.sizes)

    def read(self, shard):
        return iter([(shard, i) for i in range(self.sizes[shard])])


ALL = sorted((s, r) for s, n in enumerate(Numbers.sizes) for r in range(n))


@pytest.mark.parametrize("buffer", [1, 4, 100])
@pytest.mark.parametrize("prepare", [None, lambda record: record])
def test_every_record_comes_once_a_pass_and_passes_differ(buffer, prepare):
    stream = Stream(Numbers(), buffer=buffer, seed=3, prepare=prepare, workers=2)
    first, second = stream.take(22), stream.take(22)
    assert sorted(first) == sorted(second) == ALL
    assert first != second and first != ALL
    assert Stream(Numbers(), buffer=buffer, seed=3).take(44) == first + second
    assert Stream(Numbers(), buffer=buffer, seed=4).take(22) != first


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("sizes", [(4, 4, 4), (3, 5, 2), (1, 1)])
def test_from_any_position_on_it_is_as_if_never_interrupted(workers, sizes):
    how = {"buffer": 6, "seed": 1, "prepare": lambda record: record, "workers": workers}
    whole = Stream(Numbers(), **how).take(90)
    stream, taken = Stream(Numbers(), **how), 0
    while taken < 60:
        for count in sizes:
            state = json.loads(json.dumps(stream.state_dict()))
            again = Stream(Numbers(), **(how | {"seed": 99, "workers": 2}))
            again.load_state_dict(state)
            assert again.take(25) == whole[taken : taken + 25]
            assert stream.take(count) == whole[taken : taken + count]
            taken += count


def test_the_position_is_small_and_an_empty_stream_is_told():
    class Large(Numbers):
        sizes = (10_000, 10_000)

    stream = Stream(Large(), buffer=50)
    stream.take(12_000)
    assert len(json.dumps(stream.state_dict())) < 2000

    class Empty(Numbers):
        sizes = (0, 0)

    with pytest.raises(DataError, match="no records in any of its shards"):
        Stream(Empty()).take(1)
    with pytest.raises(DataError, match="no shards"):
        Stream(Numbers(), shards=[])


def as_bytes(text):
    return np.frombuffer(text.encode(), np.uint8)


def small_pieces(monkeypatch, size=64):
    monkeypatch.setattr(texts, "PIECE", size)
    monkeypatch.setattr(texts, "LEAST_PIECE", size)


TEXTS = {
    "lines": "".join(f"line {i} of a text, ä ö ü {'x' * (i % 40)}\n" for i in range(60)),
    "crlf": "".join(f"line {i}\r\n" for i in range(60)),
    "no line end": "line\n" * 30 + "the end",
    "one line": "an ä is two bytes, € is three and 𝄞 four; " * 20,
    "empty lines": "\n\n\na\n" * 60,
    "short": "a",
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("documents", ["file", "line"])
def test_pieces_of_a_text_are_the_whole_text(tmp_path, monkeypatch, name, documents):
    small_pieces(monkeypatch)
    monkeypatch.setattr(texts, "LONGEST_LINE", 100)
    path = tmp_path / "a.txt"
    path.write_text(TEXTS[name], encoding="utf-8", newline="")
    source = TextRows([("a.txt", path)], as_bytes, 16, 256, documents)
    found = [document for shard in range(len(source)) for document in source.texts(shard)]
    plain = TEXTS[name].replace("\r\n", "\n")
    joined = b"".join(document.tokens.tobytes() for document in found).decode()
    assert joined.replace("\n", "") == plain.replace("\n", "")
    if documents == "file":
        assert joined == plain
        assert [d.opened for d in found] == [True] + [False] * (len(found) - 1)
        assert [d.learned is None for d in found] == [False] * (len(found) - 1) + [True]
    elif name != "one line":
        assert [d.tokens.tobytes().decode() for d in found] == [line for line in plain.split("\n") if line.strip()]


def test_json_lines_are_never_cut(tmp_path, monkeypatch):
    small_pieces(monkeypatch)
    path = tmp_path / "a.jsonl"
    wanted = [f"text {i} {'long ' * (i % 50)}" for i in range(40)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in wanted))
    source = TextRows([("a.jsonl", path)], as_bytes, 16, 256)
    found = [d.tokens.tobytes().decode() for shard in range(len(source)) for d in source.texts(shard)]
    assert found == wanted
    path.write_text(path.read_text() + '{"txt": 1}\n')
    source = TextRows([("a.jsonl", path)], as_bytes, 16, 256)
    with pytest.raises(DataError, match=r"a.jsonl, from byte .*expected \{\"text\""):
        [source.texts(shard) for shard in range(len(source))]


def test_texts_whose_pieces_cannot_be_found_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DataError, match="utf-16 cannot be read in pieces"):
        TextRows([("a.txt", tmp_path / "a.txt")], as_bytes, 16, 256, encoding="utf-16")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="from byte 0 on"):
        TextRows([("a.txt", tmp_path / "a.txt")], as_bytes, 16, 256).texts(0)


@pytest.mark.parametrize("ending", ["npy", "bin"])
def test_rows_of_an_array_of_tokens(tmp_path, ending):
    tokens = np.random.default_rng(0).integers(0, 50, 1001).astype(np.uint16)
    path = tmp_path / f"train.{ending}"
    np.save(path, tokens) if ending == "npy" else tokens.tofile(path)
    source = TokenRows([(path.name, path)], 50, 20, 0)
    rows = [row for shard in range(len(source)) for row in source.read(shard)]
    assert len(rows) == 50
    assert np.array_equal(np.concatenate([row.tokens[0, :-1] for row in rows]), tokens[:1000])
    for row in rows:  # what follows a separator is another document, which is not predicted from it
        assert ((row.labels() == -100) == (row.tokens[:, :-1] == 0)).all()
    with pytest.raises(DataError, match=r"token \d+ at [\d,]+, and the vocabulary has 30"):
        [TokenRows([(path.name, path)], 30, 20, 0).rows(shard) for shard in range(5)]
    for content in (b"\x93NUMPY no", b""):
        (tmp_path / "bad.npy").write_bytes(content)
        with pytest.raises(DataError, match=r"bad.npy: no array of tokens"):
            TokenRows([("bad.npy", tmp_path / "bad.npy")], 50, 20, 0)


def picture(number):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (number % 256, number // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tars(folder, count, shards, label=lambda i: (".cls", str(i % 3))):
    folder.mkdir(exist_ok=True)
    for shard in range(shards):
        with tarfile.open(folder / f"train-{shard:03d}.tar", "w") as tar:
            for i in range(shard, count, shards):
                ending, text = label(i)
                for name, content in ((f"{i:06d}.png", picture(i)), (f"{i:06d}{ending}", text.encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return folder


def write_parquet(folder, count, shards):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder.mkdir(exist_ok=True)
    for shard in range(shards):
        numbers = range(shard, count, shards)
        columns = {"image": [{"bytes": picture(i), "path": None} for i in numbers], "label": [i % 3 for i in numbers]}
        parquet.write_table(pa.table(columns), folder / f"train-{shard:05d}-of-{shards:05d}.parquet", row_group_size=16)
    return folder


def write_data_set(folder, count, shards):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    columns = {
        "image": [{"bytes": picture(i), "path": None} for i in range(count)],
        "label": [i % 3 for i in range(count)],
    }
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(columns, features=features)}).save_to_disk(folder)
    return folder


WRITERS = {"tar": write_tars, "parquet": write_parquet, "datasets": write_data_set}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("form", WRITERS)
def test_shards_of_pictures_are_three_parts_without_a_loss(tmp_path, form):
    folder = WRITERS[form](tmp_path / "data", 200, 4)
    assert is_sharded(str(folder))
    parts = open_shards(str(folder))
    census = count_labels(parts, 1000, 0.1, 0)
    assert census.classes == (("a", "b", "c") if form == "datasets" else ("0", "1", "2"))
    assert census.counts == (67, 67, 66)
    prepare, seen = preparing(4, "crop"), {}
    for part in ("train", "val", "test"):
        source = Chosen(parts["train"], census, part)
        found = [prepare(record) for shard in range(len(source)) for record in source.read(shard)]
        seen[part] = [int(image[0, 0, 0]) for image, _, _ in found]
        assert all(label == number % 3 for (_, label, _), number in zip(found, seen[part]))
    assert [len(seen[part]) for part in ("test", "val")] == [40, 20]
    assert sorted(number for part in seen.values() for number in part) == list(range(200))


def test_labels_of_tar_shards(tmp_path):
    forms = {
        "json": lambda i: (".json", json.dumps({"label": i % 3})),
        "name": lambda i: (".cls", "abc"[i % 3]),
    }
    for name, label in forms.items():
        census = count_labels(open_shards(str(write_tars(tmp_path / name, 12, 1, label))), 100, 0.1, 0)
        assert census.counts == (4, 4, 4)
    with pytest.raises(DataError, match="nothing says its class"):
        count_labels(open_shards(str(write_tars(tmp_path / "none", 12, 1, lambda i: (".txt", "a")))), 100, 0.1, 0)
    with pytest.raises(DataError, match="a label that cannot be read"):
        count_labels(open_shards(str(write_tars(tmp_path / "bad", 12, 1, lambda i: (".json", "{")))), 100, 0.1, 0)
    with pytest.raises(DataError, match="only one class"):
        count_labels(open_shards(str(write_tars(tmp_path / "one", 12, 1, lambda i: (".cls", "1")))), 100, 0.1, 0)


def read_all(folder):
    parts = open_shards(str(folder))
    census = count_labels(parts, 100, 0.1, 0)
    return [list(Chosen(parts["train"], census, "train").read(shard)) for shard in range(len(parts["train"]))]


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_damaged_shards_are_one_line(tmp_path, form):
    folder = WRITERS[form](tmp_path / "data", 40, 1)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    for cut in (10, len(whole) // 2):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError) as error:
            read_all(folder)
        assert path.name in str(error.value) and "\n" not in str(error.value)


def test_data_check_counts_the_labels_of_shards(tmp_path, capsys):
    folder = str(write_tars(tmp_path / "shards", 60, 2))
    with pytest.raises(SystemExit) as end:
        main(["data", "check", folder, "--json"])
    assert not end.value.code
    found = json.loads(capsys.readouterr().out)
    assert (found["shards"], found["balance"]["train"]) == ({"train": 2}, {"0": 20, "1": 20, "2": 20})
    with pytest.raises(SystemExit):
        main(["data", "check", folder])
    shown = capsys.readouterr().out
    assert "2 shards of train" in shown and "only their labels were read" in shown


def test_what_is_no_shard(tmp_path):
    write_tars(tmp_path / "mixed", 4, 1)
    (tmp_path / "mixed" / "a.png").write_bytes(picture(1))
    (tmp_path / "other").mkdir()
    with tarfile.open(tmp_path / "other" / "cifar.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("cifar-10-batches-py/data_batch_1"), io.BytesIO())
    for place in ("mixed", "other", "other/cifar.tar", "nothing"):
        assert not is_sharded(str(tmp_path / place))
    assert not is_sharded("digits") and is_sharded("hf://datasets/someone/pictures")
    assert is_sharded(str(write_tars(tmp_path / "shards", 4, 1) / "train-000.tar"))
