"""Bamba, Jamba, Zamba2 and Falcon-H1 write what transformers' own generation writes."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import ssmlab
import ssmlab.compat
from ssmlab.checkpoints.find import HYBRIDS
from ssmlab.checkpoints.hybrids import load_hybrid
from ssmlab.cli.main import main
from ssmlab.core.errors import ModelError, UserError
from ssmlab.core.record import read_records
from ssmlab.tasks.language.chat import open_chat

ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
SIZES = {
    "jamba": ATTENTION | {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2,
                          "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4},
    "zamba2": {"num_attention_heads": 4, "intermediate_size": 48, "mamba_d_state": 8, "n_mamba_heads": 8,
               "mamba_ngroups": 2, "chunk_size": 8, "adapter_rank": 4, "num_hidden_layers": 3,
               "layers_block_type": ["linear_attention", "hybrid", "linear_attention"]},
    "bamba": ATTENTION | {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1,
                          "mamba_expand": 2, "attn_layer_indices": [1]},
    "falcon_h1": ATTENTION | {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8,
                              "mamba_n_groups": 1},
}  # fmt: skip
PROMPTS = [[5, 9, 33, 12, 7, 40, 8, 2, 11], [3], [60, 61, 62, 17, 16]]
NEW = 8


@pytest.fixture(scope="module", params=HYBRIDS)
def folder(request, tmp_path_factory):
    """A tiny model that looks back, with a tokenizer of bytes, as transformers writes it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    place = tmp_path_factory.mktemp("hybrids") / request.param
    sizes = {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "tie_word_embeddings": False,
             "eos_token_id": None, "bos_token_id": None, "pad_token_id": None}  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(request.param, **(sizes | SIZES[request.param])))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.eval().save_pretrained(place)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    words.save(str(place / "tokenizer.json"))
    return place


@pytest.fixture(scope="module")
def theirs(folder):
    """What transformers writes after every prompt alone."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    found = [
        model.generate(torch.tensor([row]), attention_mask=torch.ones(1, len(row), dtype=torch.int64),
                       max_new_tokens=NEW, do_sample=False, pad_token_id=0)[0, len(row) :].tolist()
        for row in PROMPTS
    ]  # fmt: skip
    return model, found


def test_greedy_text_is_transformers(folder, theirs):
    model, right = theirs
    ours = open_chat(str(folder)).network
    assert [row.tokens for row in ours.generate(PROMPTS, max_tokens=NEW)] == right, "a batch is as if every row alone"
    logits, _ = ours(torch.tensor([PROMPTS[0]]))
    assert torch.equal(logits, model(torch.tensor([PROMPTS[0]])).logits)
    (row,) = ours.generate(PROMPTS[:1], max_tokens=NEW, chunk=2)
    assert row.tokens == right[0], "its prompt is read whole, whatever the pieces"


def test_a_state_is_a_value(folder, theirs):
    """Forked, used twice and continued by a second piece of the prompt."""
    ours, right = load_hybrid(folder), theirs[1]
    reading = ours.read(PROMPTS)
    first = [row.tokens for row in ours.generate(reading, max_tokens=NEW)]
    assert first == [row.tokens for row in ours.generate(reading, max_tokens=NEW)] == right
    forked = ours.generate(reading.select([2, 0, 0]), max_tokens=NEW)
    assert [row.tokens for row in forked] == [right[2], right[0], right[0]]
    later = ours.read([row[3:] for row in PROMPTS], ours.read([row[:3] for row in PROMPTS]))
    assert torch.allclose(later.logits, reading.logits, atol=1e-4, rtol=1e-4)
    assert [row.tokens for row in ours.generate(later, max_tokens=NEW)] == right
    searched = ours.generate(reading, max_tokens=NEW, beams=3)
    best = [row.score / NEW for row in ours.generate(reading, max_tokens=NEW)]
    assert all(len(row.tokens) == NEW for row in searched) and searched[0].score / NEW >= best[0] - 1e-5


TEXTS = ["A short text.", "Another one, of more letters than that."]


def nats(model, folder, text, begin=1):
    """Of a text's letters from `begin` on, by transformers."""
    ids = torch.tensor([Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids])
    with torch.no_grad():
        logs = model(ids).logits[0, :-1].log_softmax(-1)
    return -logs.gather(1, ids[0, 1:, None])[begin - 1 :].sum().item()


