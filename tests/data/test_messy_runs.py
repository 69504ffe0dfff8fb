"""Whole runs on folders as people have them: what `data check` counts is what was trained on and tested."""

import csv
import gzip
import json

import numpy as np
import pytest
from PIL import Image
from trees import checked, fill, write

from ssmlab.cli.main import main
from ssmlab.core.record import read_records

pytestmark = pytest.mark.slow

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50)
SHARED = """
name = "run"
description = "a folder as people have it"
seeds = [0]
[training]
{training}
[evaluation]
throughput_repeats = 1
"""
CLASSIFY = SHARED + 'bootstrap = 100\n[data]\nimage_size = 32\n[[models]]\nname = "resnet_test"\n'
SEQUENCES = SHARED + 'bootstrap = 100\n[data]\nlength = 32\n[[models]]\nname = "mamba_lm_test"\n'
RECIPES = {
    "classify": 'task = "classify"' + CLASSIFY,
    "classify_sequence": 'task = "classify_sequence"' + SEQUENCES,
    "language": 'task = "language"' + SEQUENCES,
    "segment": 'task = "segment"' + SHARED + '[data]\n[[models]]\nname = "residual_unet"\n' + """
[plan]
patch_size = [8, 8]
features = [4, 8]
kernel_sizes = [[3, 3], [3, 3]]
strides = [[1, 1], [2, 2]]
n_conv_encoder = [1, 1]
n_conv_decoder = [1]
""",
    "translate": 'task = "translate"' + SHARED.replace("throughput_repeats = 1", "bootstrap = 100")
                 + '[data]\nvocabulary = 300\n[[models]]\nname = "translation_mamba_test"',
}  # fmt: skip
TRAINING = {"segment": "iterations = 2\nvalidations = 1\nbatch_size = 2",
            "translate": "epochs = 1\nupdates_per_evaluation = 2\ntokens_per_batch = 256"}  # fmt: skip


def busi(root):
    for label in ("benign", "malignant", "normal"):
        for i in range(1, 9):
            write(root, f"{label}/{label} ({i}).png", f"{label}/{label} ({i})_mask.png")
    write(root, "benign/benign (1)_mask_1.png")


def imdb(root):
    fill(root, ["aclImdb/train/neg", "aclImdb/train/pos", "aclImdb/train/unsup"], 10, "txt")
    fill(root, ["aclImdb/test/neg", "aclImdb/test/pos"], 4, "txt")
    write(root / "aclImdb", "train/urls_pos.txt", "README", "imdb.vocab", content=b"x")


def speech(root):
    fill(root, ["yes", "no"], 12, "wav")
    fill(root, ["_background_noise_"], 3, "wav")
    (root / "testing_list.txt").write_bytes(b"yes/0.wav\r\nyes/1.wav\r\nno/5.wav\r\nhouse/1.wav\r\n")
    (root / "validation_list.txt").write_text("yes/2.wav\nno/3.wav\n")


def drive(root):
    fill(root, ["cat", "dog"], 9, "png")
    write(root, "@eaDir/cat/SYNO_THUMB.jpg", "cat/@eaDir/0.png/SYNO_THUMB_M.jpg", "$RECYCLE.BIN/x.png")
    write(root, "cat/Thumbs.db", "dog/._0.png", "cat/.DS_Store", ".ipynb_checkpoints/a.png", content=b"x")
    write(root, "cat/0_thumb.png", "dog/thumbs/0.png", "dog/3-150x150.png", "dog/licence.pdf")


def phone(root):
    """Pictures lying on their side by their EXIF, next to some that are not read."""
    for label in ("cat", "dog"):
        for i in range(9):
            picture = Image.fromarray(np.random.default_rng([i, len(label)]).integers(0, 256, (20, 30, 3), np.uint8))
            picture.putpixel((0, 0), (ord(label[0]), i, 0))
            exif = Image.Exif()
            exif[274] = 1 + i % 8
            (root / label).mkdir(exist_ok=True)
            picture.save(root / label / f"IMG_{i}.JPG", "JPEG", exif=exif)
    write(root, *(f"cat/IMG_{i}.HEIC" for i in range(5)), "dog/IMG_9", content=HEIC)


def stacks(root):
    """Volumes of three pages each, with masks."""
    for i in range(8):
        rng = np.random.default_rng(i)
        for folder in ("images", "masks"):
            (root / folder).mkdir(exist_ok=True)
            pages = rng.integers(0, 256, (3, 16, 16), np.uint8)
            pages = (pages > 127).astype(np.uint8) * 255 if folder == "masks" else pages
            first, *others = (Image.fromarray(page) for page in pages)
            first.save(root / folder / f"{i}.tif", save_all=True, append_images=others)


