"""`ssmlab generate` and `ssmlab convert`: the same text by every way, one line for a mistake."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from calling import call

from ssmlab.checkpoints.files import load_language_model, save_language_model
from ssmlab.models import create_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of bytes with large weights, so that it writes different ones."""
    torch.manual_seed(2)
    model = create_model("mamba_lm_test", vocab_size=256, tie_embeddings=False)
    with torch.no_grad():
        model.backbone.embedding.weight.mul_(20)
        model.lm_head.weight.mul_(5)
    return save_language_model(model, tmp_path_factory.mktemp("models") / "bytes")


@pytest.fixture
def generate(folder, capsys):
    """Calls the command; returns what it printed."""

    def called(*arguments, model=folder, code=0):
        assert call("generate", model, "--device", "cpu", *arguments) == code
        return capsys.readouterr()

    return called


SAMPLED = (
    "--temperature",
    "0.9",
    "--top-k",
    "50",
    "--top-p",
    "0.95",
    "--min-p",
    "0.001",
    "--repetition-penalty",
    "1.1",
)


@pytest.mark.parametrize("options", [(), (*SAMPLED, "--seed", "4")], ids=["greedy", "sampled"])
def test_streamed_whole_and_in_a_batch_the_text_is_the_same(generate, folder, tmp_path, options):
    options = (*options, "--max-tokens", "12")
    streamed = generate("--prompt", "Hello", *options)
    assert generate("--prompt", "Hello", "--no-stream", *options).out == streamed.out
    assert re.fullmatch(r"prompt: 5 tokens, [\d.]+ tokens/s\ntext: 12 tokens, [\d.]+ tokens/s\n", streamed.err)
    (tmp_path / "prompt.txt").write_bytes(b"Hello")
    assert generate("--prompt-file", tmp_path / "prompt.txt", "--chunk", "2", *options).out == streamed.out
    (tmp_path / "batch.txt").write_bytes("Good morning\r\n\nHello\né\n".encode())
    rows = [json.loads(line) for line in generate("--batch", tmp_path / "batch.txt", *options).out.split("\n") if line]
    assert [row["prompt"] for row in rows] == ["Good morning", "Hello", "é"]
    assert rows[1]["text"] + "\n" == streamed.out
    assert all(row["reason"] == "length" and row["tokens"] == 12 and row["score"] < 0 for row in rows)
    if not options[:-2]:
        (expected,) = load_language_model(folder).generate([list(b"Hello")], max_tokens=12)
        assert streamed.out == bytes(expected.tokens).decode("utf-8", "replace") + "\n"


def test_a_saved_state_goes_on_as_the_whole_prompt_does(generate, tmp_path):
    state, options = tmp_path / "state.safetensors", (*SAMPLED, "--max-tokens", "9")
    whole = generate("--prompt", "A long text. A question", *options).out
    saved = generate("--prompt", "A long text.", "--save-state", state, "--max-tokens", "0")
    assert saved.out == "\n" and saved.err.startswith("prompt: 12 tokens") and "text" not in saved.err
    assert generate("--load-state", state, "--prompt", " A question", *options).out == whole
    without = generate("--load-state", state, *options)
    assert without.out == generate("--prompt", "A long text.", *options).out
    assert without.err.startswith("prompt: 0 tokens\n")
    (tmp_path / "batch").write_text(" A question\n Another\n")
    rows = generate("--load-state", state, "--batch", tmp_path / "batch", *options).out.split("\n")
    assert json.loads(rows[0])["text"] + "\n" == whole


def test_beams_and_stop_strings(generate):
    greedy = generate("--prompt", "Hello", "--max-tokens", "8")
    assert generate("--prompt", "Hello", "--max-tokens", "8", "--beams", "1").out == greedy.out
    searched = generate("--prompt", "Hello", "--max-tokens", "8", "--beams", "4").out
    assert searched != greedy.out and len(searched) > 1
    stop = greedy.out[3:5]
    stopped = generate("--prompt", "Hello", "--max-tokens", "8", "--stop", "never", "--stop", stop)
    assert stopped.out == greedy.out[: greedy.out.index(stop)] + "\n"


def test_a_name_has_random_weights_and_says_so(generate):
    told = generate("--prompt", "Hello", "--max-tokens", "2", model="mamba2_lm_test")
    assert "mamba2_lm_test is a name: its weights are random" in told.err


