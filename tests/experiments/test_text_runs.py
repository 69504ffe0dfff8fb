"""What a run on texts, bases and chats rests on is right, and is reported in the terminal."""

import json

import numpy as np
import pytest
import torch

from ssmlab.checkpoints.files import load_language_model, save_language_model
from ssmlab.cli.main import main
from ssmlab.core.checksums import FILE as CHECKSUMS
from ssmlab.core.errors import RecipeError
from ssmlab.core.progress import Progress
from ssmlab.core.record import read_records
from ssmlab.experiments.run import run_recipe
from ssmlab.models import create_model
from ssmlab.tasks.language.rows import row_metrics
from ssmlab.tasks.recipe import load_recipe
from ssmlab.tasks.table import load_data

ONE = "models=[{name='mamba_lm_test'}]"
QUICK = [ONE, "evaluation.throughput_repeats=1", "evaluation.bootstrap=100", "name=r"]
TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


class Said(Progress):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    @property
    def text(self):
        return "\n".join(self.lines)


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr("ssmlab.reports.html.write_report", lambda folder, _: folder / "report.html")


def byte_level(folder, **config):
    """A model with a tokenizer of single bytes, as transformers writes it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    torch.manual_seed(0)
    save_language_model(create_model("mamba_lm_test", vocab_size=257), folder, layout="huggingface")
    words.save(str(folder / "tokenizer.json"))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def data(task, *changes, said=None):
    return load_data(load_recipe(task, [*QUICK, *changes], smoke=True), said or Said())


def test_parts_are_the_same_text_whatever_the_tokenizer(tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    text = "Früh übt sich, wer ein Meister werden will. 😀 " * 60
    (tmp_path / "a.txt").write_text(text)
    words = Tokenizer(models.BPE())
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    words.train_from_iterator(["wer ein Meister werden will"], trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))  # fmt: skip
    words.save(str(tmp_path / "tokenizer.json"))
    own = ["data.limit=0", f"data.path={tmp_path / 'a.txt'}", "data.length=16"]
    plain = data("language/text", *own)
    other = data("language/text", *own, f"data.tokenizer={tmp_path / 'tokenizer.json'}")
    assert plain.units == other.units
    tokens = other.rows["test"].tokens[:, :-1].ravel().tolist()
    assert words.decode([t for t in tokens if t < 300]).startswith(
        bytes(t for t in plain.rows["test"].tokens[0] if t < 256).decode("utf-8", "ignore")
    )
    whole = plain.rows["train"].tokens[0, 1:].astype(np.uint8).tobytes()
    assert text.encode().startswith(whole)


def test_unknown_bases_are_neither_learned_nor_measured(tmp_path):
    bases = "".join(np.random.default_rng(0).choice(list("ACGT"), 3000))
    (tmp_path / "a.fa").write_text(f">one\n{bases[:2700]}{'N' * 250}{bases[:50]}\n")
    said = Said()
    found = data("language/dna", f"data.path={tmp_path / 'a.fa'}", "data.length=20", "data.limit=0", said=said)
    labels = {name: rows.labels() for name, rows in found.rows.items()}
    assert all(not (values == 4).any() for values in labels.values())
    assert (found.rows["test"].tokens == 4).sum() > 200, "they are read"
    assert found.units["test"] == 50 == (labels["test"] >= 0).sum() - 1
    assert any("83.3% of test" in note for note in found.describe["notes"]), found.describe["notes"]
    recipe = load_recipe("language/dna", [*QUICK, f"data.path={tmp_path / 'a.fa'}", "data.length=20"], smoke=True)
    folder = run_recipe(recipe, output=tmp_path, progress=said)
    bits = next(
        r
        for r in read_records(folder / "records.jsonl")
        if r.metric == "bits_per_base" and r.split == "test" and r.step is None
    )
    assert bits.value > 1.5 and bits.n == 51 and bits.spread[0] < bits.value < bits.spread[1]
    assert "neither learned nor measured" in said.text and "at most 64 rows" in said.text


def test_copies_across_published_parts_are_counted_before_training(tmp_path):
    for part, count in (("train", 40), ("val", 5), ("test", 10)):
        (tmp_path / part).mkdir()
        for i in range(count):
            (tmp_path / part / f"{i}.txt").write_text(f"text number {i} of {part if i > 3 else 'all'}\n" * 3)
    said = Said()
    found = data("language/text", f"data.path={tmp_path}", "data.limit=0", said=said)
    assert found.describe["copies"]["test"] == {"exact": 4, "near": 0, "of": 10}
    assert "warning: of 10 test texts, 4 exact copies of what is in train or val" in said.text
    for part in ("train", "test"):
        for label in ("a", "b"):
            place = tmp_path / "classes" / part / label
            place.mkdir(parents=True)
            for i in range(8):
                (place / f"{i}.txt").write_text(f"review {i} {label} {part if i > 1 else 'both'}")
    found = data("language/classify_text", f"data.path={tmp_path / 'classes'}", "data.limit=0", said=said)
    assert found.describe["copies"]["test"] == {"exact": 4, "near": 0, "of": 16}


def test_copies_of_chats_stay_on_one_side(tmp_path):
    rows = [json.dumps({"prompt": f"question {i // 3}", "response": f"answer {i // 3}"}) for i in range(180)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    found = data("language/finetune", f"data.path={tmp_path / 'a.jsonl'}")
    assert found.describe["copies"] == {} and "120 of 180 are copies of others" in found.describe["notes"][0]
    texts = {
        name: set(bytes(t for t in rows.tokens.ravel() if t < 256).decode().split("User: "))
        for name, rows in found.rows.items()
    }
    assert texts["train"] & texts["test"] <= {""}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A run of language/finetune on a model with a chat template of its own, and what it said."""
    place, said = tmp_path_factory.mktemp("tuned"), Said()
    base = byte_level(place / "base", chat_template=TEMPLATE, eos_token="z")
    rows = [json.dumps({"prompt": f"q{i}", "response": f"r{i}"}) for i in range(40)]
    (place / "a.jsonl").write_text("\n".join(rows))
    changes = ["models=[{label='one'}]", f"model={base}", f"data.path={place / 'a.jsonl'}", "training.epochs=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssmlab.reports.html.write_report", lambda folder, _: folder / "report.html")
        run = run_recipe(
            load_recipe("language/finetune", [*QUICK[1:], *changes], smoke=True), output=place, progress=said
        )
    return place, run, said


