"""Folders as people have them: `ssmlab data check` and what a run loads agree on parts, classes and counts, and both
say what is left out."""

import gzip
import json

import numpy as np
import pytest
from PIL import Image
from trees import agree, checked, fill, loaded, write
from typer.testing import CliRunner

from ssmlab.cli.data import app
from ssmlab.core.errors import DataError
from ssmlab.data.masks.reader import open_masks
from ssmlab.tasks.classify_sequence.data import load_labelled
from ssmlab.tasks.classify_sequence.recipe import LabelledRecipe
from ssmlab.tasks.language.data import load_texts
from ssmlab.tasks.language.recipe import LanguageRecipe

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50)


def test_imdb(tmp_path):
    root = tmp_path / "aclImdb"
    fill(root, ["train/neg", "train/pos", "train/unsup"], 10, "txt")
    fill(root, ["test/neg", "test/pos"], 4, "txt")
    write(
        root, "train/urls_pos.txt", "train/urls_unsup.txt", "README", "imdb.vocab", "train/neg/README.txt", content=b"x"
    )
    classes, counts, said = agree(tmp_path, "text")
    assert classes == ["neg", "pos"] and counts == {"train": 18, "val": 2, "test": 8}
    assert "train/unsup/ (10 texts), which is no class by its name" in said
    assert "README.txt" in said and "urls_pos.txt" in said


def test_speech_commands_with_their_lists(tmp_path):
    fill(tmp_path, ["yes", "no"], 12, "wav")
    fill(tmp_path, ["_background_noise_"], 3, "wav")
    (tmp_path / "testing_list.txt").write_bytes(b"yes/0.wav\r\nyes/1.wav\r\nno/5.wav\r\nhouse/1.wav\r\n")
    (tmp_path / "validation_list.txt").write_text("yes/2.wav\nno/3.wav\n")
    classes, counts, said = agree(tmp_path, "audio")
    assert classes == ["no", "yes"] and counts == {"train": 19, "val": 2, "test": 3}
    assert "_background_noise_/ (3 sounds), which is no class" in said and "validation_list.txt" in said


def test_a_speaker_stays_on_one_side(tmp_path):
    names = [f"{word}/{who}_nohash_{i}.wav" for word in ("yes", "no") for who in "abcde" for i in range(3)]
    write(tmp_path, *names)
    table = {"data": {"path": str(tmp_path), "kind": "audio"}, "models": [{"name": "mamba_lm_test"}]}
    data = load_labelled(LabelledRecipe.model_validate(table))
    speakers = [{id.split("/")[1][0] for id in part.ids} for part in (data.train, data.val, data.test)]
    assert sum(map(len, speakers)) == len(set.union(*speakers)) == 5


def test_busi_has_three_classes_and_its_masks_are_none(tmp_path):
    root = tmp_path / "Dataset_BUSI_with_GT"
    for label in ("benign", "malignant", "normal"):
        for i in range(1, 9):
            write(root, f"{label}/{label} ({i}).png", f"{label}/{label} ({i})_mask.png")
    write(root, "benign/benign (1)_mask_1.png")
    classes, counts, said = agree(root)
    assert classes == ["benign", "malignant", "normal"] and sum(counts.values()) == 24
    assert "left out: 25 masks of the images next to them (benign/benign (1)_mask.png" in said
    assert checked(root, "--task", "segment")["task"] == "segment"


def test_folders_of_masks_below_the_classes(tmp_path):
    fill(tmp_path, [f"{label}/{what}" for label in ("COVID", "Normal") for what in ("images", "masks")], 8, "png")
    classes, counts, said = agree(tmp_path)
    assert classes == ["COVID", "Normal"] and sum(counts.values()) == 16 and "left out: 16 masks" in said