def test_a_tokenizer_beside_the_weights_goes_with_them(generate, tmp_path, capsys):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<|endoftext|>": 0, "to": 1, "be": 2, "or": 3, "not": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    torch.manual_seed(0)
    model = save_language_model(create_model("mamba_lm_test", vocab_size=8), tmp_path / "words")
    tokenizer.save(str(model / "tokenizer.json"))
    options = ("--max-tokens", "6", "--temperature", "3")
    written = generate("--prompt", "to be or", *options, model=model)
    assert set(written.out.split()) <= set(words) and written.err.startswith("prompt: 3 tokens")
    assert generate("--prompt", "", "--max-tokens", "1", model=model).err.startswith("prompt: 1 tokens")
    for layout in ("huggingface", "state-spaces", "ssmlab"):
        other = tmp_path / layout
        assert call("convert", model, other, "--to", layout) == 0
        assert f"parameters in {other}: config.json" in capsys.readouterr().out
        assert (other / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
        assert generate("--prompt", "to be or", *options, model=other).out == written.out
        assert generate("--prompt", "to be or", *options, "--tokenizer", other, model=other).out == written.out
    too_large = generate("--prompt", "x", "--tokenizer", "bytes", model=model, code=2)
    assert too_large.err == "ssmlab: the tokenizer has 256 tokens, the model 8; give the model's own\n"


def test_converted_models_open_in_transformers_with_the_same_logits(folder, tmp_path, capsys):
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([list(b"Hello")])
    for name, dtype, short in (("mamba_lm_test", "float32", "float32"), ("mamba2_lm_test", "bfloat16", "bf16")):
        model = tmp_path / name
        save_language_model(create_model(name, vocab_size=256), model)
        assert call("convert", model, tmp_path / "hf" / name, "--dtype", short) == 0
        assert AutoModelForCausalLM.from_pretrained(tmp_path / "hf" / name).dtype == getattr(torch, dtype)
        # both in float32: in half precision they round A_log, which the file holds in full
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf" / name, dtype=torch.float32)
        with torch.no_grad():
            expected = theirs(ids).logits
            logits = load_language_model(tmp_path / "hf" / name, torch.float32)(ids)[0]
        assert (logits - expected).abs().max() <= 2e-6 * expected.abs().max()
    assert call("convert", folder, tmp_path / "hf" / name) == 2
    assert "is there already and not empty; name a new folder" in capsys.readouterr().err


def test_a_text_ends_at_the_mark_of_the_training(generate, tmp_path, capsys):
    torch.manual_seed(0)
    model = create_model("mamba_lm_test", vocab_size=257)
    with torch.no_grad():
        model.backbone.embedding.weight.mul_(20)
    folder = save_language_model(model, tmp_path / "model")
    text = generate("--prompt", "Hello", "--max-tokens", "9", "--no-stream", model=folder).out
    third = model.eval().generate([list(b"Hello")], max_tokens=9)[0].tokens[2]
    about = {
        "kind": "chat",
        "mark": third,
        "template": {"user": "Q {text}|", "assistant": "A {text}|", "system": "{text}"},
    }
    (folder / "preprocess.json").write_text(json.dumps(about))
    (tmp_path / "batch").write_text("Hello\n")
    row = json.loads(generate("--batch", tmp_path / "batch", "--max-tokens", "9", model=folder).out)
    assert row["reason"] == "eos" and row["tokens"] <= 3 and text.startswith(row["text"].rstrip("\ufffd"))
    assert generate("--prompt", "", "--max-tokens", "1", model=folder).err.startswith("prompt: 1 tokens")
    asked = generate("--chat", "--prompt", "Hi", "--max-tokens", "0", model=folder).err
    assert asked.startswith(f"prompt: {1 + len('Q Hi|A ')} tokens")
    assert call("convert", folder, tmp_path / "hf") == 0
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"]) == (third, None)
    (folder / "preprocess.json").unlink()
    assert "its tokenizer has no chat template" in generate("--chat", "--prompt", "Hi", model=folder, code=2).err
    capsys.readouterr()


def test_of_a_runs_models_the_best_on_validation_writes(generate, tmp_path):
    from ssmlab.core.files import write_records
    from ssmlab.core.record import Record

    for name, loss in (("a", 2.0), ("b", 1.0), ("c", 3.0)):
        model = create_model("mamba_lm_test", vocab_size=256)
        folder = save_language_model(model, tmp_path / "models" / name)
        write_records(folder / "records.jsonl", [Record(metric="loss", split="val", value=loss)])
    told = generate("--prompt", "x", "--max-tokens", "1", model=tmp_path).err
    assert told.startswith(f"using {tmp_path / 'models' / 'b'} (lowest validation loss of 3 models)\n")


def test_a_classifier_writes_nothing(generate, tmp_path):
    from ssmlab.checkpoints.folder import save_model
    from ssmlab.models.language.sequence_classifier import SequenceClassifier

    network = SequenceClassifier(create_model("mamba_lm_test", vocab_size=256), 2)
    save_model(network, tmp_path / "model", {"kind": "text"})
    told = generate("--prompt", "x", model=tmp_path / "model", code=2).err
    assert "is a classifier of sequences, which writes nothing; use `ssmlab classify`" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "mamba_lm_tst", "--prompt", "x"], "no language model 'mamba_lm_tst'; did you mean mamba_lm_test"),
        (["generate", "/nowhere", "--prompt", "x"], "no language model '/nowhere'; give its folder"),
        (["generate", "mamba_lm_test"], "give one of --prompt, --prompt-file and --batch"),
        (["generate", "mamba_lm_test", "--prompt", "x", "--batch", "y"], "give one of --prompt"),
        (["generate", "mamba_lm_test", "--prompt-file", "/nowhere"], "there is no file /nowhere; give a text file"),
        (["generate", "mamba_lm_test", "--prompt-file", "/"], "/ is a folder; give a text file"),
        (["generate", "mamba_lm_test", "--batch", sys.executable], "is no text in UTF-8; give one, or convert it"),
        (["generate", "mamba_lm_test", "--batch", "/dev/null"], "/dev/null has no prompts"),
        (["generate", "mamba_lm_test", "--prompt", "x", "--dtype", "int4"], "--dtype must be one of float32, bfloat16"),
        (["generate", "mamba_lm_test", "--prompt", "x", "--top-k", "3"], "so temperature must be above 0"),
        (["generate", "mamba_lm_test", "--prompt", "x", "--tokenizer", "/nowhere"], "there is no tokenizer /nowhere"),
        (
            ["generate", "mamba_lm_test", "--prompt", "x", "--load-state", "/nowhere"],
            "there is no saved state /nowhere",
        ),
        (
            ["generate", "mamba_lm_test", "--prompt", "x", "--load-state", __file__],
            "is no saved state, or is damaged; --save-state FILE writes one",
        ),
        (
            ["generate", "mamba_lm_test", "--prompt", "x", "--device", "abacus"],
            "--device must be auto, cuda, mps or cpu, got 'abacus'",
        ),
        (["generate", "mamba_lm_test", "--prompt", ""], "prompt 0 has no tokens"),
        (["convert", "mamba_lm_test", "/nowhere/x", "--to", "onnx"], "--to must be one of huggingface, state-spaces"),
        (["convert", "s4d_lm_test", "/nowhere/x"], "no models of the family s4d_lm"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, capsys):
    assert call(*arguments) == 2
    captured = capsys.readouterr()
    line = captured.err.removeprefix(f"{arguments[1]} is a name: its weights are random, and so is what it writes\n")
    assert message in line and line.startswith("ssmlab: ") and line.count("\n") == 1
    assert captured.out == ""