def test_fine_tuning_uses_the_models_own_chat_template(tuned, capsys):
    place, run, said = tuned
    assert f"written by the model's own chat template, {place / 'base' / 'tokenizer_config.json'}" in said.text
    folder = run / "models" / "one"
    about = json.loads((folder / "preprocess.json").read_text())
    assert "template" not in about and (folder / "chat_template.jinja").read_text() == TEMPLATE
    assert "chat_template" not in json.loads((folder / "tokenizer_config.json").read_text())
    with pytest.raises(SystemExit) as ended:
        main(["generate", str(folder), "--chat", "--prompt", "q1", "--max-tokens", "1", "--device", "cpu"])
    assert not ended.value.code
    assert f"prompt: {len('[user] q1 [assistant]')} tokens" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["convert", str(folder), str(place / "hf")])
    assert not ended.value.code
    assert (place / "hf" / "chat_template.jinja").read_text() == TEMPLATE


def test_another_template_can_be_asked_for(tuned):
    place, *_ = tuned
    base = [f"model={place / 'base'}", f"data.path={place / 'a.jsonl'}"]
    own = data("language/finetune", *base).template
    assert own.text == TEMPLATE
    ours = data("language/finetune", *base, "data.chat_template=recipe").template
    assert ours == {"system": "{text}\n\n", "user": "User: {text}\n", "assistant": "Assistant: {text}\n"}
    changed = data("language/finetune", *base, "data.template.user=Q: {text}").template
    assert changed["user"] == "Q: {text}"


def test_rows_of_one_document_let_affixes_be_trained(tmp_path):
    changes = ["lora=affix", "training.epochs=1", "data.limit=16"]
    with pytest.raises(Exception, match="packed"):
        run_recipe(load_recipe("language/finetune", [*QUICK, *changes], smoke=True), output=tmp_path / "a")
    run = run_recipe(
        load_recipe("language/finetune", [*QUICK, *changes, "data.packing=false"], smoke=True), output=tmp_path / "b"
    )
    assert (run / "models" / "mamba_lm_test" / "adapter").is_dir()