def test_a_network_drive(tmp_path):
    fill(tmp_path, ["cat", "dog"], 8, "png")
    write(tmp_path, "@eaDir/cat/SYNO_THUMB.jpg", "cat/@eaDir/0.png/SYNO_THUMB_M.jpg", "$RECYCLE.BIN/x.png")
    write(tmp_path, "cat/Thumbs.db", "dog/._0.png", "cat/.DS_Store", ".ipynb_checkpoints/a.png", content=b"x")
    write(tmp_path, "cat/0_thumb.png", "dog/thumbs/0.png", "dog/3-150x150.png", "dog/licence.pdf")
    (tmp_path / "lost+found").mkdir()
    classes, counts, said = agree(tmp_path)
    assert classes == ["cat", "dog"] and sum(counts.values()) == 16
    assert "left out: 3 images that are thumbnails (cat/0_thumb.png, dog/3-150x150.png, dog/thumbs/0.png)" in said
    assert "hidden or system files ($RECYCLE.BIN/" in said and "(dog/licence.pdf)" in said


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("training_set", None, "test_set"),
        ("TRAIN SET", None, "TEST SET"),
        ("seg_train/seg_train", None, "seg_test/seg_test"),
        ("trainset", "valset", "testset"),
        ("train_images", "validation_images", "test_images"),
        ("Training", "dev", "evaluation"),
        ("images/train2017", "images/val2017", "images/test2017"),
        ("train/images", None, "test/images"),
        ("20news-bydate-train", None, "20news-bydate-test"),
        ("imagesTr", None, "imagesTs"),
    ],
)
@pytest.mark.parametrize("kind", ["image", "text", "audio"])
def test_names_of_parts(tmp_path, train, val, test, kind):
    ending = {"image": "png", "text": "txt", "audio": "wav"}[kind]
    for part, count in ((train, 10), (val, 3), (test, 4)):
        if part:
            fill(tmp_path, [f"{part}/{label}" for label in ("cats", "dogs")], count, ending)
    classes, counts, _ = agree(tmp_path, kind)
    assert classes == ["cats", "dogs"]
    assert counts == {"train": 20, "val": 6, "test": 8} if val else counts == {"train": 18, "val": 2, "test": 8}


def test_pictures_without_a_class_next_to_the_parts(tmp_path):
    fill(tmp_path, [f"seg_{part}/seg_{part}/{label}" for part in ("train", "test") for label in "ab"], 6, "jpg")
    fill(tmp_path, ["seg_pred/seg_pred"], 3, "jpg")
    classes, counts, said = agree(tmp_path)
    assert classes == ["a", "b"] and counts["test"] == 12 and sum(counts.values()) == 24
    assert "left out: 3 images outside of class folders (seg_pred/seg_pred/0.jpg" in said


def test_a_test_without_labels(tmp_path):
    fill(tmp_path, [f"asl_train/asl_train/{letter}" for letter in "AB"], 10, "jpg")
    fill(tmp_path, ["asl_test/asl_test"], 3, "jpg")
    classes, counts, said = agree(tmp_path)
    assert classes == ["A", "B"] and counts == {"train": 14, "val": 2, "test": 4}
    assert "left out: 3 images outside of class folders (asl_test/asl_test/0.jpg" in said


def test_parts_below_the_classes(tmp_path):
    fill(tmp_path, ["benign/train", "malignant/train"], 8, "png")
    fill(tmp_path, ["benign/test", "malignant/test"], 3, "png")
    classes, counts, _ = agree(tmp_path)
    assert classes == ["benign", "malignant"] and counts["test"] == 6


@pytest.mark.parametrize("names", [("fold1", "fold_2", "fold-3"), ("Fold 1", "Fold 2")])
@pytest.mark.parametrize("order", ["{fold}/{label}", "{label}/{fold}"])
def test_folds_are_groups(tmp_path, names, order):
    fill(tmp_path, [order.format(fold=fold, label=label) for fold in names for label in ("cats", "dogs")], 6, "png")
    classes, counts, said = agree(tmp_path)
    assert classes == ["cats", "dogs"] and counts["test"] == 12, "one whole fold"
    assert sum(counts.values()) == 12 * len(names) and "folds of a cross-validation, neither classes nor parts" in said


def test_folds_and_a_test(tmp_path):
    fill(tmp_path, [f"fold{i}/{label}" for i in range(4) for label in "ab"], 5, "wav")
    fill(tmp_path, ["test/a", "test/b"], 3, "wav")
    _, counts, _ = agree(tmp_path, "audio")
    assert counts == {"train": 30, "val": 10, "test": 6}