def test_help_is_fast_and_shows_every_default():
    spent, shown = [], ""
    for _ in range(3):
        begin = os.times()
        done = subprocess.run(
            [sys.executable, "-m", "ssmlab", "generate", "--help"], capture_output=True, text=True, check=True
        )
        end = os.times()  # the command's own time, whatever else the machine does
        spent.append(end.children_user + end.children_system - begin.children_user - begin.children_system)
        shown = done.stdout
    assert min(spent) < 0.5, spent
    for option in ("max-tokens", "temperature", "top-k", "top-p", "min-p", "seed", "beams", "chunk", "device"):
        assert re.search(rf"--{option}\b(?:(?!--).)*\[default:", shown, re.S), option


def test_mistakes_import_nothing_heavy():
    code = (
        "import sys; from ssmlab.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: print('exit', end.code)\n"
        "print('heavy', sorted({'torch', 'transformers', 'tokenizers'} & set(sys.modules)))"
    )
    for arguments in (["generate", "nothing", "--prompt", "x"], ["generate", "mamba_lm"], ["convert", "nothing", "x"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert done.stdout.splitlines() == ["exit 2", "heavy []"], done


def test_a_repeated_prompt_of_a_batch_is_drawn_anew_and_blank_lines_are_none(generate, tmp_path):
    (tmp_path / "batch").write_bytes("\ufeffHello\r\n   \r\nHello\r\nHello\r\n".encode())
    options = ("--max-tokens", "12", "--temperature", "0.9", "--seed", "3")
    rows = [json.loads(line) for line in generate("--batch", tmp_path / "batch", *options).out.split("\n") if line]
    assert [row["prompt"] for row in rows] == ["Hello"] * 3 and len({row["text"] for row in rows}) == 3
    for row, seed in zip(rows, "345", strict=True):
        assert generate("--prompt", "Hello", *options[:-1], seed).out == row["text"] + "\n"


def test_a_byte_order_mark_is_no_prompt(generate, tmp_path):
    (tmp_path / "prompt.txt").write_bytes("\ufeffHello\r\n".encode())
    assert generate("--prompt-file", tmp_path / "prompt.txt", "--max-tokens", "0").err.startswith("prompt: 6 tokens")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--beams", "3", "--temperature", "0.5"), "beams=3 needs temperature 0"),
        (("--stop", ""), "stop must be a list of texts that are not empty"),
        (("--save-state", "/nowhere/state"), "--save-state /nowhere/state: /nowhere is no folder"),
        (("--save-state", "/tmp"), "--save-state /tmp: is a folder"),
    ],
)
def test_options_that_cannot_be_met_fail_before_the_prompt_is_read(generate, monkeypatch, options, message):
    monkeypatch.setattr("ssmlab.tasks.language.chat.open_chat", lambda *_, **__: pytest.fail("the model was opened"))
    assert message in generate("--prompt", "x", *options, code=2).err