def test_counts_have_wilsons_intervals():
    from ssmlab.tasks.synthetic.task import Recall

    def spread(right, asked):
        sums = np.stack([np.ones(len(right)), np.full(len(right), asked), right], 1)
        return next(r.spread for r in row_metrics(Recall(vocab_size=4), sums, 100) if r.metric == "accuracy")

    assert spread(np.zeros(32), 1) == pytest.approx((0.0, 0.107), abs=1e-3)
    assert spread(np.ones(500), 1) == pytest.approx((0.992, 1.0), abs=1e-3)
    assert spread(np.full(32, 4.0), 4) == pytest.approx((0.893, 1.0), abs=1e-3), "a row is one trial"
    low, high = spread(np.array([4.0, 2.0] * 16), 4)
    assert 0.6 < low < 0.75 < high < 0.9


def test_a_trial_is_kept_as_one(tuned):
    _, run, _ = tuned
    assert json.loads((run / "run.json").read_text())["trial"] is True and load_recipe(run).trial
    assert load_recipe("language/text", ["data.path=pydoc"]).trial is False


def test_a_run_of_before_is_resumed_without_the_new_keys(tuned):
    _, run, _ = tuned
    text = (run / "recipe.toml").read_text()
    old = "".join(
        line for line in text.splitlines(True) if not line.startswith(("packing", "encoding", "chat_template"))
    )
    assert old != text
    known = (run / CHECKSUMS).read_text()
    (run / CHECKSUMS).unlink()  # there were none
    (run / "recipe.toml").write_text(old)
    try:
        run_recipe(load_recipe(run), output=run.parent, resume=True)
    finally:
        (run / "recipe.toml").write_text(text)
        (run / CHECKSUMS).write_text(known)


@pytest.mark.parametrize(
    ("recipe", "changes", "words"),
    [
        ("language/text", ["training.lr=1"], "did you mean training.learning_rate"),
        ("language/text", ["data.encoding=latin-9999"], "no encoding that Python knows"),
        ("language/text", ["training.carry_state=true", "data.packing=false"], "leave data.packing=true"),
    ],
)  # fmt: skip
def test_hints_name_what_was_meant(recipe, changes, words):
    with pytest.raises(RecipeError, match=words):
        load_recipe(recipe, changes, smoke=True)


def test_one_seed_is_a_list_of_one():
    assert load_recipe("language/text", ["seeds=3"], smoke=True).seeds == [3]


def test_models_of_another_kind_are_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model": "resnet_mamba_test", "config": {}}')
    with pytest.raises(RecipeError, match="'resnet_mamba_test', which is no language model"):
        data("language/finetune", f"model={tmp_path}", "models=[{label='one'}]")
    own = byte_level(tmp_path / "own")
    assert load_language_model(own).config.vocab_size == 257
    recipe = load_recipe(
        "language/text", [*QUICK, f"models.0.weights={own}", "models.0.options={d_model=8}"], smoke=True
    )
    with pytest.raises(Exception, match=r"take them away with models.N.options=\{\}"):
        run_recipe(recipe, output=tmp_path)


def test_other_commands_name_the_kind_of_a_text_model(tuned, tmp_path, capsys):
    _, run, _ = tuned
    folder = str(run / "models" / "one")
    for arguments in (
        ["compare", folder],
        ["robustness", folder, "--data", "digits"],
    ):
        (tmp_path / "a.png").write_bytes(b"")
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert "is a model of texts or other sequences" in capsys.readouterr().err, arguments


def test_a_pointer_of_git_lfs_is_called_so(tmp_path):
    from ssmlab.core.errors import ModelError

    own = byte_level(tmp_path / "own")
    (own / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ModelError, match="is a pointer of Git LFS, not the weights"):
        load_language_model(own)


def test_a_sweep_says_that_its_best_value_is_the_edge_of_the_grid():
    from ssmlab.experiments.sweep import Sweep, Trial

    def best(*scores, values=("1e-4", "1e-3", "1e-2")):
        trials = [Trial({"training.learning_rate": v}, None, {"m": [s]}) for v, s in zip(values, scores, strict=True)]
        return Sweep(None, trials).at_edge

    assert best(0.1, 0.9, 0.2) == []
    assert best(0.1, 0.2, 0.9) == [
        "training.learning_rate=1e-2 is the best and the largest of its grid; try values beyond it"
    ]
    assert "smallest of its grid" in best(0.9, 0.2, 0.1)[0]
    assert best(0.9, 0.2, 0.1, values=("a", "b", "c")) == []
