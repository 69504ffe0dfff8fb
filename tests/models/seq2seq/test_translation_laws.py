"""Laws that every translation model obeys, whatever its blocks."""

import pytest
import torch
from torch.testing import assert_close

from ssmlab.core.errors import ModelError, ShapeError
from ssmlab.models import create_model
from ssmlab.models.registry import FAMILIES
from ssmlab.models.seq2seq.encoder_decoder import EncoderDecoder
from ssmlab.nn import CrossKeys

NAMES = [f"{family.name}_test" for family in FAMILIES if family.kind == "translation"]
ENCODERS = ["translation_transformer_test", "translation_mamba_encdec_test"]
NAMES += ["translation_transformer_test pre-norm", "translation_mamba_encdec_test post-norm"]
every_model = pytest.mark.parametrize("name", NAMES)
SOURCE, TARGET = 9, 7


def build(name, **options):
    torch.manual_seed(0)
    name, _, norm = name.partition(" ")
    options |= {"post-norm": {"post_norm": True}, "pre-norm": {"post_norm": False}}.get(norm, {})
    model = create_model(name, **options).eval().double()
    for parameter in model.parameters():  # initial values make all logits nearly alike
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


def pair(rows=3):
    random = torch.Generator().manual_seed(1)
    return [torch.randint(3, 61, (rows, length), generator=random) for length in (SOURCE, TARGET)]


def padded(ids, masks):
    """Tokens where a mask is, other tokens in between, and the mask."""
    mask = torch.tensor(masks, dtype=torch.bool)
    return torch.where(mask, ids, 60 - ids % 50), mask


@every_model
def test_one_by_one_is_the_whole(name):
    model, (source, target) = build(name), pair()
    whole, last = model(target, model.read_source(source))
    state, steps = model.read_source(source), []
    for t in range(TARGET):
        logits, state = model(target[:, t : t + 1], state)
        steps.append(logits)
    assert whole.shape == (3, TARGET, 61)
    assert_close(torch.cat(steps, 1), whole)
    assert_close(state, last)


@every_model
def test_halves_are_the_whole(name):
    model, (source, target) = build(name), pair()
    whole, _ = model(target, model.read_source(source))
    first, state = model(target[:, :3], model.read_source(source))
    second, _ = model(target[:, 3:], state)
    assert_close(torch.cat([first, second], 1), whole)


@every_model
@pytest.mark.parametrize("side", ["left", "right", "between"])
def test_a_padded_batch_is_each_row_alone(name, side):
    model, (source, target) = build(name), pair()
    lengths = ((9, 4, 1), (7, 2, 5))
    masks = []
    for width, own in zip((SOURCE, TARGET), lengths):
        rows = [[True] * n + [False] * (width - n) for n in own]
        if side == "left":
            rows = [row[::-1] for row in rows]
        if side == "between":
            rows = [row[::2] + row[1::2] for row in rows]
        masks.append(rows)
    source, seen = padded(source, masks[0])
    target, mask = padded(target, masks[1])
    logits, state = model(target, model.read_source(source, seen), mask=mask)
    last, _ = model(target, model.read_source(source, seen), mask=mask, last_only=True)
    after, _ = model(target[:, :1], state)
    for i in range(3):
        own = model.read_source(source[i : i + 1, seen[i]])
        alone, own = model(target[i : i + 1, mask[i]], own)
        assert_close(logits[i : i + 1, mask[i]], alone)
        assert_close(last[i : i + 1], alone[:, -1:])
        assert_close(after[i : i + 1], model(target[i : i + 1, :1], own)[0])


@every_model
def test_gradients_reach_the_source(name):
    model, (source, target) = build(name), pair()
    source, target = source % 20 + 3, target % 20 + 30  # no token is of both
    model.train()
    model(target, model.read_source(source))[0].logsumexp(-1).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    table = build(name, tie_embeddings=False)
    table(target, table.read_source(source))[0].logsumexp(-1).sum().backward()
    moved = table.backbone.embedding.weight.grad.abs().sum(1) > 0
    assert set(moved.nonzero().flatten().tolist()) == {*source.flatten().tolist(), *target.flatten().tolist()}