CHAT = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}[a]{% endif %}"
)


def test_a_message_is_written_by_the_tokenizers_template(generate, folder, tmp_path):
    from ssmlab.data.text.tokenizers import load_tokenizer, tokenizer_files

    model = tmp_path / "model"
    model.mkdir()
    for file in folder.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    for name, text in tokenizer_files(load_tokenizer("bytes"), 256).items():
        (model / name).write_text(text)
    (model / "chat_template.jinja").write_text(CHAT)
    shown = generate("--chat", "--prompt", "hi", "--max-tokens", "4", model=model)
    assert shown.err.startswith(f"prompt: {len('[user] hi [a]')} tokens")
    assert generate("--prompt", "[user] hi [a]", "--max-tokens", "4", model=model).out == shown.out
    state = tmp_path / "state"
    generate("--prompt", "x", "--max-tokens", "0", "--save-state", state, model=model)
    refused = generate("--chat", "--prompt", "hi", "--load-state", state, model=model, code=2)
    assert "template begins a chat anew" in refused.err


def lines(printed):
    return [json.loads(line) for line in printed.out.splitlines()]


def test_samples_are_drawn_with_the_seeds_that_follow(generate, tmp_path):
    options = ("--max-tokens", "8", "--temperature", "0.9")
    rows = lines(generate("--prompt", "Hello", "--samples", "3", "--seed", "5", *options))
    assert [row["sample"] for row in rows] == [0, 1, 2] and {row["prompt"] for row in rows} == {"Hello"}
    for row, seed in zip(rows, "567", strict=True):
        assert generate("--prompt", "Hello", "--seed", seed, *options).out == row["text"] + "\n"
    (tmp_path / "batch").write_text("Hello\nOther\nHello\n")
    both = lines(generate("--batch", tmp_path / "batch", "--samples", "2", "--seed", "5", *options))
    assert [row["text"] for row in both[:2]] == [row["text"] for row in rows[:2]] and len(both) == 6
    assert both[4]["text"] == rows[2]["text"]  # the prompt comes again, and its seeds go on
    assert "all 2 samples are the same text" in generate("--prompt", "x", "--samples", "2", code=2).err


