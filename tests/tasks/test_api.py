"""`fit`, `evaluate`, `predict` and `generate` of `import ssmlab`: any model and dataset, errors in one line."""

import json
import sys

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.transforms import ToTensor

import ssmlab
from ssmlab.core.errors import DataError, UserError
from ssmlab.data.text.documents import Document
from ssmlab.data.text.packing import pack, repack
from ssmlab.tasks.api import evaluate, fit, generate, predict
from ssmlab.tasks.items import labels_of

QUIET = {"progress": False, "device": "cpu"}


def fake(count=24, classes=3, seed=0):
    return torchvision.datasets.FakeData(count, (3, 16, 16), classes, ToTensor(), random_offset=seed)


def resnet(classes=3):
    torch.manual_seed(0)
    return ssmlab.create_model("resnet_test", num_classes=classes, image_size=16)


def language(vocab_size=257):
    torch.manual_seed(0)
    return ssmlab.create_model("mamba_lm_test", vocab_size=vocab_size)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit") / "net"
    return fit(resnet(), "classify", fake(), fake(12), epochs=2, batch_size=8, folder=folder, **QUIET)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit") / "words"
    texts = ["the cat sat on the mat. " * 20] * 2
    return fit(language(), "language", texts, texts[:1], epochs=2, batch_size=4, length=32, folder=folder, **QUIET)


def test_fake_data_in_a_few_lines(fitted):
    assert [row["step"] for row in fitted.history if "eval_loss" in row] == [3, 6]
    assert fitted.records.value("accuracy", split="val") == fitted.history[-1]["eval_accuracy"]
    found = evaluate(fitted, fake(12), **QUIET)
    assert found.value("accuracy") == fitted.history[-1]["eval_accuracy"]
    (first, second) = predict(fitted, [fake()[0][0], fake()[1][0]])
    assert first.label == next(iter(first.probabilities)) and sum(second.probabilities.values()) == pytest.approx(1)


def test_the_folder_is_the_model(fitted):
    assert {path.name for path in fitted.folder.iterdir()} >= {"config.json", "preprocess.json", "records.jsonl"}
    model, preprocess = ssmlab.load_model(fitted.folder)
    assert preprocess["classes"] == ["0", "1", "2"] and preprocess["image_size"] == 16
    one, two, three = (evaluate(each, fake(12), **QUIET) for each in (fitted, fitted.folder, model))
    assert one == two == three


def test_without_a_folder_no_file_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(resnet(), "classify", fake(8), epochs=1, batch_size=8, **QUIET)
    assert not list(tmp_path.iterdir())


def test_a_fit_is_saved_afterwards(fitted, tmp_path):
    assert evaluate(fitted.save(tmp_path / "net"), fake(12), **QUIET) == evaluate(fitted, fake(12), **QUIET)
    own = fit(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), "classify", fake(8), epochs=1, **QUIET)
    with pytest.raises(UserError, match="holds the weights alone: nothing says how Sequential is built"):
        own.save(tmp_path / "own")


class Killed(nn.Module):
    """Ends the training after so many batches, as a kill would."""

    def __init__(self, network, after):
        super().__init__()
        self.network, self.left = network, after

    def forward(self, x):
        self.left -= self.training
        if self.left < 0:
            raise MemoryError
        return self.network(x)


def test_a_killed_fit_goes_on_bit_equal(tmp_path):
    def run(folder, after):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Dropout(0.2), nn.Flatten(), nn.LazyLinear(3))
        network(torch.zeros(1, 3, 16, 16))
        how = {"epochs": 3, "batch_size": 8, "augment": {"flip": "horizontal"}, "folder": folder}
        return fit(Killed(network, after), "classify", fake(), fake(8), **how, **QUIET)

    whole = run(tmp_path / "whole", 99)
    with pytest.raises(UserError, match="out of memory"):
        run(tmp_path / "killed", 5)
    resumed = run(tmp_path / "killed", 99)
    pairs = zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert whole.history == resumed.history
    state = json.loads((tmp_path / "killed" / "fit.json").read_text())
    del state["config"]["patience"]  # as a version wrote it that had no such field
    (tmp_path / "killed" / "fit.json").write_text(json.dumps(state))
    again = run(tmp_path / "killed", 0)  # finished: nothing is trained
    assert again.history == whole.history
    with pytest.raises(UserError, match=r"holds a fit with epochs=3, not 4; .* resume=False"):
        fit(Killed(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), 9), "classify", fake(), epochs=4, batch_size=8,
            folder=tmp_path / "killed", **QUIET)  # fmt: skip


