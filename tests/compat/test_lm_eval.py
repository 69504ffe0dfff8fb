"""lm-evaluation-harness' own wrapper of mamba_ssm, on a folder of the original's layout."""

import sys

import pytest
import torch

pytest.importorskip("lm_eval", reason="lm_eval is not installed")


@pytest.mark.filterwarnings("ignore")
def test_wrapper(installed, tmp_path):
    from lm_eval.api.instance import Instance
    from lm_eval.models.mamba_lm import MambaLMWrapper
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = ["<eos>", "the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "dog"]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<eos>"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<eos>", pad_token="<eos>")
    fast.save_pretrained(tmp_path)
    torch.manual_seed(0)
    model = MambaLMHeadModel(MambaConfig(d_model=16, n_layer=2, vocab_size=len(words))).eval()
    model.save_pretrained(tmp_path)
    harness = MambaLMWrapper(
        pretrained=str(tmp_path), tokenizer=str(tmp_path), device="cpu", dtype="float32", batch_size=2, max_length=16
    )
    assert type(harness.model).__module__.startswith("ssmlab.compat")
    pairs = [("the cat", " sat on"), ("a dog", " saw the mat")]
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    for (context, ending), (found, greedy) in zip(
        pairs, harness.loglikelihood(requests, disable_tqdm=True), strict=True
    ):
        ids = torch.tensor([fast.encode(context + ending)])
        count = len(fast.encode(ending))
        logs = model(ids[:, :-1]).logits.log_softmax(-1)[0, -count:]
        assert found == pytest.approx(float(logs.gather(1, ids[0, -count:, None]).sum()), rel=1e-4)
        assert greedy == bool((logs.argmax(-1) == ids[0, -count:]).all())
    request = Instance("generate_until", {}, ("the cat", {"until": ["<eos>"], "max_gen_toks": 4}), 0)
    (text,) = harness.generate_until([request], disable_tqdm=True)
    expected = model.generate(torch.tensor([fast.encode("the cat")]), max_length=6)[0, 2:]
    assert text.split() == fast.decode(expected).split("<eos>")[0].split()
    assert "mamba_ssm" in sys.modules
