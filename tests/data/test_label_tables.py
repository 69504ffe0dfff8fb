"""Tables that say the class of every file, as HAM10000, ISIC, APTOS, GTSRB and others give them."""

import pytest
from trees import checked, fill, loaded, write

from ssmlab.core.errors import DataError
from ssmlab.data import open_images


def table(root, name, header, rows):
    lines = ([header] if header else []) + [",".join(map(str, row)) for row in rows]
    write(root, name, content="\n".join(lines).encode())


def ham(root, folders=("HAM10000_images_part_1", "HAM10000_images_part_2")):
    rows = []
    for i in range(24):
        write(root, f"{folders[i % 2]}/ISIC_{i:07}.jpg")
        rows.append((f"HAM_{i // 2:07}", f"ISIC_{i:07}", ("nv", "mel", "bkl")[i // 2 % 3], "histo", 40 + i, "male"))
    table(root, "HAM10000_metadata.csv", "lesion_id,image_id,dx,dx_type,age,sex", rows)
    return root


def said(found):
    return " | ".join([*found["notes"], *found["warnings"], *found["problems"]])


def test_ham10000(tmp_path):
    found = checked(ham(tmp_path))
    assert found["ok"] and (found["format"], found["classes"]) == ("label_table", ["bkl", "mel", "nv"])
    assert sum(found["counts"].values()) == 24 and loaded(tmp_path)["split_hash"] == found["split_hash"]
    assert "the classes are those of HAM10000_metadata.csv, column dx" in said(found)
    assert "24 rows of HAM10000_metadata.csv have 12 different values of lesion_id; data.group=lesion_id" in said(found)
    data = open_images(tmp_path, group="lesion_id")
    groups = [set(split.groups) for split in data.splits.values()]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    with pytest.raises(DataError) as caught:
        open_images(tmp_path, group="lesion")
    assert caught.value.problems == [
        "HAM10000_metadata.csv: no column 'lesion' among lesion_id, image_id, dx, dx_type, age, sex; did you mean "
        "'lesion_id'?"
    ]


def test_a_table_in_a_zip_and_given_as_the_path(make, tmp_path):
    ham(tmp_path / "ham")
    packed = checked(make.pack(tmp_path / "ham", tmp_path / "ham.zip", "ham/"))
    assert packed["classes"] == ["bkl", "mel", "nv"] and packed["split_hash"] == checked(tmp_path / "ham")["split_hash"]
    assert checked(tmp_path / "ham" / "HAM10000_metadata.csv")["split_hash"] == packed["split_hash"]


def test_another_column_by_name(tmp_path):
    ham(tmp_path)
    assert checked(tmp_path, "--labels", "sex")["problems"][0].startswith("only one class, 'male'")
    assert loaded(tmp_path, labels="dx")["classes"] == ["bkl", "mel", "nv"]
    told = checked(tmp_path, "--labels", "dxx")["problems"]
    assert len(told) == 1 and "no such column" in told[0] and "did you mean 'dx'?" in told[0]


def test_one_column_for_each_class(tmp_path):
    """ISIC 2018 and 2019: the images in one folder, the truth in a table of 0 and 1."""
    rows, names = [], ("MEL", "NV", "UNK")
    for i in range(18):
        write(tmp_path, f"ISIC_Training_Input/ISIC_{i}.jpg")
        rows.append((f"ISIC_{i}", *(float(i % 3 == k) for k in range(3))))
    table(tmp_path, "ISIC_Training_GroundTruth.csv", "image,MEL,NV,UNK", rows)
    table(
        tmp_path, "ISIC_Training_Metadata.csv", "image,age_approx,sex", [(f"ISIC_{i}", 50, "male") for i in range(18)]
    )
    found = checked(tmp_path)
    assert found["ok"] and found["classes"] == sorted(names) and sum(found["counts"].values()) == 18
    assert "left out: 1 table without these classes (ISIC_Training_Metadata.csv)" in said(found)
    rows[0] = ("ISIC_0", 1.0, 1.0, 0.0)
    table(tmp_path, "ISIC_Training_GroundTruth.csv", "image,MEL,NV,UNK", rows)
    (problem,) = checked(tmp_path)["problems"]
    assert "which column holds the classes is not clear" in problem and "MEL, NV, UNK" in problem


def test_no_header(tmp_path):
    write(tmp_path, *(f"images/ISIC_{i}.jpg" for i in range(12)))
    table(tmp_path, "truth.csv", "", [(f"ISIC_{i}", ("benign", "malignant")[i % 2]) for i in range(12)])
    found = checked(tmp_path)
    assert found["ok"] and found["classes"] == ["benign", "malignant"] and sum(found["counts"].values()) == 12


def test_kaggle(tmp_path):
    """APTOS: numbers as classes, a test folder without labels, a submission that is none."""
    write(tmp_path, *(f"train_images/{i:03}.png" for i in range(30)), *(f"test_images/9{i}.png" for i in range(5)))
    table(tmp_path, "train.csv", "id_code,diagnosis", [(f"{i:03}", i % 3 * 5) for i in range(30)])
    table(tmp_path, "test.csv", "id_code", [(f"9{i}",) for i in range(5)])
    table(tmp_path, "sample_submission.csv", "id_code,diagnosis", [(f"9{i}", 0) for i in range(5)])
    found = checked(tmp_path)
    assert found["ok"] and found["classes"] == ["0", "5", "10"] and sum(found["counts"].values()) == 30
    assert "left out: 5 images in no table of labels" in said(found) and "test.csv" in said(found)
    assert loaded(tmp_path)["counts"] == found["counts"]


def test_a_table_for_each_part(tmp_path):
    """GTSRB: class folders for training, a flat folder for the test, and tables of both. Names repeat."""
    for part in ("Train", "Test"):
        rows = []
        for i in range(12):
            path = f"Train/{i % 2}/{i}.png" if part == "Train" else f"Test/{i}.png"
            write(tmp_path, path)
            rows.append((29 + i, i % 2, path))
        table(tmp_path, f"{part}.csv", "Width,ClassId,Path", rows)
    found = checked(tmp_path)
    assert found["ok"] and found["classes"] == ["0", "1"] and found["counts"]["test"] == 12
    assert found["counts"]["train"] + found["counts"]["val"] == 12


def test_a_column_of_parts(tmp_path):
    write(tmp_path, *(f"img/{i}.png" for i in range(20)))
    parts = ["train"] * 10 + ["valid"] * 4 + ["test"] * 6
    table(tmp_path, "labels.csv", "filename,kind,split", [(f"{i}.png", "ab"[i % 2], p) for i, p in enumerate(parts)])
    found = checked(tmp_path)
    assert found["ok"] and found["counts"] == {"train": 10, "val": 4, "test": 6}
    assert "column kind; the parts those of column split" in said(found)


def test_what_is_wrong_is_named(tmp_path):
    write(tmp_path, *(f"img/{i}.png" for i in range(20)), "img/more/9.png")
    rows = [(f"{i}.png", "ab"[i % 2]) for i in range(20)]
    rows[0], rows[1] = ("gone.png", "a"), ("1.png", "")
    table(tmp_path, "labels.csv", "filename,label", [*rows, ("2.png", "b"), ("3.png", "b|a")])
    told = " | ".join(checked(tmp_path)["problems"])
    assert "gone.png: is missing (labels.csv, line 2); add the file or delete the row" in told
    assert "labels.csv, line 3: 1.png has no label; fill it in or delete the row" in told
    assert "labels.csv, line 22: 2.png is 'a' and 'b'; keep one of the rows" in told
    assert "labels.csv, line 11: '9.png' may mean img/9.png, img/more/9.png; write its path" in told
    table(tmp_path, "labels.csv", "filename,label", [(f"x{i}.png", "a") for i in range(40)] + [("2.png", "b|a")])
    told = checked(tmp_path)["problems"]
    assert len(told) == 2, told
    assert "40 rows whose file is missing" in told[0] and "several classes in one cell" in told[1]


def test_columns_that_may_be_either_are_asked_for(tmp_path):
    write(tmp_path, *(f"img/{i}.png" for i in range(20)))
    table(
        tmp_path,
        "t.csv",
        "file,tissue,stain,score",
        [(f"{i}.png", "ab"[i % 2], "cd"[i % 3 % 2], i / 7) for i in range(20)],
    )
    (problem,) = checked(tmp_path)["problems"]
    assert "not clear, those that may are: t.csv: tissue, stain; name it with data.labels=COLUMN" in problem
    assert checked(tmp_path, "--labels", "stain")["classes"] == ["c", "d"]


def test_folders_that_are_no_classes_are_not_silently_taken(tmp_path):
    fill(tmp_path, ["ward_a", "ward_b"], 8, "png")
    names = [f"ward_{w}/{i}.png" for w in "ab" for i in range(8)]
    table(tmp_path, "labels.csv", "path,diagnosis", [(n, ("well", "ill")[i % 2]) for i, n in enumerate(names)])
    (problem,) = checked(tmp_path)["problems"]
    assert "say different classes; data.labels=table takes the table's, data.labels=folders the folders'" in problem
    assert checked(tmp_path, "--labels", "diagnosis")["classes"] == ["ill", "well"]
    assert checked(tmp_path, "--labels", "table")["classes"] == ["ill", "well"]
    assert loaded(tmp_path, labels="folders")["classes"] == ["ward_a", "ward_b"]


def test_class_folders_with_a_table_of_something_else(tmp_path):
    fill(tmp_path, ["cat", "dog"], 8, "png")
    names = [f"{w}/{i}.png" for w in ("cat", "dog") for i in range(8)]
    table(tmp_path, "metadata.csv", "file,patient", [(n, i // 2) for i, n in enumerate(names)])
    assert checked(tmp_path)["classes"] == ["cat", "dog"]
    table(tmp_path, "metadata.csv", "file,label", [(n, n[:3]) for n in names])
    assert checked(tmp_path)["format"] == "class_folders", "folders and table agree"
    assert (
        "is for CIFAR-100 or tables of labels" in checked(tmp_path / "cat" / "..", "--labels", "coarse")["problems"][0]
    )


def test_sounds_with_a_table(make, tmp_path):
    """ESC-50: names say nothing, a number and a name for each class, folds."""
    root, rows = tmp_path / "esc", []
    for i in range(30):
        write(root, f"audio/{i % 5 + 1}-{i}-A-{i % 3}.wav")
        rows.append((f"{i % 5 + 1}-{i}-A-{i % 3}.wav", i % 5 + 1, i % 3, ("dog", "cat", "rain")[i % 3], "False"))
    table(root, "meta/esc50.csv", "filename,fold,target,category,esc10", rows)
    found = checked(root)
    assert (found["task"], found["classes"]) == ("classify_sequence", ["cat", "dog", "rain"])
    assert sum(found["counts"].values()) == 30 and "data.group=fold" in " ".join(found["warnings"])
    assert loaded(root, "audio")["split_hash"] == found["split_hash"]
    assert checked(make.pack(root, tmp_path / "esc.zip", "esc/"))["split_hash"] == found["split_hash"]
    grouped = loaded(root, "audio", group="fold", labels="target")
    assert grouped["classes"] == ["0", "1", "2"] and grouped["split_hash"] != found["split_hash"]
    assert grouped["split_hash"] == checked(root, "--group", "fold", "--labels", "target")["split_hash"]


def test_texts_with_a_table(tmp_path):
    write(tmp_path, *(f"notes/{i}.txt" for i in range(24)))
    table(tmp_path, "labels.csv", "id,sentiment", [(i, ("good", "bad")[i % 2]) for i in range(20)])
    found = checked(tmp_path)
    assert (found["task"], found["classes"]) == ("classify_sequence", ["bad", "good"])
    run = loaded(tmp_path, "text")
    assert run["counts"] == found["counts"] and sum(found["counts"].values()) == 20
    assert (
        "left out: 4 files in no table of labels (notes/20.txt, notes/21.txt, notes/22.txt and 1 more)" in run["notes"]
    )
    with pytest.raises(DataError, match="no such column"):
        loaded(tmp_path, "text", labels="mood")


def test_tables_without_classes_and_tables_that_cannot_be_read(tmp_path):
    write(tmp_path, *(f"images/{i}.png" for i in range(20)))
    table(tmp_path, "boxes.csv", "file,x,y,score", [(f"{i}.png", i, 5, i / 7) for i in range(20)])
    (problem,) = checked(tmp_path)["problems"]
    assert problem.startswith("no column holds a class for every file (boxes.csv: file, x, y, score); name it with")
    write(tmp_path, "boxes.csv", content=b"file,label\n\xff\xe9")
    (problem,) = checked(tmp_path)["problems"]
    assert problem.startswith("boxes.csv: not UTF-8 at byte 11; convert it")


def test_files_that_are_named_twice_with_one_class(tmp_path):
    """RSNA: a row for each box, coordinates, and one column of the usual names."""
    write(tmp_path, *(f"images/p{i:03}.png" for i in range(20)))
    rows = [(f"p{i % 20:03}", i, 2.5, 3, 4, i % 20 % 2) for i in range(30)]
    table(tmp_path, "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", rows)
    found = checked(tmp_path)
    assert found["ok"] and found["classes"] == ["0", "1"] and sum(found["counts"].values()) == 20


def test_folders_of_parts_each_with_its_table(tmp_path):
    """ISIC 2018, task 3: the folders only hold images, and the tables are named after parts in the middle."""
    for part, first, count in (("Training", 0, 16), ("Validation", 20, 4), ("Test", 30, 8)):
        numbers = range(first, first + count)
        write(tmp_path, *(f"ISIC2018_Task3_{part}_Input/ISIC_{i}.jpg" for i in numbers))
        name = f"ISIC2018_Task3_{part}_GroundTruth"
        table(tmp_path, f"{name}/{name}.csv", "image,MEL,NV", [(f"ISIC_{i}", 1.0 - i % 2, i % 2) for i in numbers])
    found = checked(tmp_path)
    assert found["ok"] and found["classes"] == ["MEL", "NV"]
    assert found["counts"] == {"train": 16, "val": 4, "test": 8} == loaded(tmp_path)["counts"]


def test_sounds_in_folders_that_a_table_contradicts(tmp_path):
    fill(tmp_path, ["room1", "room2"], 8, "wav")
    names = [f"room{w}/{i}.wav" for w in (1, 2) for i in range(8)]
    table(tmp_path, "labels.csv", "path,label", [(n, ("on", "off")[i % 2]) for i, n in enumerate(names)])
    (problem,) = checked(tmp_path)["problems"]
    assert "say different classes; data.labels=table takes the table's, data.labels=folders the others" in problem
    assert checked(tmp_path, "--labels", "table")["classes"] == ["off", "on"]
    assert loaded(tmp_path, "audio", labels="folders")["classes"] == ["room1", "room2"]


@pytest.mark.parametrize("key", ["file", "image_id"])
def test_a_group_that_only_another_table_has(tmp_path, key):
    """Labels of one source and patients of another are merged by the files that both name."""
    ham(tmp_path)
    rows = [(f"ISIC_{i:07}" + ".jpg" * (key == "file"), f"P{i // 3}") for i in range(24)]
    table(tmp_path, "groups.csv", f"{key},patient", rows)
    data = open_images(tmp_path, group="patient")
    groups = [set(split.groups) for split in data.splits.values()]
    assert set.union(*groups) == {f"P{i}" for i in range(8)} and sum(map(len, groups)) == 8
    assert "the groups those of groups.csv, column patient" in " ".join(data.notes)
    assert "left out: 1 table" not in " ".join(data.notes)
    with pytest.raises(DataError, match=r"groups.csv: no column 'patients' among .*did you mean 'patient'\?"):
        open_images(tmp_path, group="patients")
    table(tmp_path, "groups.csv", f"{key},patient", [*rows[1:], (rows[1][0], "P7")])
    with pytest.raises(DataError) as caught:
        open_images(tmp_path, group="patient")
    assert caught.value.problems == [
        f"groups.csv, line 25: {rows[1][0]} is in 'P0' and 'P7'; keep one row",
        "HAM10000_metadata.csv, line 2: ISIC_0000000 has no patient; fill it in or delete the row",
    ]
