"""Logistic regression on frozen features equals scikit-learn's, and the model is used as any other."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from ssmlab.core.errors import ModelError
from ssmlab.models import create_model
from ssmlab.tasks.classify.probe import GRID, fit_probe
from ssmlab.tasks.classify.several import ClassifySeveral
from ssmlab.tasks.classify.task import Classify
from ssmlab.training.dataset import BatchedDataset
from tiny import CPU, part


def network():
    torch.manual_seed(0)
    return create_model("resnet_test", num_classes=3, image_size=16).eval()


def task(**more):
    return Classify(classes=("a", "b", "c"), mean=(0.5,) * 3, std=(0.3,) * 3, **more)


def features(model, data):
    found = []
    handle = model.get_classifier().register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    with torch.no_grad():
        model(task().prepare(torch.as_tensor(data.arrays["images"])))
    handle.remove()
    return found[0].double().numpy()


def test_it_is_scikit_learns_solution():
    model, train, val = network(), part(60, 0), part(30, 1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    result = fit_probe(model, task(), train, val, balanced=False, compute=CPU, label="x")
    (c,) = [record.value for record in result.found]
    x, xv = features(model, train), features(model, val)
    mean, std = x.mean(0), np.where(x.std(0) > 0, x.std(0), 1)
    wanted = LogisticRegression(C=c, max_iter=2000).fit((x - mean) / std, train.arrays["labels"].numpy())
    with torch.no_grad():
        logits = model(task().prepare(torch.as_tensor(val.arrays["images"]))).double()
    found = logits.softmax(1).numpy()
    assert np.abs(found - wanted.predict_proba((xv - mean) / std)).max() < 1e-4
    assert c in GRID and (found.argmax(1) == val.arrays["labels"].numpy()).mean() > 0.9
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert len(changed) == 2, "weight and bias of the classifier"
    assert {name for name, p in model.named_parameters() if p.requires_grad} == changed, "what is counted as trained"


def test_several_labels():
    model, train, val = network(), part(60, 0), part(30, 1)
    both = [
        BatchedDataset(p.arrays | {"labels": torch.nn.functional.one_hot(p.arrays["labels"], 3)}) for p in (train, val)
    ]
    fit_probe(model, ClassifySeveral(images=task()), *both, balanced=True, compute=CPU, label="x")
    with torch.no_grad():
        logits = model(task().prepare(torch.as_tensor(val.arrays["images"])))
    assert ((logits > 0) == both[1].arrays["labels"].bool()).float().mean() > 0.85


def test_other_classifiers_are_refused():
    with pytest.raises(ModelError, match="needs a linear classifier"):
        fit_probe(torch.nn.Identity(), task(), part(9, 0), part(9, 1), balanced=False, compute=CPU, label="x")