def test_a_fit_that_goes_on_keeps_what_it_found_in_the_data(tmp_path):
    """Items that are random would else be measured anew."""
    items = [(np.full((8, 8, 3), 50 * i, np.uint8), i % 3) for i in range(1, 5)]
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    how = {"epochs": 1, "batch_size": 2, "folder": tmp_path / "net"}
    with pytest.raises(UserError, match="out of memory"):
        fit(Killed(network, 1), "classify", items, **how, **QUIET)
    changed = [(image // 2, label) for image, label in items]
    assert fit(Killed(network, 9), "classify", changed, **how, **QUIET).task.mean[0] == pytest.approx(125 / 255)
    again = fit(Killed(network, 9), "classify", changed, **how, resume=False, **QUIET)
    assert again.task.mean[0] < 0.25


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files that are no fit's; give another folder"):
        fit(resnet(), "classify", fake(), folder=tmp_path, **QUIET)


def test_a_module_of_ones_own_keeps_its_weights_alone(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    fit(network, "classify", fake(8), epochs=1, folder=tmp_path / "net", **QUIET)
    from safetensors.torch import load_file

    network.load_state_dict(load_file(tmp_path / "net" / "model.safetensors"))
    assert not (tmp_path / "net" / "config.json").exists()


def test_a_model_of_timm_is_saved_and_loaded(tmp_path):
    import timm

    model = timm.create_model("test_resnet", num_classes=3)
    result = fit(model, "classify", fake(8), epochs=1, batch_size=8, folder=tmp_path / "net", **QUIET)
    assert evaluate(tmp_path / "net", fake(8), **QUIET) == evaluate(result, fake(8), **QUIET)


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.rand(3, 16, 16), i % 3) for i in range(6)])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda: [(Image.new("RGB", (16, 16)), i % 3) for i in range(6)], id="PIL"),
        pytest.param(lambda: [(np.zeros((16, 16, 3), np.uint8), i % 3) for i in range(6)], id="arrays"),
        pytest.param(lambda: TensorDataset(torch.rand(6, 3, 16, 16), torch.arange(6) % 3), id="TensorDataset"),
        pytest.param(lambda: Subset(fake(), range(6)), id="Subset"),
        pytest.param(Stream, id="stream"),
    ],
)
def test_images_in_any_form(data):
    result = fit(resnet(), "classify", data(), data(), epochs=1, min_steps=2, batch_size=4, **QUIET)
    assert result.task.classes == ("0", "1", "2")
    assert evaluate(result, data(), **QUIET).value("accuracy") >= 0


def test_names_of_classes_and_statistics():
    items = [(np.full((16, 16, 3), 51 * (i + 1), np.uint8), i) for i in range(3)]
    network = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    result = fit(network, "classify", items, epochs=1, classes=["a", "b", "c"], **QUIET)
    assert result.task.classes == ("a", "b", "c")
    assert result.task.mean == pytest.approx([0.4] * 3) and result.task.std == pytest.approx([0.2 * (2 / 3) ** 0.5] * 3)
    assert fit(network, "classify", items, epochs=1, mean=[0] * 3, std=[1] * 3, **QUIET).task.mean == (0, 0, 0)
    weighted = fit(network, "classify", items, epochs=1, class_weights="balanced", label_smoothing=0.1, **QUIET).task
    assert weighted.class_weights == pytest.approx((1, 1, 1)) and weighted.label_smoothing == 0.1


def test_images_that_are_normalised_are_used_as_they_are():
    items = [(torch.randn(3, 16, 16), i % 3) for i in range(6)]
    result = fit(resnet(), "classify", items, epochs=1, **QUIET)
    assert result.task.mean == (0, 0, 0) and result.task.std == (1, 1, 1)
    with pytest.raises(UserError, match="its dataset normalised"):
        predict(result, Image.new("RGB", (16, 16)))