def test_json_lines_keep_their_keys_and_their_order(generate, folder, tmp_path):
    about = {"kind": "chat", "mark": 0, "template": {"user": "Q {text}|", "assistant": "A {text}|", "tool": "T {text}"}}
    rows = [
        {"id": 7, "prompt": "Good morning", "note": ["kept"]},
        {"text": "Hello"},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"},
                      {"role": "tool", "content": "x"}], "id": "é"},
    ]  # fmt: skip
    batch = tmp_path / "batch.jsonl"
    batch.write_text("\n\n".join(json.dumps(row) for row in rows) + "\n")
    model = tmp_path / "model"
    model.mkdir()
    for file in folder.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    (model / "preprocess.json").write_text(json.dumps(about))
    shown = generate("--batch", batch, "--max-tokens", "4", model=model)
    found = lines(shown)
    assert found[0]["id"] == 7 and found[0]["note"] == ["kept"] and found[0]["prompt"] == "Good morning"
    assert found[1]["prompt"] == "Hello" and found[2]["messages"] == rows[2]["messages"] and found[2]["id"] == "é"
    mark = len("\0")
    turns = mark + len("Q Hi|") + len("A Ho|") + mark + len("T x") + len("A ")
    assert shown.err.startswith(f"prompt: {len('Good morning') + len('Hello') + turns} tokens")
    alone = generate("--prompt", "Hello", "--max-tokens", "4", "--no-stream", model=model).out
    assert found[1]["text"] + "\n" == alone
    for text, message in (
        ('{"prompt": "a"}\n{"promt": "b"}\n[]', "line 2: exactly one of prompt, text, messages is needed, got none"),
        ('{"prompt": "a", "score": 1}', "the key 'score' is one of the result's; rename it"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "messages must end with one that is to be answered"),
        ('{"messages": [{"role": "user"}]}', "objects with role and content"),
        ('{"messages": [{"role": "x", "content": "a"}]}', "it knows no role 'x'"),
        ('{"prompt": 3}', "prompt must be a text, got int"),
        ("plain", "line 1: not JSON"),
    ):
        batch.write_text(text)
        assert message in generate("--batch", batch, model=model, code=2).err


def test_logarithms_are_printed_where_they_are_requested(generate):
    options = ("--prompt", "Hello", "--max-tokens", "3")
    (plain,) = lines(generate(*options, "--logprobs", "0"))
    assert plain["text"] + "\n" == generate(*options).out and all("top" not in token for token in plain["logprobs"])
    (row,) = lines(generate(*options, "--logprobs", "2"))
    assert sum(token["logprob"] for token in row["logprobs"]) == pytest.approx(row["score"])
    for token in row["logprobs"]:  # greedy takes the first
        assert len(token["top"]) == 2 and token["top"][0] == {key: token[key] for key in ("id", "token", "logprob")}
    assert "needs beams=1" in generate(*options, "--beams", "2", "--logprobs", "2", code=2).err


def test_a_state_after_the_answer_goes_on_where_it_ended(generate, tmp_path):
    state = tmp_path / "state"
    whole = generate("--prompt", "Hello", "--max-tokens", "9", "--no-stream").out
    first = generate("--prompt", "Hello", "--max-tokens", "4", "--no-stream", "--save-answer", state).out
    rest = generate("--load-state", state, "--max-tokens", "5", "--no-stream").out
    assert first[:-1] + rest == whole
    assert "--save-answer /tmp: is a folder" in generate("--prompt", "x", "--save-answer", "/tmp", code=2).err


def test_adapters_of_both_kinds_change_the_text(generate, folder, tmp_path):
    from ssmlab import adapt

    options = ("--prompt", "Hello", "--max-tokens", "12", "--no-stream")
    model = load_language_model(folder)
    torch.manual_seed(1)
    adapted = adapt.apply(model, "in_proj+x_proj", rank=2)
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter.add_(torch.randn_like(parameter))
    (expected,) = model.eval().generate([list(b"Hello")], max_tokens=12)
    adapt.save(adapted, tmp_path / "own")
    adapt.save_peft(adapted, tmp_path / "peft")
    text = generate(*options, "--adapter", tmp_path / "own").out
    assert text == bytes(expected.tokens).decode("utf-8", "replace") + "\n" != generate(*options).out
    assert generate(*options, "--adapter", tmp_path / "peft").out == text
    assert generate(*options, "--adapter", tmp_path / "peft", "--dtype", "int8").out != "\n"
    assert "has no adapter.json and no adapter_config.json" in generate(*options, "--adapter", tmp_path, code=2).err
