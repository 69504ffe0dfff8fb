"""Runs of translation: from recipes to records, hypotheses and saved models; killed and continued; fine-tuned."""

import json
import os
import signal
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

from ssmlab.checkpoints.folder import load_model
from ssmlab.core.errors import DataError, RecipeError
from ssmlab.core.progress import Progress
from ssmlab.core.record import read_records
from ssmlab.data.pairs.subwords import load_subwords
from ssmlab.experiments.jobs import jobs_of
from ssmlab.experiments.run import run_recipe
from ssmlab.tasks.recipe import load_recipe
from ssmlab.tasks.table import experiment_of, load_data
from ssmlab.tasks.translate.experiment import build, decoding_of, parts
from ssmlab.tasks.translate.scores import Scores
from ssmlab.training import fit as training

RECIPE = "translation/multi30k"
NAME = "name=small"
MAMBA = "{name='translation_mamba',label='mamba',dropout={inner=0.1}}"
MARIAN = "{name='translation_transformer',label='transformer',dropout={branch=0.1,skip=0.1}}"
TWO = f"models=[{MAMBA},{MARIAN}]"
ONE = f"models=[{MAMBA}]"


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """Drawing takes longer than training here; the report has tests of its own."""
    monkeypatch.setattr("ssmlab.reports.html.write_report", lambda folder, _: folder / "report.html")


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """Vocabularies are kept in the user's cache."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("XDG_CACHE_HOME")
    if before is not None:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    recipe = load_recipe(
        RECIPE, [NAME, TWO, "training.precision=bf16", "data.limit=8", "evaluation.robustness=true"], smoke=True
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssmlab.reports.html.write_report", lambda folder, _: folder / "report.html")
        return run_recipe(recipe, output=tmp_path_factory.mktemp("runs"), command="ssmlab run")


def records_of(folder, **fields):
    return [r for r in read_records(folder / "records.jsonl") if all(getattr(r, k) == v for k, v in fields.items())]


def one(folder, **fields):
    (found,) = records_of(folder, **({"step": None, "class_": None} | fields))
    return found


class InterruptAt(Progress):
    """Ctrl-C at a step of one model."""

    def __init__(self, step):
        self.step, self.active = step, False

    def start(self, title, total, done=0, unit="items", per_step=1):
        self.active = unit == "batches"

    def update(self, done, note=""):
        if self.active and done == self.step:
            self.active = False
            os.kill(os.getpid(), signal.SIGINT)


def test_a_run_writes_everything_that_scores_and_translates(run):
    for label in ("mamba", "transformer"):
        folder = run / "models" / label
        files = {"config.json", "model.safetensors", "preprocess.json", "tokenizer.json", "test.hyp", "scores.npz"}
        assert files <= set(os.listdir(folder))
        about = json.loads((folder / "preprocess.json").read_text())
        assert about["task"] == "translate" and (about["source"], about["target"]) == ("en", "fr")
        assert (about["separator_id"], about["eos"]) == (1, 2)
        network, _ = load_model(folder)
        assert network.config.vocab_size == load_subwords(folder).size == 400
        for metric in ("bleu", "chrf"):
            record = one(run, model=label, metric=metric, split="test")
            assert record.value == pytest.approx(Scores.load(folder).values[metric]) and record.n == 8
            assert "version" in record.unit
            assert [r.step for r in records_of(run, model=label, metric=metric, split="val") if r.step] == [3, 6]
            assert one(run, model=label, metric=metric, split="val", class_="5 beams").n == 8
        kept = one(run, model=label, metric="kept_iteration").value
        curve = {r.step: r.value for r in records_of(run, model=label, metric="bleu", split="val") if r.step}
        assert (
            one(run, model=label, metric="bleu", split="val").value == pytest.approx(curve[kept]) == max(curve.values())
        )
        losses, nlls = (
            [r.value for r in records_of(run, model=label, metric=m, split="train")] for m in ("loss", "nll")
        )
        assert len(losses) == len(nlls) == 6 and losses != nlls
        whole = one(run, model=label, metric="parameters").value
        assert 0 < one(run, model=label, metric="parameters_without_embeddings").value < whole
        assert whole == sum(p.numel() for p in network.parameters())
        for metric in ("macs_per_pair", "test_seconds", "train_seconds"):
            assert one(run, model=label, metric=metric).value > 0, metric
        assert one(run, model=label, metric="tokens_per_second", class_="5 beams").n > 0
        assert one(run, model=label, metric="decoding_memory", class_="length 8").value > 0
        assert one(run, model=label, metric="bleu_lost", class_="typos in 20 % of words").n == 8
        lost = one(run, model=label, metric="bleu_lost", class_="upper case").value
        assert lost == pytest.approx(
            one(run, model=label, metric="bleu", split="test", class_=None).value
            - one(run, model=label, metric="bleu_changed", class_="upper case").value
        )
    sources, references, lines = (
        (run / name).read_text("utf-8").split("\n") for name in ("test.src", "test.ref", "models/mamba/test.hyp")
    )
    assert len(sources) == len(references) == len(lines) == 9 and sources[0].startswith("The ")
    pair = one(run, model="transformer - mamba", metric="bleu_difference")
    assert pair.spread[0] <= pair.value <= pair.spread[1]
    described = json.loads((run / "run.json").read_text())["data"]
    assert described["counts"] == {"train": 60, "val": 8, "test": 8} and described["vocabulary"] == 400
    assert described["items"] == "pairs" and described["tokens"]["train"] > 200


@pytest.mark.parametrize(
    "changes",
    [
        ["training.precision=bf16", MARIAN],
        ["training.documents=3", "training.carry_state=true", "evaluation.documents=3", MAMBA],
        ["training.gradient_checkpointing=true", "training.patience=1", MAMBA],
    ],
)
def test_interrupted_and_resumed_is_bit_equal(tmp_path, changes):
    """In mid-epoch, with the averages, the patience, dropout, and the same BLEU."""
    loaded = load_recipe(RECIPE, [NAME, *changes[:-1], f"models=[{changes[-1]}]"], smoke=True)
    label = loaded.models[0].label
    with pytest.raises(KeyboardInterrupt):
        run_recipe(loaded, output=tmp_path / "cut", progress=InterruptAt(5))
    checkpoints = tmp_path / "cut" / "small" / "models" / label / "checkpoints"
    assert [path.name for path in checkpoints.glob("checkpoint-*")] == ["checkpoint-5"]
    cut = run_recipe(loaded, output=tmp_path / "cut", resume=True)
    whole = run_recipe(loaded, output=tmp_path / "whole")
    a, b = (load_file(run / "models" / label / "model.safetensors") for run in (cut, whole))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert (cut / "models" / label / "test.hyp").read_text() == (whole / "models" / label / "test.hyp").read_text()
    for part in ("val", "test"):
        curves = [[r.value for r in records_of(run, metric="bleu", split=part)] for run in (cut, whole)]
        assert curves[0] == curves[1]


def test_every_model_reads_the_same_pairs_in_the_same_order_and_every_seed_others(monkeypatch, tmp_path):
    read: list[list] = []

    class Spy(training.SsmTrainer):
        def training_step(self, model, inputs, *more):
            read[-1].append(inputs["source"].tolist())
            return super().training_step(model, inputs, *more)

    monkeypatch.setattr(training, "SsmTrainer", Spy)
    recipe = load_recipe(RECIPE, [NAME, TWO, "seeds=[0,1]", "data.limit=2"], smoke=True)
    data = load_data(recipe)
    experiment, _ = experiment_of(recipe, data)
    from ssmlab.tasks.shared.experiment import train_job

    for job in jobs_of(recipe, tmp_path):
        read.append([])
        train_job(experiment, recipe, data, job)
    assert read[0] == read[1] != read[2] == read[3] and len(read[0]) == 6


def test_the_vocabulary_is_of_the_training_pairs_alone_and_of_each_subset_its_own(tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    for part, word in (("train", "alpha"), ("val", "omegaword"), ("test", "omegaword")):
        for side in ("en", "fr"):
            lines = [f"{word} {side} {i} {i * 7 % 11} {word}" for i in range(60)]
            (folder / f"{part}.{side}").write_text("\n".join(lines) + "\n")
    how = [NAME, ONE, f"data.path={folder}", "data.vocabulary=300", "data.limit=4"]
    few, all_ = (load_data(load_recipe(RECIPE, [*how, f"data.train_pairs={n}"], smoke=True)) for n in (20, 0))
    words = all_.words[""]
    assert len(words.encode(" alpha")) < len(words.encode(" omega")), "val and test are not learned from"
    assert few.words[""].content != words.content
    assert set(few.pairs["train"].sources) <= set(all_.pairs["train"].sources)
    cached = list((tmp_path / "x").glob("*")) or sorted(
        os.listdir(f"{os.environ['XDG_CACHE_HOME']}/ssmlab/vocabularies")
    )
    assert len(cached) >= 2
    again = load_data(load_recipe(RECIPE, [*how, "data.train_pairs=20"], smoke=True))
    assert again.words[""].content == few.words[""].content


@pytest.mark.parametrize("label", ["mamba", "transformer"])
def test_a_model_is_fine_tuned_in_full_and_by_adapters_embeddings_included(run, tmp_path, label):
    start = run / "models" / label
    recipe = load_recipe("translation/finetune", [NAME, f"model={start}", "data.limit=4"], smoke=True)
    folder = run_recipe(recipe, output=tmp_path)
    before = load_file(start / "model.safetensors")
    for own in ("whole", "lora"):
        network, _ = load_model(folder / "models" / own)
        after = load_file(folder / "models" / own / "model.safetensors")
        assert after.keys() == before.keys() and load_subwords(folder / "models" / own).size == 400
        changed = [key for key in before if not torch.equal(before[key], after[key])]
        assert any("embedding" in key for key in changed) and len(changed) > 5
        assert network.config == load_model(start)[0].config
    trained = {m: one(folder, model=m, metric="trained_parameters").value for m in ("whole", "lora")}
    assert trained["whole"] == one(folder, model="whole", metric="parameters").value
    assert (folder / "models" / "lora" / "adapter").is_dir()


def test_dropout_of_a_model_that_is_started_from_is_the_recipes(run):
    start = run / "models" / "mamba"
    recipe = load_recipe(
        RECIPE,
        [NAME, f"models=[{{weights='{start}',dropout={{skip=0.2}}}},{{label='own',weights='{start}'}}]"],
        smoke=True,
    )
    data = load_data(recipe)
    other, own = (build(recipe, data, model, 0) for model in recipe.models)
    assert other.config.dropout.skip == 0.2 and other.config.dropout.inner == 0.0
    assert own.config.dropout.inner == 0.1 and own.config.dropout.skip == 0.0
    for a, b in zip(other.state_dict().values(), own.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    train, _ = parts(recipe, data, recipe.models[0])
    assert len(train) == 3 and train.streams == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["models=[{name='translation_mamb'}]"], "unknown translation model 'translation_mamb'; did you mean"),
        (["models=[{name='mamba_lm_test'}]"], "unknown translation model 'mamba_lm_test'"),
        (["models=[{name='translation_mamba',dropout={skipp=0.1}}]"], "skipp"),
        (
            ["models=[{name='translation_mamba',options={dropout_skip=0.1}}]"],
            "option dropout_skip is set by the recipe",
        ),
        (["training.carry_state=true"], "give training.documents=5"),
        (["training.batch_size=32"], "batch_size"),
    ],
)
def test_mistakes_in_a_recipe_are_one_line(changes, message):
    with pytest.raises(RecipeError) as caught:
        load_recipe(RECIPE, [NAME, *changes], smoke=True)
    assert message in str(caught.value) and "\n" not in str(caught.value).strip()


def test_a_model_without_a_name_needs_a_folder():
    with pytest.raises(RecipeError, match=r"give its folder as model=DIR \(the models whole, lora of the recipe"):
        load_data(load_recipe("translation/finetune", ["data.path=generated"]))


def test_an_encoder_carries_no_state():
    recipe = load_recipe(
        RECIPE, [NAME, "training.documents=2", "training.carry_state=true", f"models=[{MARIAN}]"], smoke=True
    )
    with pytest.raises(RecipeError, match="transformer has an encoder, which reads every source anew"):
        build(recipe, load_data(recipe), recipe.models[0], 0)


def test_a_model_of_other_languages_is_said(run, tmp_path):
    for side, word in (("de", "Hund"), ("en", "dog")):
        for part in ("train", "val", "test"):
            (tmp_path / f"{part}.{side}").write_text("".join(f"{word} {part} {i}\n" for i in range(20)))
    start = run / "models" / "mamba"
    how = [NAME, f"data.path={tmp_path}", "data.source=de", "data.target=en", f"model={start}", "data.train_pairs=0"]
    recipe = load_recipe("translation/finetune", how, smoke=True)
    with pytest.raises(
        DataError, match=r"translates en to fr, the data are de to en; give data.source=en data.target=fr"
    ):
        load_data(recipe)


@pytest.mark.parametrize("name", ["own_files", "europarl_dropout", "finetune", "multi30k", "multi30k_dropout"])
def test_recipes_say_what_they_compare(name):
    recipe = load_recipe(f"translation/{name}", smoke=True)
    assert (
        recipe.trial
        and recipe.data.path == "generated"
        and all(recipe.name_of(m).endswith("_test") for m in recipe.models)
    )
    whole = load_recipe(f"translation/{name}", need_path=False)
    assert whole.task == "translate" and len(whole.models) >= 2
    if name == "europarl_dropout":
        assert [m.label for m in whole.models] == [
            "transformer",
            "transformer_skip",
            "mamba",
            "mamba_inner",
            "mamba_branch",
        ]
        assert whole.size == "paper" and all(whole.name_of(m).endswith("_paper") for m in whole.models)
        assert all(m.dropout.options() for m in whole.models if m.label != "mamba")


def test_the_title_of_every_model_is_its_own():
    recipe = load_recipe(RECIPE, need_path=False)
    titles = sorted(model.title for model in recipe.models)
    assert all(a != b for a, b in pairwise(titles))


@pytest.mark.parametrize(
    ("documents", "carry", "lines", "group"),
    [(1, False, 5, 1), (3, False, 5, 3), (8, False, 5, 5), (2, True, 5, 5), (2, True, 1, 1), (3, False, 1, 1)],
)
def test_a_model_translates_documents_as_it_was_trained_to(documents, carry, lines, group):
    """Never more lines together than in its training; the state goes on through all of them."""
    how = [f"training.documents={documents}", f"training.carry_state={str(carry).lower()}"]
    recipe = load_recipe(RECIPE, [NAME, ONE, *how, f"evaluation.documents={lines}"], smoke=True)
    found = decoding_of(recipe, load_data(recipe), recipe.models[0], beams=3)
    assert (found.group, found.carry, found.options.beams) == (group, carry, 3)
    assert (found.separator, found.eos, found.suppress) == (1, 2, (0,))


@pytest.mark.slow
def test_a_model_learns_to_translate_sentences_that_it_has_not_seen(tmp_path):
    own = "options={d_model=48,n_layer=2,n_encoder_layer=2,d_intermediate=96,heads=4}"
    changes = ["data.train_pairs=0", "size=", "training.updates_per_evaluation=40", "training.tokens_per_batch=1024",
               "training.warmup=40", "training.ema=0.9", "training.learning_rate=5e-3"]  # fmt: skip
    models = f"models=[{{name='translation_transformer',label='t',{own}}}]"
    recipe = load_recipe(RECIPE, [NAME, *changes, models], smoke=True)
    folder = run_recipe(recipe, output=tmp_path)
    assert one(folder, metric="bleu", split="test").value > 90