def test_predict_takes_pictures_files_arrays_tensors_and_datasets(fitted, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    forms = [Image.fromarray(pixels), tmp_path / "a.png", str(tmp_path / "a.png"), pixels, tensor, tensor / 255,
             tensor[None], [(tensor, 2)], pixels[None]]  # fmt: skip
    found = [predict(fitted, form) for form in forms]
    assert all(len(each) == 1 for each in found)
    assert all(each[0].probability == pytest.approx(found[0][0].probability, abs=1e-6) for each in found)
    with pytest.raises(DataError, match=r"1 of the images cannot be used\n  .*none\.png: cannot be read"):
        predict(fitted, [tmp_path / "none.png", pixels])
    published = predict(resnet(), [pixels], classes=["x", "y", "z"])
    assert published[0].label in "xyz"


def test_a_folder_of_images_says_which_part_is_measured(fitted, tmp_path, capsys):
    for i in range(15):
        (tmp_path / str(i % 3)).mkdir(exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / str(i % 3) / f"{i}.png")
    assert evaluate(fitted.folder, tmp_path, device="cpu")[0].n == 3
    assert "its test part, 3 of 15 images" in capsys.readouterr().out
    assert evaluate(fitted.folder, str(tmp_path), part="train", **QUIET)[0].n > 3


def test_own_masks():
    class Marked(torch.utils.data.Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, i):
            mask = np.zeros((24, 24), np.uint8)
            mask[i : i + 12, 4:16] = 1
            return Image.fromarray(mask * 200 + 20), mask

    network = nn.Conv2d(1, 2, 5, padding=2)
    result = fit(network, "segment", Marked(), Marked(), epochs=20, batch_size=3, learning_rate=0.1, **QUIET)
    found = evaluate(result, Marked(), **QUIET)
    assert found.value("dice") == pytest.approx(result.history[-1]["eval_dice"]) and found.value("dice") > 0.8
    (one,) = predict(result, Marked()[0][0])
    assert one.mask.shape == (24, 24) and one.shares["class 1"] == pytest.approx(0.25, abs=0.1)
    with pytest.raises(UserError, match="image and mask must agree in size"):
        fit(network, "segment", [(torch.rand(1, 8, 8), torch.zeros(9, 9))], **QUIET)


def test_a_list_of_tensors():
    rows = [torch.arange(12) % 5 for _ in range(16)]
    result = fit(language(5), "language", rows, rows[:4], epochs=6, batch_size=4, learning_rate=1e-2, **QUIET)
    found = evaluate(result, rows[:4], **QUIET)
    assert found.value("loss") == result.history[-1]["eval_loss"] < 1.2
    (scored, _) = predict(result, rows[:2])
    assert scored.tokens == 11 and scored.loss == pytest.approx(found.value("loss"), rel=1e-5)
    assert generate(result, [rows[0]], max_tokens=3)[0].tokens


def test_texts(words):
    text = "the cat sat on the mat. " * 20
    assert evaluate(words, [text], **QUIET).value("bits_per_byte") == words.history[-1]["eval_bits_per_byte"]
    assert evaluate(words.folder, [text], **QUIET) == evaluate(words, [text], **QUIET)
    assert isinstance(generate(words, "the cat", max_tokens=4)[0].text, str)
    assert predict(words.folder, "the cat")[0].tokens == 6
    with pytest.raises(UserError, match="texts need 257 tokens.*vocab_size=257"):
        fit(language(256), "language", [text], **QUIET)


def test_window_and_stride_count_every_token_once():
    documents = [Document("a", np.arange(50)), Document("b", np.arange(23))]
    whole = pack(documents, 1000, 99)
    for length, stride in ((10, 10), (10, 3), (16, 1), (7, 7)):
        rows = pack(documents, length, 99, stride)
        labels = rows.labels()
        assert sorted(labels[labels >= 0]) == sorted(whole.labels()[whole.labels() >= 0])
        again = repack(pack(documents, 9, 99), length, 99, stride)
        assert sorted(again.labels()[again.labels() >= 0]) == sorted(labels[labels >= 0])
        if stride < length:  # all but the first window have so much before what they count
            assert (labels[1:, : length - stride] == -100).all()


def test_a_stride_gives_more_context(words):
    text = ["the cat sat on the mat. " * 6]
    plain, with_stride = (evaluate(words, text, length=16, **extra, **QUIET) for extra in ({}, {"stride": 4}))
    assert plain[0].n == with_stride[0].n and plain.value("loss") != with_stride.value("loss")
    with pytest.raises(UserError, match="stride must be from 1 to length = 16, got 17"):
        evaluate(words, text, length=16, stride=17, **QUIET)


def test_questions(words):
    questions = [{"question": "the cat sat on the", "choices": ["mat.", "zzzz"], "answer": 0}] * 3
    found = evaluate(words, questions, **QUIET)
    assert [record.metric for record in found] == ["accuracy", "accuracy_length_normalised"]
    scored = predict(words, ["the cat sat on the mat.", "the cat sat on the zzzz"])
    likelier = scored[0].loss * scored[0].tokens < scored[1].loss * scored[1].tokens
    assert found.value("accuracy") == float(likelier) and found[0].n == 3


def test_labelled_texts(tmp_path):
    items = [("good fine", 1), ("bad poor", 0)] * 8
    result = fit(language(), "classify_sequence", items, items[:4], classes=["bad", "good"], pool="last", epochs=1,
                 batch_size=4, folder=tmp_path / "net", **QUIET)  # fmt: skip
    assert evaluate(tmp_path / "net", items, **QUIET) == evaluate(result, items, **QUIET)
    assert predict(tmp_path / "net", "good fine")[0].label in ("bad", "good")


def test_a_task_of_ones_own():
    from ssmlab.tasks.classify.task import Classify

    task = Classify(classes=("a", "b", "c"), mean=(0.5,) * 3, std=(0.5,) * 3)
    result = fit(resnet(), task, fake(8), epochs=1, **QUIET)
    assert {record.metric for record in evaluate(result, fake(8), task, **QUIET)} == {"loss", "accuracy"}
    with pytest.raises(UserError, match="has no option 'classes'"):
        fit(resnet(), task, fake(8), classes=["a"], **QUIET)


TINY = {"epochs": 1, "batch_size": 2, **QUIET}


def labelled(*labels):
    return [(torch.rand(3, 16, 16), label) for label in labels]


class Broken(Dataset):
    targets = (0, 1, 2)

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index == 2:
            raise KeyError("ink")
        return torch.rand(3, 16, 16), index


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit(resnet(), "clasify", fake()), "no task 'clasify'; did you mean classify"),
        (lambda: fit(resnet(), "classify", fake(), epoch=2), "has no option 'epoch'; did you mean epochs"),
        (lambda: fit(resnet(), "classify", fake(), epochs=0), "epochs should be greater than or equal to 1, got 0"),
        (lambda: fit(resnet(), "classify", fake(), config=3), "config must be a FitConfig or a dictionary, got int"),
        (lambda: fit("resnet_test", "classify", fake()), "fit trains a module, got str"),
        (lambda: fit(resnet(), "classify", []), "the dataset is empty"),
        (lambda: fit(resnet(), "classify", 3), "expected a dataset of torch"),
        (lambda: fit(resnet(), "classify", [torch.rand(3, 16, 16)]), r"must be \(input, label\), got Tensor"),
        (lambda: fit(resnet(), "classify", [(torch.rand(3, 16, 16), 4)]), "data have 5 classes, resnet_test has 3"),
        (lambda: fit(language(9), "language", [torch.arange(12)]), "tokens go from 0 to 11, mamba_lm_test has 9"),
        (lambda: predict(nn.Linear(2, 2), torch.rand(3, 4, 4)), "nothing says what Linear is for; give task="),
        (lambda: evaluate(resnet(), fake(), part="tests"), "--part must be train, val, test or all"),
        (lambda: evaluate(resnet()), "there is nothing to evaluate on"),
        (lambda: fit(resnet(), "classify", labelled(0, 1, -1)), "must be the number of a class, 0, 1, 2 ..., got -1"),
        (lambda: fit(resnet(), "classify", labelled(0.5)), "must be the number of a class, .* got 0.5"),
        (lambda: fit(resnet(), "classify", labelled("cat")), "must be the number of a class, .* got 'cat'"),
        (
            lambda: fit(resnet(), "classify", labelled(torch.eye(3)[0])),
            r"must be the number of a class, .* got tensor\(",
        ),
        (
            lambda: fit(resnet(), "classify", labelled(0), labelled(5), **TINY),
            r"label 5 is no class: the 3 classes \(0, 1",
        ),
        (lambda: evaluate(resnet(), labelled(5), classes="abc"), "label 5 is no class"),
        (
            lambda: fit(resnet(), "classify", Broken(), **TINY),
            r"item 2 of the dataset cannot be read \(KeyError: 'ink'\)",
        ),
        (lambda: fit(resnet(), "classify", fake(), Broken(), **TINY), "item 2 of the dataset cannot be read"),
        (lambda: evaluate(resnet(), Subset(Broken(), [0, 2])), "item 1 of the dataset cannot be read|one of the items"),
        (
            lambda: fit(resnet(), "classify", [(np.zeros((3, 16, 16)), 0)]),
            r"\(h, w, c\), got \(3, 16, 16\); .*transpose",
        ),
        (lambda: fit(resnet(), "classify", [(torch.zeros(16, 16), 0)]), r"a tensor is \(c, h, w\), got \(16, 16\)"),
        (lambda: fit(resnet(), "classify", [("cat.png", 0)]), "a PIL image, an array or a tensor, got str"),
        (lambda: fit(resnet(), "classify", "photos"), "expected a dataset, got the text 'photos'; .*ImageFolder"),
        (lambda: fit(resnet(), "classify", DataLoader(fake())), "got DataLoader; give its .dataset"),
        (
            lambda: fit(resnet(), "classify", fake(), augment={"flp": 1}),
            "augment has no option 'flp'; did you mean flip",
        ),
        (lambda: fit(resnet(), "classify", fake(), folder=__file__), "test_api.py is a file; give a folder"),
        (
            lambda: predict(resnet(), np.zeros((9, 9, 4)), classes="abc", mean=[0] * 3, std=[1] * 3),
            "images have 4 channels",
        ),
        (lambda: fit(resnet(), "classify", fake(), class_weights="even"), 'must be "balanced" or a factor per class'),
        (lambda: predict(resnet(), None), "predict takes images, files or a dataset, got NoneType"),
        (lambda: fit(language(), "language", ["abc" * 9, torch.arange(5)]), "item 1 is no text as the first one is"),
        (lambda: fit(language(), "language", fake()), "a text or a sequence of at least 2 whole numbers, got tuple"),
        (lambda: fit(language(), "classify_sequence", [("a", "pos")]), "the number of a class, 0, 1, 2 ..., got 'pos'"),
        (lambda: generate(resnet(), "a"), "generate continues texts with a language model, got resnet_test"),
    ],
)
def test_mistakes_are_one_line(call, message):
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_whole_numbers_of_any_type_are_labels():
    one, other = (labelled(*(kind(i) for i in (0, 1, 2))) for kind in (int, np.float32))
    network = resnet()
    pairs = [(image, label) for (image, _), (_, label) in zip(one, other, strict=True)]
    assert evaluate(network, one, **QUIET) == evaluate(network, pairs, **QUIET)
    assert predict(network, [], classes="abc") == []