@every_model
def test_the_source_decides_and_the_future_does_not(name):
    model, (source, target) = build(name), pair()
    whole, _ = model(target, model.read_source(source))
    other = source.clone()
    other[:, 0] = source[:, 0] % 50 + 4
    assert ((model(target, model.read_source(other))[0] - whole).abs().amax((1, 2)) > 1e-6).all()
    later = target.clone()
    later[:, -1] = target[:, -1] % 50 + 4
    assert_close(model(later, model.read_source(source))[0][:, :-1], whole[:, :-1], rtol=0, atol=0)


@every_model
def test_layers_computed_again_give_the_same_gradients(name):
    model, (source, target) = build(name).train(), pair()
    gradients = []
    for again in (False, True):
        model.backbone.gradient_checkpointing = again
        model.zero_grad()
        model(target, model.read_source(source))[0].logsumexp(-1).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert_close(*gradients)


@pytest.mark.parametrize("name", ENCODERS)
def test_rows_of_a_sentence_share_its_keys(name):
    """Beams: the source's keys stay one a sentence, the causal blocks' states are one a row."""
    model, (source, target) = build(name), pair(4)
    state = model.read_source(source[:2])
    rows = torch.tensor([0, 0, 1, 1])
    beams = tuple(
        part if isinstance(part, CrossKeys) else type(part)(*(tensor[rows] for tensor in part)) for part in state
    )
    shared, after = model(target, beams)
    each, _ = model(target, model.read_source(source[rows]))
    assert_close(shared, each)
    assert [len(part.k) for part in after if isinstance(part, CrossKeys)] == [2, 2]


@pytest.mark.parametrize("name", ENCODERS)
def test_a_source_without_tokens_is_no_nan(name):
    model, (source, target) = build(name), pair()
    mask = torch.ones(3, SOURCE, dtype=torch.bool)
    mask[1] = False
    logits, _ = model(target, model.read_source(source, mask))
    assert logits.isfinite().all()
    assert_close(logits[:1], model(target[:1], model.read_source(source[:1]))[0])


def test_the_encoder_of_mamba_reads_both_ways():
    model, (source, _) = build("translation_mamba_encdec_test"), pair()
    other = source.clone()
    other[:, -1] = source[:, -1] % 50 + 4
    keys, changed = (model.read_source(ids)[-1].k for ids in (source, other))
    assert ((keys - changed).abs().amax((1, 3)) > 1e-6).all()  # at every position, the first too


@pytest.mark.parametrize("name", [name for name in NAMES if name.split()[0] not in ENCODERS])
def test_a_decoder_goes_on_from_the_sentence_before(name):
    model, (source, target) = build(name), pair()
    parts = model.read_source(source[:, 4:], state=model.read_source(source[:, :4]))
    assert_close(model(target, parts)[0], model(target, model.read_source(source))[0])
    assert_close(model.read_source(source), model(source)[1])


@every_model
def test_steps_of_plain_inference_agree(name):
    """Without gradients, in float32, single tokens may be a native program's."""
    model, (source, target) = build(name).float(), pair()
    with torch.no_grad():
        whole, _ = model(target, model.read_source(source))
        state = model.read_source(source)
        for t in range(TARGET):
            logits, state = model(target[:, t : t + 1], state)
            assert_close(logits, whole[:, t : t + 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_mistakes_are_told(name):
    model, (source, target) = build(name), pair()
    state = model.read_source(source)
    with pytest.raises(ModelError, match="the model has tokens 0 to 63, got 3 to 99"):
        model.read_source(torch.tensor([[3, 99]]))
    with pytest.raises(ModelError, match="got 3 to 99"):
        model(torch.tensor([[3, 99]]), state)
    with pytest.raises(ShapeError, match="mask must be bool"):
        model.read_source(source, torch.ones(3, SOURCE))
    with pytest.raises(ShapeError, match="the state must be of 2 layers"):
        model(target, state[:2])
    with pytest.raises(ShapeError, match="7 rows cannot be shared out among 3 sources"):
        model.backbone.layers[0].cross.block(torch.zeros(7, 1, 16).double(), state[-1])
    assert isinstance(model, EncoderDecoder)
    for wrong in ({"n_layer": 0}, {"norm": "batch"}, {"heads": 3}, {"heds": 2}):
        with pytest.raises(ModelError):
            create_model(name, **wrong)
