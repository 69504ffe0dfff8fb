"""Classification of sequences: a language model's layers with a head for classes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.checkpoints.files import load_language_model, save_language_model, write_file
from ssmlab.core.errors import ModelError
from ssmlab.models.weights import fit, one_line, read_state_dict
from ssmlab.nn import Linear
from ssmlab.tasks.shared.metrics import loss_and_accuracy

POOLS = ("mean", "last")
HEAD, WEIGHTS, PREPROCESS = "head.json", "head.safetensors", "preprocess.json"


class SequenceClassifier(nn.Module):
    """The layers of a language model, and one linear layer on the mean over tokens or on the last token.

    Args:
        language: a language model; its own head is not used.
        classes: number of classes.
        pool: "mean" or "last".
    """

    def __init__(self, language: Any, classes: int, pool: str = "mean"):
        super().__init__()
        if pool not in POOLS:
            raise ModelError(f"pool must be {' or '.join(POOLS)}, got {pool!r}")
        self.backbone, self.pool, self.config = language.backbone, pool, language.config
        self.registry_name = getattr(language, "registry_name", None)
        self.head = Linear(self.config.d_model, classes)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens (b, l) -> logits (b, classes). mask: bool (b, l), True = token; padding follows them."""
        features, _ = self.backbone(self.backbone.embedding(tokens), mask=mask)
        if mask is None:
            pooled = features.mean(1) if self.pool == "mean" else features[:, -1]
        elif self.pool == "mean":
            pooled = (features * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        else:
            pooled = features.take_along_dim((mask.sum(1) - 1)[:, None, None], 1).squeeze(1)
        return self.head(pooled)

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head

    def no_weight_decay(self) -> set[str]:
        """What the language model names, of its layers."""
        from ssmlab.models.language.language_model import NO_DECAY

        return {name for name, _ in self.named_parameters() if name.rpartition(".")[2] in NO_DECAY}


@dataclass(frozen=True, kw_only=True)
class ClassifySequences:
    """Cross-entropy of the classes.

    Args:
        classes: names in the order of the logits.
    """

    classes: tuple[str, ...]

    primary_metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The loss in nats and the logits (b, classes) of {"tokens" (b, l), "mask" (b, l) or none, "labels" (b,)}."""
        logits = self.outputs(model, batch)
        return F.cross_entropy(logits, batch["labels"]), logits

    def collate(self, items: list[Any]) -> dict[str, Tensor]:
        """A batch of (tokens, label), or of {"tokens", "labels"}, with a mask where the lengths differ."""
        pairs = [(item["tokens"], item["labels"]) if isinstance(item, dict) else tuple(item)[:2] for item in items]
        rows = [torch.as_tensor(tokens).long() for tokens, _ in pairs]
        found = {
            "tokens": nn.utils.rnn.pad_sequence(rows, batch_first=True),
            "labels": torch.tensor([int(label) for _, label in pairs]),
        }
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        return found if mask.all() else found | {"mask": mask}

    def outputs(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """The logits (b, classes) of a batch, whose labels are not read."""
        return model(batch["tokens"], batch.get("mask")).float()

    def count_correct(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Sequences classified correctly, and all."""
        return (outputs.argmax(1) == labels).sum(), len(labels)

    def validation(self, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Loss and accuracy of a part."""
        return loss_and_accuracy(outputs, labels)


class _Whole(nn.Module):
    """What a language model's file holds, for a classifier: the head of the next token stays as the embedding is."""

    def __init__(self, classifier: SequenceClassifier):
        super().__init__()
        self.config, self.registry_name = classifier.config, classifier.registry_name
        self.backbone = classifier.backbone
        self.lm_head = Linear(self.config.d_model, self.config.padded_vocab, bias=False)
        self.lm_head.weight = classifier.backbone.embedding.weight


def save_classifier(model: SequenceClassifier, folder: Path, preprocess: dict[str, Any]) -> Path:
    """Write the layers as of a language model, head.safetensors and head.json next to them, and preprocess.json.

    Args:
        preprocess: what a sequence goes through before the model: kind, tokenizer, length, rate, classes.
    """
    from safetensors.torch import save_file

    folder = save_language_model(_Whole(model), folder)
    head = {name: tensor.detach().cpu().contiguous() for name, tensor in model.head.state_dict().items()}
    about = {"pool": model.pool, "classes": model.head.out_features}
    write_file(folder / WEIGHTS, lambda path: save_file(head, path, metadata={"format": "pt"}))
    write_file(folder / HEAD, lambda path: path.write_text(json.dumps(about) + "\n", "utf-8"))
    write_file(folder / PREPROCESS, lambda path: path.write_text(json.dumps(preprocess, indent=2) + "\n", "utf-8"))
    return folder


def load_classifier(folder: Path) -> tuple[SequenceClassifier, dict[str, Any]]:
    """The classifier that `save_classifier` wrote, in evaluation mode, and its preprocessing.

    Raises:
        ModelError: a file is missing or damaged, or is of another kind of model.
    """
    folder = Path(folder)
    if not (folder / HEAD).is_file():
        raise ModelError(f"{folder} has no {HEAD}; give the folder of a classifier of sequences")
    about, preprocess = _object(folder / HEAD, "pool", "classes"), _object(folder / PREPROCESS)
    state = read_state_dict(folder / WEIGHTS)
    model = SequenceClassifier(load_language_model(folder), about["classes"], about["pool"])
    fit(model.head, state, str(folder / WEIGHTS))
    return model.eval(), preprocess


def _object(file: Path, *keys: str) -> dict[str, Any]:
    """What a file of JSON holds, with these keys."""
    try:
        values = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read ({one_line(error)}); copy it again, or train again") from error
    if not isinstance(values, dict) or not values.keys() >= set(keys):
        raise ModelError(f"{file} must hold an object with {', '.join(keys) or 'keys'}; copy it again, or train again")
    return values