def test_labels_of_a_subset_are_its_own():
    whole = fake(12)
    whole.targets = [0, 0, 0, 0, 1, 2, 1, 2, 1, 2, 1, 2]
    assert labels_of(Subset(whole, [3, 4, 5])) == [0, 1, 2]
    assert labels_of(labelled(2, 1)) == [2, 1]


def test_a_single_step_trains():
    """The learning rate begins at 0 and would stay there."""
    network = resnet()
    before = [p.clone() for p in network.parameters()]
    fit(network, "classify", labelled(0, 1, 2), epochs=1, **QUIET)
    assert not all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_other_options_are_another_fit(tmp_path):
    data, how = labelled(0, 1, 2), {**TINY, "folder": tmp_path / "net"}
    mixed = how | {"class_weights": np.ones(3), "label_smoothing": 0.1}
    fit(resnet(), "classify", data, data, **mixed)
    fit(resnet(), "classify", data, data, **mixed)
    with pytest.raises(UserError, match=r"holds a fit with label_smoothing=0.1, not 0.2"):
        fit(resnet(), "classify", data, data, **mixed | {"label_smoothing": 0.2})
    with pytest.raises(UserError, match=r"holds a fit with class_weights=\[1.0, 1.0, 1.0\], not None"):
        fit(resnet(), "classify", data, data, label_smoothing=0.1, **how)
    with pytest.raises(UserError, match="holds a fit with val=3, not None"):
        fit(resnet(), "classify", data, **mixed)
    with pytest.raises(UserError, match="holds a fit with task='classify', not 'segment'"):
        fit(resnet(), "segment", data, data, **how)