def genes(root):
    for seed, name in enumerate(("human.promoter.fa", "human.enhancer.fa", "human.silencer.v2.fa.gz")):
        bases = ["".join(np.random.default_rng([seed, i]).choice(list("ACGTN"), 30)) for i in range(9)]
        text = "".join(f">s{i}\r\n{b}\r\n" for i, b in enumerate(bases)).encode()
        (root / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    write(root, "reads.fastq", "README.md", content=b"x")


def lectures(root):
    write(root, *(f"{course}/2023-0{i}-01 lecture.wav" for course in ("Algebra I", "Logic") for i in range(1, 9)))
    write(root, "Logic/slides.pdf", "Logic/talk.mp3", "Algebra I/notes.txt", content=b"x")


def decathlon(root):
    nibabel = pytest.importorskip("nibabel")
    for folder, count in (("imagesTr", 8), ("labelsTr", 8), ("imagesTs", 2)):
        for i in range(count):
            voxels = np.random.default_rng(i).normal(size=(12, 12, 3)).astype(np.float32)
            voxels = (voxels > 0).astype(np.uint8) if folder == "labelsTr" else voxels
            path = root / folder / f"spleen_{i + 10 * (folder == 'imagesTs')}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
            write(root, f"{folder}/._{path.name}", content=b"x")
    described = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen"}, "numTraining": 8}
    (root / "dataset.json").write_text(json.dumps(described))


def cells(root):
    """A mask for each object."""
    for i in range(9):
        write(root, f"stage1_train/c{i}/images/c{i}.png")
        for n in range(4):
            mask = np.zeros(36, np.uint8)
            mask[n] = 255
            (root / f"stage1_train/c{i}/masks").mkdir(exist_ok=True)
            Image.fromarray(mask.reshape(6, 6)).save(root / f"stage1_train/c{i}/masks/{i}{n}f.png")


def competition(root):
    fill(root, [f"seg_{part}/seg_{part}/{label}" for part in ("train", "test") for label in "ab"], 7, "jpg")
    fill(root, ["seg_pred/seg_pred"], 3, "jpg")


def books(root):
    for i in range(30):
        write(root, f"books/{i}.txt", content=f"The text of book {i}. {'Words and words. ' * (i % 7 + 3)}".encode())
    write(root, "books/cover.jpg", "books/.DS_Store", "notes.pdf", content=b"x")


def corpus(root):
    lines = [(f"the dog runs {i} times", f"le chien court {i} fois") for i in range(300)]
    lines += [lines[0], lines[1], ("", "vide"), ("of one length " * 9, "non")]
    for language, side in (("en", 0), ("fr", 1)):
        (root / f"corpus.{language}").write_text("".join(f"{line[side]}\n" for line in lines))
    write(root, "README", "corpus.ids", content=b"x")


KINDS = {
    busi: ("classify", ""), imdb: ("classify_sequence", "text"), speech: ("classify_sequence", "audio"),
    drive: ("classify", ""), phone: ("classify", ""), stacks: ("segment", ""), genes: ("classify_sequence", "dna"),
    lectures: ("classify_sequence", "audio"), decathlon: ("segment", ""), cells: ("segment", ""),
    competition: ("classify", ""), books: ("language", "text"), corpus: ("translate", ""),
}  # fmt: skip


@pytest.mark.parametrize("build", KINDS, ids=lambda build: build.__name__)
def test_a_run_has_what_the_check_counted(tmp_path, build):
    task, kind = KINDS[build]
    root = tmp_path / "data"
    root.mkdir()
    build(root)
    found = checked(root, *(("--task", task) if task == "segment" else ()))
    assert found["ok"] and found["task"] == task, found["problems"]
    training = TRAINING.get(task, "epochs = 1\nbatch_size = 8\nmin_steps = 0")
    (tmp_path / "recipe.toml").write_text(RECIPES[task].format(training=training))
    more = [f"data.kind={kind}"] if kind else []
    if build in (stacks, decathlon):  # volumes
        more += ["plan.patch_size=[4,8,8]", "plan.kernel_sizes=[[3,3,3],[3,3,3]]", "plan.strides=[[1,1,1],[1,2,2]]"]
    with pytest.raises(SystemExit) as end:
        main(["run", str(tmp_path / "recipe.toml"), f"data.path={root}", *more, "--output", str(tmp_path)])
    assert not end.value.code
    data = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    counts = data.get("documents", data["counts"]) if task == "language" else data["counts"]
    assert counts == found["counts"] and list(data.get("classes", [])) == list(found.get("classes", []))
    if task != "language":  # whose split is of texts in bytes, and of the recipe's rows
        assert data["split_hash"] == found["split_hash"]
    metrics = ("accuracy", "dice", "bleu")
    records = read_records(tmp_path / "run" / "records.jsonl")
    tested = {r.n for r in records if r.split == "test" and r.metric in metrics and r.class_ is None}
    assert tested <= {counts["test"]} and (tested or task == "language")
    for table in (tmp_path / "run" / "models").glob("*/predictions.csv"):
        if task in ("classify", "classify_sequence"):
            rows = list(csv.DictReader(table.read_text("utf-8").splitlines()))
            assert len(rows) == counts["test"] and {row["label"] for row in rows} <= set(found["classes"])
    said = " | ".join(data.get("notes", []))
    assert all(note in said for note in found["notes"] if note.startswith("left out"))