def test_years_and_portions(tmp_path):
    fill(tmp_path / "below", [f"{label}/{year}" for label in ("cat", "dog") for year in (2019, 2020)], 5, "txt")
    assert agree(tmp_path / "below", "text")[0] == ["cat", "dog"]
    fill(tmp_path / "above", [f"{year}/{label}" for label in ("cat", "dog") for year in (2019, 2020)], 5, "png")
    classes, counts, said = agree(tmp_path / "above")
    assert classes == ["cat", "dog"] and sum(counts.values()) == 20 and "2019/, 2020/: no classes" in said
    fill(tmp_path / "batches", [f"batch_{i}/{label}" for label in ("cat", "dog") for i in (1, 2)], 5, "png")
    assert agree(tmp_path / "batches")[0] == ["cat", "dog"]
    fill(tmp_path / "years", ["1970", "1980"], 5, "png")
    assert agree(tmp_path / "years")[0] == ["1970", "1980"], "pictures sorted by the year that is to be found"


@pytest.mark.parametrize("name", ["HAM10000_images_part_{}", "images_00{}/images", "fold{}"])
def test_shares_of_a_download_are_no_classes(tmp_path, name):
    fill(tmp_path, [name.format(i) for i in (1, 2)], 5, "jpg")
    found = checked(tmp_path)
    assert not found["ok"] and "outside of class folders" in found["problems"][0] and found["classes"] == []


def test_folders_that_hold_the_same_folders_are_refused(tmp_path):
    fill(tmp_path, [f"{site}/{label}" for site in ("Bern", "Ulm") for label in ("benign", "malignant")], 5, "png")
    (problem,) = checked(tmp_path)["problems"]
    assert problem.startswith("Bern/, Ulm/: all hold the same folders (benign, malignant); which of the two levels")


def test_sides_below_a_class_belong_to_it(tmp_path):
    fill(tmp_path, [f"{label}/{side}" for label in ("AMD", "Normal") for side in ("left", "right")], 5, "png")
    assert agree(tmp_path)[0] == ["AMD", "Normal"]


def test_domains_with_a_folder_of_images_are_refused_too(tmp_path):
    fill(tmp_path, [f"{camera}/images/{label}" for camera in ("dslr", "webcam") for label in ("bike", "mug")], 5, "jpg")
    assert "all hold the same folders (bike, mug)" in checked(tmp_path)["problems"][0]


def test_an_archive_unpacked_twice(tmp_path):
    fill(tmp_path / "cells", [f"{top}{label}" for label in ("sick", "well") for top in ("", "cells/")], 5, "png")
    classes, counts, said = agree(tmp_path / "cells")
    assert classes == ["sick", "well"] and sum(counts.values()) == 10
    assert "left out: cells/ (10 images), which holds the same class folders once more" in said


@pytest.mark.parametrize("word", ["train", "test", "valid"])
def test_a_class_may_be_called_like_a_part(tmp_path, word):
    fill(tmp_path, ["bus", "tram", word], 8, "png")
    assert agree(tmp_path)[0] == sorted(["bus", "tram", word])


def test_a_container_of_both_parts_is_none(tmp_path):
    fill(tmp_path, [f"train_test_split/{part}/{label}" for part in ("train", "test") for label in "ab"], 6, "png")
    classes, counts, _ = agree(tmp_path)
    assert classes == ["a", "b"] and counts["test"] == 12


def test_lists_of_food(tmp_path):
    fill(tmp_path, ["images/pie", "images/soup"], 8, "jpg")
    for part, numbers in (("train", range(5)), ("test", range(5, 8))):
        lines = [f"{label}/{i}\n" for label in ("pie", "soup") for i in numbers]
        write(tmp_path, f"meta/{part}.txt", content="".join(lines).encode())
    classes, counts, said = agree(tmp_path)
    assert classes == ["pie", "soup"] and counts == {"train": 8, "val": 2, "test": 6}
    assert "meta/test.txt, meta/train.txt" in said


