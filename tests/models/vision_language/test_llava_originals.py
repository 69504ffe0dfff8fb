"""Folders of others: pixels, token numbers and logits of transformers' LLaVA; every key of LLaVA-1.5's and Cobra's."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from ssmlab.checkpoints.folder import load_model, save_model
from ssmlab.checkpoints.vision_language import load_vision_language
from ssmlab.core.errors import ModelError
from ssmlab.data.conversations import HUMAN, MARK, Turn, encode, find_template, text_of
from ssmlab.data.text.tokenizers import load_tokenizer
from ssmlab.models import create_model
from ssmlab.models.vision_language.config import EncoderConfig
from tiny_vision import picture

SIDE, PATCH, WIDTH = 32, 8, 64
VISION = {
    "model_type": "clip_vision_model", "hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 1, "image_size": SIDE, "patch_size": PATCH,
}  # fmt: skip
TEXT = {
    "model_type": "llama", "vocab_size": 320, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
TURNS = [Turn(HUMAN, f"{MARK}\nWhat is this?")]


def words():
    """A tokenizer of bytes with a mark for images and one that begins and one that ends a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    rust = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    rust.pre_tokenizer, rust.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=rust, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=[MARK],
    )  # fmt: skip
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", fast.bos_token_id)]
    )
    return fast


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Folder, model and processor of transformers, tiny and random."""
    folder, fast = tmp_path_factory.mktemp("llava"), words()
    torch.manual_seed(0)
    config = transformers.LlavaConfig(
        vision_config=dict(VISION), text_config=dict(TEXT), image_token_index=fast.convert_tokens_to_ids(MARK)
    )
    model = transformers.LlavaForConditionalGeneration(config).eval()
    images = transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor = transformers.LlavaProcessor(
        images, fast, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, model, processor


@pytest.fixture(scope="module")
def ours(original):
    return load_model(original[0], "vision_language")[0]


def test_pixels_tokens_and_logits_are_those_of_transformers(original, ours):
    folder, model, processor = original
    tokenizer, image = load_tokenizer(folder), picture(3, (72, 48))
    pieces = find_template("vicuna_v1").pieces(TURNS, reply=True)
    theirs = processor(images=image, text=text_of(pieces), return_tensors="pt")
    assert torch.equal(ours.encoder.pixels(image)[0], theirs["pixel_values"][0])
    ids = encode(pieces, tokenizer, [ours.image_tokens]).ids
    mark = model.config.image_token_index
    assert [mark if token < 0 else token for token in ids.tolist()] == theirs["input_ids"][0].tolist()
    with torch.no_grad():
        wanted = model(**theirs).logits
        found, _ = ours(torch.from_numpy(ids).long()[None], ours.project(ours.encode([image])).flatten(0, 1))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_transformer_is_read_once_and_in_batches_too(original, ours):
    from ssmlab.tasks.vision_language.use import load_read, open_model, save_read

    folder, _, _ = original
    model = open_model(folder, device="cpu")
    reads = [model.read_image(picture(seed)) for seed in range(3)]
    questions = ["What?", "And this, what is it?", "Why so?"]
    alone = [read.ask(question, max_tokens=4).tokens for read, question in zip(reads, questions, strict=True)]
    assert [answer.tokens for answer in model.ask_all(reads, questions, max_tokens=4)] == alone
    file = save_read(reads[0], folder / "state.safetensors")
    assert load_read(file, model).ask(questions[0], max_tokens=4).tokens == alone[0]
    dialog, sizes = reads[0].dialog(), []
    for _ in range(3):
        dialog.ask("More?", max_tokens=2)
        sizes.append(dialog.bytes)
    assert sizes[0] < sizes[1] < sizes[2]


def test_a_folder_of_transformers_is_saved_in_our_layout(ours, tmp_path):
    again, _ = load_model(save_model(ours, tmp_path / "ours"))
    for name, tensor in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert again.config == ours.config


def as_llava(folder, target):
    """The weights of a folder of transformers by the names of the original LLaVA 1.5."""
    renamed = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        key = name.removeprefix("model.")
        if key.startswith("vision_tower."):
            inner = key.removeprefix("vision_tower.").removeprefix("vision_model.")
            key = f"model.vision_tower.vision_tower.vision_model.{inner}"
        elif key.startswith("multi_modal_projector.linear_"):
            number, _, last = key.removeprefix("multi_modal_projector.linear_").partition(".")
            key = f"model.mm_projector.{2 * (int(number) - 1)}.{last}"
        else:
            inner = key.removeprefix("language_model.").removeprefix("model.")
            key = inner if inner.startswith("lm_head") else f"model.{inner}"
        renamed[key] = tensor.contiguous()
    target.mkdir()
    save_file(renamed, target / "model.safetensors", {"format": "pt"})
    config = dict(TEXT) | {
        "model_type": "llava_llama", "architectures": ["LlavaLlamaForCausalLM"], "mm_hidden_size": WIDTH,
        "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
        "mm_vision_tower": "openai/clip-vit-large-patch14-336", "image_aspect_ratio": "pad",
    }  # fmt: skip
    (target / "config.json").write_text(json.dumps(config))
    return target


def test_every_key_of_llava_is_matched(original, ours, tmp_path):
    folder = as_llava(original[0], tmp_path / "original")
    model, _ = load_model(folder)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert model.config.encoders[0].fit == "pad" and model.image_tokens == ours.image_tokens
    state = load_file(folder / "model.safetensors")
    state["model.mm_projector.7.weight"] = torch.zeros(3)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"projector\.layers\.7\.weight"):
        load_model(folder)
    config = json.loads((folder / "config.json").read_text()) | {"mm_projector_type": "resampler"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="mm_projector_type='resampler' is not read"):
        load_model(folder)


def test_every_key_of_cobra_is_matched(tmp_path):
    torch.manual_seed(0)
    encoder = EncoderConfig(name="medmamba_test", image_size=64)
    model = create_model(
        "llava_mamba", encoders=encoder, projector="fused_mlp",
        language={"model": "mamba_lm", "vocab_size": 64, "d_model": 16, "n_layer": 2, "d_state": 4},
        template="zephyr",
    )  # fmt: skip
    parts = {"projector": {}, "llm_backbone": {}}
    for name, tensor in model.state_dict().items():
        if name.startswith("projector.layers."):
            parts["projector"][name.replace("projector.layers.", "projector.")] = tensor
        elif name.startswith("language."):
            parts["llm_backbone"][name.replace("language.", "llm.")] = tensor
    (tmp_path / "checkpoints").mkdir()
    torch.save({"model": parts}, tmp_path / "checkpoints" / "latest-checkpoint.pt")
    config = {
        "model_id": "cobra+3b", "vision_backbone_id": "dinosiglip-vit-so-384px", "llm_backbone_id": "mamba-2.8b-zephyr",
        "arch_specifier": "no-align+fused-gelu-mlp", "image_resize_strategy": "resize-naive",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({"model": config}))
    networks = [one.network for one in model.encoder]
    loaded, about = load_vision_language(tmp_path, encoders=(encoder,), networks=networks)
    assert about["template"] == "zephyr"
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    parts["llm_backbone"]["llm.backbone.layers.9.norm.weight"] = torch.zeros(16)
    torch.save({"model": parts}, tmp_path / "checkpoints" / "latest-checkpoint.pt")
    with pytest.raises(ModelError, match=r"layers\.\d"):
        load_vision_language(tmp_path, encoders=(encoder,), networks=networks)