def test_it_is_measured_as_transformers_counts(folder, theirs, tmp_path):
    """Perplexity, bits a byte, several texts in a row; questions; log-probabilities."""
    model = theirs[0]
    expected = [nats(model, folder, text) for text in TEXTS]
    one = ssmlab.predict(str(folder), TEXTS)
    assert [row.loss * row.tokens for row in one] == pytest.approx(expected, rel=1e-5)
    found = ssmlab.evaluate(str(folder), TEXTS, progress=False)
    count = sum(len(text) - 1 for text in TEXTS)
    assert found.value("loss") == pytest.approx(sum(expected) / count, rel=1e-5)
    file = ssmlab.evaluate(load_hybrid(folder), TEXTS[1:], "language", tokenizer=str(folder), length=12, progress=False)
    assert 0 < file.value("loss") != found.value("loss") and file.value("perplexity") == pytest.approx(
        math.exp(file.value("loss"))
    )
    choices = ["a dog", "some cats", "x"]
    costs = [nats(model, folder, f"It is {choice}", len("It is")) for choice in choices]
    question = {"question": "It is", "choices": choices, "answer": costs.index(min(costs))}
    (tmp_path / "q.jsonl").write_text(json.dumps(question))
    assert ssmlab.evaluate(str(folder), tmp_path / "q.jsonl", progress=False).value("accuracy") == 1
    (row,) = ssmlab.generate(str(folder), [PROMPTS[0]], max_tokens=2, logprobs=2, eos=())
    with torch.no_grad():
        logs = model(torch.tensor([PROMPTS[0]])).logits[0, -1].log_softmax(-1)
    assert row.logprobs[0] == pytest.approx(logs.max().item(), abs=1e-5)


@pytest.fixture
def lent():
    """The command lends our kernels to the process: only for this test."""
    yield
    ssmlab.compat.uninstall()


def test_the_command_measures_it(folder, tmp_path, lent):
    (tmp_path / "text.txt").write_text(TEXTS[1])
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(folder), "--data", str(tmp_path / "text.txt"), "--output", str(tmp_path / "records")])
    assert not stop.value.code
    found = {record.metric: record.value for record in read_records(tmp_path / "records")}
    (row,) = ssmlab.predict(str(folder), TEXTS[1:])
    assert found["loss"] == pytest.approx(row.loss, rel=1e-4) and found["bits_per_byte"] > 0


def test_mistakes_are_one_line(folder, tmp_path, capsys, lent):
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"transformers cannot open this \S+ \("):
        load_hybrid(tmp_path)
    for more, said in (
        (["--dtype", "int8"], "runs in transformers' classes; choose float32, bfloat16, float16"),
        (["--save-state", str(tmp_path / "s")], "--save-state: states of Bamba, Jamba, Zamba2, Falcon-H1 are not"),
        (["--adapter", str(tmp_path)], "PEFT cannot put this on"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["generate", str(folder), "--prompt", "x", *more])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and said in error and error.count("ssmlab: ") == 1
    with pytest.raises(SystemExit) as stop:
        main(["convert", str(folder), str(tmp_path / "new")])
    assert stop.value.code == 2 and "is in transformers' layout already" in capsys.readouterr().err
    with pytest.raises(UserError, match="writes and is measured here; transformers trains it"):
        ssmlab.fit(load_hybrid(folder), "language", TEXTS, progress=False)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT asks transformers by a name that it renames
def test_an_adapter_of_peft(folder, tmp_path):
    from peft import IA3Config, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    layer = next(name for name, each in model.named_modules() if name.endswith(("q_proj", "in_proj", "up_proj")))
    adapted = get_peft_model(model, IA3Config(target_modules=[layer], feedforward_modules=[]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "ia3" in name:
                parameter.copy_(torch.linspace(0.5, 2, parameter.numel()).view_as(parameter))
    adapted.save_pretrained(tmp_path)
    ids = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        right = adapted.eval()(ids).logits
    found = load_hybrid(folder, adapter=tmp_path)(ids)[0]
    assert torch.allclose(found, right, atol=1e-5) and not torch.equal(found, load_hybrid(folder)(ids)[0])


@pytest.mark.slow
def test_the_command_lends_our_kernels(folder, theirs):
    """In a process of its own, since a model file looks for the kernels when it is first imported."""
    program = (
        "import sys, ssmlab.compat.importing as lending\n"
        "from ssmlab.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    print(sorted(name for name in sys.modules if name in ('mamba_ssm', 'causal_conv1d')))"
    )
    command = ["generate", str(folder), "--prompt", bytes(PROMPTS[0][2:3]).decode(), "--max-tokens", "4"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    assert b"['causal_conv1d', 'mamba_ssm']" in done.stdout