def test_phone_photos(tmp_path):
    fill(tmp_path, ["cat", "dog"], 8, "jpg")
    write(tmp_path, *(f"cat/IMG_{i}.HEIC" for i in range(5)), "dog/IMG_9", content=HEIC)
    _, counts, said = agree(tmp_path)
    assert (
        sum(counts.values()) == 16
        and "left out: 6 files of formats that are not read, .heic, HEIF (cat/IMG_0.HEIC" in said
    )
    shown = CliRunner().invoke(app, ["check", str(tmp_path)]).output
    assert "convert them to JPEG" in shown and "All images can be read" not in shown
    write(tmp_path, *(f"cow/IMG_{i}.HEIC" for i in range(5)), content=HEIC)
    (problem,) = checked(tmp_path)["problems"]
    assert problem.startswith("cow/: no images in this class folder, only files that are not read (cow/IMG_0.HEIC")
    only = write(tmp_path / "only", "a/1.heic", "b/1.heic", content=HEIC)
    assert (
        "2 files of formats that are not read (a/1.heic, b/1.heic) and no other images" in checked(only)["problems"][0]
    )


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
def test_class_folders_of_volumes(tmp_path, ending):
    write(tmp_path, *(f"{label}/{i}.{ending}" for label in "ab" for i in range(3)), content=b"x")
    (problem,) = checked(tmp_path)["problems"]
    assert problem.startswith("class folders of volumes (a/0.") and "task is segment" in problem


def test_images_and_masks_are_no_classes(tmp_path):
    fill(tmp_path, ["training/images", "training/groundtruth"], 8, "png")
    with pytest.raises(DataError, match=r"images with masks .* and no classes: this is a set for segmentation"):
        loaded(tmp_path)


def test_boxes_are_no_masks(tmp_path):
    fill(tmp_path, ["JPEGImages"], 8, "jpg")
    write(tmp_path, *(f"Annotations/{i}.xml" for i in range(8)), content=b"<a/>")
    found = checked(tmp_path)
    assert found["problems"] == ["only one class, 'JPEGImages'; give two, a folder of images for each"]


def gene(root, name, seed, count=8):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    bases = ["".join(rng.choice(list("ACGT"), 30)) for _ in range(count)]
    text = "".join(f">s{i}\r\n{b}\r\n" for i, b in enumerate(bases)).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)


def test_gene_files(tmp_path):
    for seed, name in enumerate(["human.promoter.fa", "human.enhancer.fa", "human.silencer.v2.fa.gz"]):
        gene(tmp_path / "dots", name, seed)
    write(tmp_path / "dots", "reads.fastq", "README.md", content=b"x")
    classes, _, said = agree(tmp_path / "dots", "dna")
    assert classes == ["human.enhancer", "human.promoter", "human.silencer.v2"] and ".fastq (reads.fastq)" in said
    for seed, name in enumerate(["train/a.fa", "train/b.fa", "test/a.fa", "test/b.fa"]):
        gene(tmp_path / "parts", name, seed)
    assert agree(tmp_path / "parts", "dna")[:2] == (["a", "b"], {"train": 14, "val": 2, "test": 16})
    for seed, name in enumerate(["a/1.fa", "a/2.fa", "b/1.fa", "b/2.fa"]):
        gene(tmp_path / "folders", name, seed)
    assert agree(tmp_path / "folders", "dna")[0] == ["a", "b"]
    for seed, name in enumerate(["promoter_train.fa", "promoter_test.fa", "other_train.fa", "other_test.fa"]):
        gene(tmp_path / "names", name, seed)
    assert agree(tmp_path / "names", "dna")[:2] == (["other", "promoter"], {"train": 14, "val": 2, "test": 16})
    for seed, name in enumerate(["train.fa", "test.fa"]):
        gene(tmp_path / "only", name, seed)
    with pytest.raises(DataError, match="named after parts, and nothing says the classes"):
        loaded(tmp_path / "only", "dna")


def test_lecture_recordings(tmp_path):
    write(tmp_path, *(f"{course}/2023-0{i}-01 lecture.wav" for course in ("Algebra I", "Logic") for i in range(1, 9)))
    write(tmp_path, "Logic/slides.pdf", "Logic/talk.mp3", "Algebra I/notes.txt", content=b"x")
    classes, counts, said = agree(tmp_path, "audio")
    assert classes == ["Algebra I", "Logic"] and sum(counts.values()) == 16
    assert "left out: 1 file of formats that are not read, .mp3 (Logic/talk.mp3); convert them to .wav" in said
    assert "left out: 2 files of another kind (Algebra I/notes.txt, Logic/slides.pdf)" in said