def test_weights_alone_say_how_they_are_read(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    fit(network, "classify", labelled(0, 1, 2), folder=tmp_path / "own", **TINY)
    with pytest.raises(
        UserError, match="class of your own: build the model and load_state_dict .*own/model.safetensors"
    ):
        evaluate(tmp_path / "own", fake(4), **QUIET)


def test_results_are_tables_and_pictures(fitted):
    pandas = pytest.importorskip("pandas")
    assert isinstance(fitted.to_pandas(), pandas.DataFrame) and len(fitted.to_pandas()) == len(fitted.history)
    found = evaluate(fitted, fake(12), **QUIET)
    assert {"metric", "value", "spread", "class"} <= set(found.to_pandas().columns)
    head, loss, accuracy = str(found).splitlines()[:3]
    assert head.split() == ["metric", "value", "unit", "interval", "n"] and loss.startswith("loss")
    assert accuracy.startswith("accuracy") and " to " in accuracy and accuracy.endswith("12")
    assert found._repr_html_().startswith("<table>") and "accuracy" in found._repr_html_()
    assert repr(fitted).startswith("<resnet") and len(repr(fitted)) < 200
    for drawn in (fitted.plot(), found.plot()):
        assert drawn._repr_png_().startswith(b"\x89PNG") and drawn.axes
    with pytest.raises(UserError, match="no record of 'accurcy'; there are loss, accuracy"):
        found.value("accurcy")


def test_pandas_is_named_where_it_is_missing(fitted, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="needs pandas, which is not installed; pip install pandas"):
        fitted.to_pandas()


def test_progress_is_shown_unless_it_is_switched_off(capsys):
    fit(resnet(), "classify", [(torch.randn(3, 16, 16), i % 3) for i in range(6)], epochs=1, device="cpu")
    assert "taken as normalised" in capsys.readouterr().out
    fit(resnet(), "classify", [(torch.randn(3, 16, 16), i % 3) for i in range(6)], epochs=1, **QUIET)
    assert not capsys.readouterr().out


IMAGES = """
train, test = (FakeData(24, (3, 16, 16), 3, ToTensor(), random_offset=seed) for seed in (0, 1))
model = ssmlab.create_model("vmamba_test", num_classes=3, image_size=16)
result = ssmlab.fit(model, "classify", train, test, epochs=1, batch_size=8, folder="net")
measured = ssmlab.evaluate(result, test)
heat = grad_cam(result.model, result.inputs(test[0][0]), test[0][1])
loaded, preprocess = ssmlab.load_model("net")
again = ssmlab.evaluate(loaded, test)
more = ssmlab.fit(loaded, "classify", train, test, epochs=1, batch_size=8, folder="net-2")
"""
TENSORS = """
train, test = ([torch.randint(0, 20, (16,)) for _ in range(12)] for _ in range(2))
model = ssmlab.create_model("mamba_lm_test", vocab_size=20)
result = ssmlab.fit(model, "language", train, test, epochs=1, batch_size=4, folder="net")
measured = ssmlab.evaluate(result, test)
heat = scans_of(result.model, test[0][None])[-1].attention()
loaded, preprocess = ssmlab.load_model("net")
again = ssmlab.evaluate(loaded, test)
more = ssmlab.fit(loaded, "language", train, test, epochs=1, batch_size=4, folder="net-2")
"""


@pytest.mark.parametrize("code", [IMAGES, TENSORS], ids=["FakeData", "a list of tensors"])
def test_train_evaluate_explain_save_load_continue(code, tmp_path, monkeypatch):
    from ssmlab.interpret import grad_cam, scans_of

    monkeypatch.chdir(tmp_path)
    names = {"ssmlab": ssmlab, "torch": torch, "FakeData": torchvision.datasets.FakeData, "ToTensor": ToTensor}
    names |= {"grad_cam": grad_cam, "scans_of": scans_of}
    assert code.strip().count("\n") < 15
    exec(code, names)
    assert names["measured"] == names["again"] and names["heat"].isfinite().all()
    assert names["more"].steps == names["result"].steps and (tmp_path / "net-2" / "config.json").is_file()


def test_a_loaded_model_remembers_what_its_inputs_went_through(tmp_path):
    how = {"mean": [0.1, 0.2, 0.3], "std": [0.5] * 3, "classes": ["a", "b", "c"]}
    result = fit(resnet(), "classify", fake(8), epochs=1, folder=tmp_path / "net", **how, **QUIET)
    model, _ = ssmlab.load_model(tmp_path / "net")
    assert evaluate(model, fake(8), **QUIET) == evaluate(result, fake(8), **QUIET)
    more = fit(model, "classify", fake(8), epochs=1, **QUIET)
    assert more.task.mean == (0.1, 0.2, 0.3) and more.task.classes == ("a", "b", "c")


def test_either_order(fitted):
    assert evaluate(fitted, "classify", fake(12), **QUIET) == evaluate(fitted, fake(12), "classify", **QUIET)