def test_spoken_digits_go_by_their_names(tmp_path):
    write(tmp_path, *(f"recordings/{digit}_ada_{i}.wav" for digit in range(3) for i in range(12)))
    classes, counts, said = agree(tmp_path, "audio")
    assert classes == ["0", "1", "2"] and counts["test"] == 15 and "numbers below 5 are the test part" in said
    write(tmp_path, "recordings/noise.wav")
    with pytest.raises(DataError, match=r"1 are not \(recordings/noise\.wav\); keep one of the forms"):
        loaded(tmp_path, "audio")


def test_the_decathlon(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    root = tmp_path / "Task09_Spleen"
    for folder, count in (("imagesTr", 6), ("labelsTr", 6), ("imagesTs", 2)):
        for i in range(count):
            voxels = np.random.default_rng(i).normal(size=(4, 4, 3)).astype(np.float32)
            voxels = (voxels > 0).astype(np.uint8) if folder == "labelsTr" else voxels
            path = root / folder / f"spleen_{i + 10 * (folder == 'imagesTs')}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
            write(root, f"{folder}/._{path.name}", content=b"x")
    described = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen"}, "numTraining": 6}
    (root / "dataset.json").write_text(json.dumps(described))
    found, data = checked(root), open_masks(root)
    assert found["ok"] and found["classes"] == ["background", "spleen"] == list(data.classes)
    assert found["counts"] == {"train": 4, "val": 1, "test": 1} and found["split_hash"] == data.split_hash
    said = " | ".join(data.notes)
    assert "left out: imagesTs, which has no labels (2 files)" in said and "14 hidden or system files" in said


def objects(root, *names):
    """Masks of 6 x 6 pixels, each with a pixel of its own."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        mask = np.zeros(36, np.uint8)
        mask[i] = 255
        Image.fromarray(mask.reshape(6, 6)).save(root / name)


def test_a_mask_for_each_object(tmp_path):
    for i in range(8):
        write(tmp_path / "cells", f"stage1_train/c{i}/images/c{i}.png")
        objects(tmp_path / "cells", *(f"stage1_train/c{i}/masks/{i}{n}f.png" for n in range(4)))
        write(tmp_path / "busi", f"benign ({i}).png")
        objects(tmp_path / "busi", f"benign ({i})_mask.png", f"benign ({i})_mask_1.png")
    for folder, marked in (("cells", 4), ("busi", 2)):
        found, data = checked(tmp_path / folder), open_masks(tmp_path / folder)
        assert found["task"] == "segment" and found["counts"] == {"train": 5, "val": 1, "test": 2}
        assert data.train.sample(0).labels.sum() == marked
        assert data.notes[0].startswith("8 images with a mask for each object, which are put together (")
    objects(tmp_path / "busi", "benign (3)_mask_2.png")
    Image.new("L", (5, 6)).save(tmp_path / "busi" / "benign (3)_mask_2.png")
    assert "benign (3)_mask_2.png is 5 x 6" in checked(tmp_path / "busi")["problems"][0]


def test_folds_of_masks_stay_on_one_side(tmp_path):
    fill(tmp_path, [f"fold{i}/{what}" for i in range(4) for what in ("images", "masks")], 3, "png")
    for mask in tmp_path.rglob("masks/*.png"):
        Image.fromarray(np.array([[0, 255], [0, 0]], np.uint8).repeat(3, 0).repeat(3, 1)).save(mask)
    data = open_masks(tmp_path)
    sides = [{id.split("/")[0] for id in split.ids} for split in (data.train, data.val, data.test)]
    assert sum(map(len, sides)) == 4


def test_texts_for_a_language_model(tmp_path):
    root = write(tmp_path, "wiki.train.txt", "wiki.valid.txt", "wiki.test.txt", "LICENSE.txt", "paper.pdf")
    table = {"data": {"path": str(root), "length": 8}, "models": [{"name": "mamba_lm_test"}]}
    found, run = checked(root), load_texts(LanguageRecipe.model_validate(table)).describe
    assert found["task"] == "language" and found["counts"] == run["documents"] == {"train": 1, "val": 1, "test": 1}
    for said in (found["notes"] + found["warnings"], run["notes"]):
        assert any("LICENSE.txt" in note for note in said) and any(".pdf (paper.pdf)" in note for note in said)
    lines = "".join(json.dumps({"prompt": f"question {i}", "response": "yes"}) + "\n" for i in range(30))
    (tmp_path / "chats.jsonl").write_text(lines)
    assert checked(tmp_path / "chats.jsonl")["counts"] == {"train": 24, "val": 3, "test": 3}


def test_lines_of_json_with_texts(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"a film, the {i}."}) + "\r\n" for i in range(30)))
    found = checked(tmp_path / "a.jsonl")
    assert (found["format"], found["task"]) == ("text", "language") and sum(found["counts"].values()) == 30


def test_a_val_that_is_published_is_kept_for_language_models(tmp_path):
    fill(tmp_path, ["train"], 30, "txt")
    fill(tmp_path, ["validation"], 4, "txt")
    assert checked(tmp_path)["counts"] == {"train": 27, "val": 4, "test": 3}


@pytest.mark.parametrize("ending", [".xlsx", ".tgz", ".pdf"])
def test_other_formats_are_no_texts(tmp_path, ending):
    path = tmp_path / f"reviews{ending}"
    path.write_text("a film\n" * 50)
    table = {"data": {"path": str(path), "length": 8}, "models": [{"name": "mamba_lm_test"}]}
    with pytest.raises(DataError, match=f"a {ending} is not read as it is; expected a text"):
        load_texts(LanguageRecipe.model_validate(table))


def test_copies_stay_in_one_part_or_are_reported(tmp_path):
    for label in ("neg", "pos"):
        for i in range(30):
            write(tmp_path / "free", f"{label}/{i}.txt", content=f"Review {i // 3}  of {label}.\r\n".encode())
    _, _, said = agree(tmp_path / "free", "text")
    assert "40 sequences are copies of others, and in the same part as these" in said
    for i in range(40):
        write(tmp_path / "once", f"{('neg', 'pos')[i % 2]}/{i}.txt", content=f"Review {i or 2}, {i % 2}".encode())
    assert "1 sequence is a copy of others" in agree(tmp_path / "once", "text")[2]
    data = load_labelled(
        LabelledRecipe.model_validate({"data": {"path": str(tmp_path / "free")}, "models": [{"name": "mamba_lm_test"}]})
    )
    texts = [{bytes(tokens).split()[1] + id[:3].encode() for tokens, id in zip(part.tokens, part.ids, strict=True)}
             for part in (data.train, data.val, data.test)]  # fmt: skip
    assert sum(map(len, texts)) == len(set.union(*texts)) == 20
    fill(tmp_path / "published", ["train/a", "train/b", "test/a", "test/b"], 5, "txt")
    for part in ("train", "test"):
        write(tmp_path / "published", f"{part}/a/same.txt", content=b"the same")
    found = checked(tmp_path / "published")
    assert found["copies"] == {"test": {"exact": 1, "near": 0, "of": 11}}
    assert "test: test/a/same.txt = train: train/a/same.txt" in found["warnings"][0]


def test_copies_of_images_are_known_to_a_run(tmp_path):
    write(tmp_path, *(f"{part}/{label}/{i}.png" for part in ("train", "test") for label in "ab" for i in range(6)))
    assert loaded(tmp_path)["copies"] == checked(tmp_path)["copies"] == {}
    for i in range(2):
        (tmp_path / f"test/a/{i}.png").write_bytes((tmp_path / f"train/a/{i}.png").read_bytes())
    copies = loaded(tmp_path)["copies"]
    assert copies == checked(tmp_path)["copies"] == {"test": {"exact": 2, "near": 0, "of": 12}}


def test_labelled_next_to_unlabelled_holds_the_classes(tmp_path):
    fill(tmp_path, ["labelled/a", "labelled/b", "unlabelled"], 10, "png")
    classes, counts, said = agree(tmp_path)
    assert (classes, sum(counts.values())) == (["a", "b"], 20)
    assert "left out: unlabelled/ (10 images), which is no class by its name" in said


def test_classes_that_differ_in_case_are_pointed_out(tmp_path):
    fill(tmp_path, ["Cat", "cat", "dog_1", "dog_11"], 9, "txt")
    _, _, said = agree(tmp_path, "text")
    assert said.count("differ only in how they are written") == 1 and "classes 'Cat' and 'cat' differ" in said


def test_folds_with_parts_of_their_own_are_one_problem(tmp_path):
    fill(
        tmp_path, [f"fold{i}/{part}/{label}" for i in (1, 2) for part in ("train", "test") for label in "ab"], 3, "png"
    )
    assert checked(tmp_path)["problems"] == [
        "fold1/, fold2/: each has parts of its own (test, train); give one of them as the path"
    ]


def test_more_of_the_same_classes_next_to_the_parts_is_named(tmp_path):
    fill(tmp_path, [f"{part}/{label}" for part in ("train", "test", "extra") for label in "ab"], 6, "png")
    classes, counts, said = agree(tmp_path)
    assert (classes, counts) == (["a", "b"], {"train": 10, "val": 2, "test": 12})
    assert "left out: extra/ (12 images), no part by its name though it holds the same classes; move its files" in said


def test_shares_are_those_that_were_held_out(tmp_path):
    folds = [f"fold{i}/{label}" for i in range(3) for label in "ab"]
    said = agree(fill(tmp_path / "images", folds, 4, "png"))[2]
    assert (
        "no test part was published: 33% of all (8 of 24 images), stratified, seed 0; 20% were wanted, images of"
        in said
    )
    assert "one fold stay together" in said
    said = agree(fill(tmp_path / "texts", ["a", "b"], 20, "txt"), "text")[2]
    assert "no test part was published: 20% of all (8 of 40 sequences), stratified, seed 0 |" in said
    assert "no val part was published: 12% of train (4 of 32 sequences), stratified, seed 0" in said
    said = agree(fill(tmp_path / "given", ["train/a", "train/b", "test/a", "test/b"], 20, "txt"), "text")[2]
    assert "no test part" not in said and "no val part was published: 10% of train (4 of 40 sequences)" in said


def test_where_nothing_is_found_all_kinds_are_listed(tmp_path):
    write(tmp_path, "a.xyz", content=b"\0\1")
    (problem,) = checked(tmp_path)["problems"]
    assert all(kind in problem for kind in ("class folders", ".wav", ".fa", ".jsonl", "masks", ".csv"))
    assert ".wav" not in checked(tmp_path, "--task", "classify")["problems"][0]


def test_drive_is_no_set_of_two_classes(tmp_path):
    write(tmp_path, *(f"training/images/{i}_training.png" for i in range(21, 29)))
    for i in range(21, 29):
        for folder, end in (("1st_manual", "manual1"), ("mask", "training_mask")):
            path = tmp_path / "training" / folder / f"{i}_{end}.png"
            path.parent.mkdir(exist_ok=True)
            mask = np.zeros((6, 6), np.uint8)
            mask[: i % 5 + 1] = 255
            Image.fromarray(mask).save(path)
    assert checked(tmp_path)["task"] == "segment"
    with pytest.raises(DataError) as caught:
        loaded(tmp_path)
    assert "this is a set for segmentation" in caught.value.problems[0]


def test_texts_about_an_archive_are_no_data(make, tmp_path):
    fill(tmp_path / "pets", ["a", "b"], 9, "png")
    write(tmp_path, "data/SOURCE.md", "data/about.txt")
    make.pack(tmp_path / "pets", tmp_path / "data" / "pets.zip")
    found = checked(tmp_path / "data")
    assert (found["task"], found["classes"]) == ("classify", ["a", "b"])


def test_names_of_parts_with_words_on_both_sides(tmp_path):
    for part, n in (("stage1_train_images", 8), ("stage1_test_images", 4)):
        fill(tmp_path, [f"{part}/cat", f"{part}/dog"], n, "png")
    classes, counts, _ = agree(tmp_path)
    assert (classes, counts["test"], sum(counts.values())) == (["cat", "dog"], 8, 24)


def test_a_table_with_two_columns_that_may_be_the_classes_is_told(tmp_path):
    """Next to sounds it must not become a set without classes, which can be trained on too."""
    write(tmp_path, *(f"takes/{i:03}.wav" for i in range(20)))
    lines = ["what;kind;who", *(f"{i:03}.wav;{'ab'[i % 2]};{'xyz'[i % 3]}" for i in range(20))]
    write(tmp_path, "list.csv", content="\n".join(lines).encode())
    (problem,) = checked(tmp_path)["problems"]
    assert "which column holds the classes is not clear, those that may are: list.csv: kind, who" in problem
    assert checked(tmp_path, "--labels", "kind")["classes"] == ["a", "b"]
    found = checked(tmp_path, "--task", "language")
    assert found["ok"] and "left out: 1 file of another kind (list.csv)" in " ".join(found["notes"])
