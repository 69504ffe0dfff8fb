"""`ssmlab explain`: what a model says about pictures, what it looks for, and where it found it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab.core.errors import ModelError
from ssmlab.core.progress import Progress
from ssmlab.interpret.attention import ScanCall
from ssmlab.interpret.attributions import grad_cam, integrated_gradients
from ssmlab.interpret.capture import scans_of
from ssmlab.interpret.layers import target_of
from ssmlab.interpret.receptive_field import ReceptiveField, receptive_field
from ssmlab.interpret.scores import (
    Curve,
    Sanity,
    averaged,
    deletion,
    insertion,
    random_maps,
    randomised_weights,
)
from ssmlab.interpret.visualise import Search, class_objective, visualise
from ssmlab.models.ensemble import Ensemble
from ssmlab.profiling.flops import evaluation
from ssmlab.studies.explain.opening import Opened, short

TOP = 5  # classes of a prediction that are shown
TOGETHER = 8  # features that are sought at once
LAYERS = 4  # scans whose maps are shown, the last ones of different sizes
CURVES = {"deletion": deletion, "insertion": insertion}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How pictures are explained.

    classes: indices; none takes the predicted class and the runner-up of every picture; of several labels an image the
        two that are likeliest.
    search: how features are sought; 0 steps leave them out.
    gradient_steps: of integrated gradients.
    score_steps: of the deletion and insertion curves; 0 leaves all scores out.
    random: maps that a map is compared with.
    batch_size: images that go through the model at once.
    seed: of features, random maps and random weights.
    """

    classes: tuple[int, ...] = ()
    search: Search = field(default_factory=Search)
    gradient_steps: int = 24
    score_steps: int = 16
    random: int = 2
    batch_size: int = 16
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ClassFound:
    """One class in one picture. Maps are (h, w) in the size of the picture, float32.

    camera: Grad-CAM or HiResCAM, what speaks for the class. gradients: integrated gradients, signed.
    curves: method ("camera", "gradients", "random") -> "deletion" or "insertion" -> the curve.
    query: where the camera's map is largest, (row, column) as fractions of the sides.
    """

    index: int
    probability: float
    camera: np.ndarray
    gradients: np.ndarray
    query: tuple[float, float]
    curves: dict[str, dict[str, Curve]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ScanFound:
    """One scan of one picture; maps (h', w') on its grid.

    steps: mean dt. states: mean length of the state.
    attention: for every query, in words, the mean absolute attention, and the query's place or None.
    """

    name: str
    op: str
    steps: np.ndarray
    states: np.ndarray
    attention: list[tuple[str, np.ndarray, tuple[int, int] | None]]


@dataclass(frozen=True, kw_only=True)
class PictureFound:
    """Everything about one picture: pixels (h, w, 3) uint8, the first classes with their probabilities.

    before: the picture before it was changed, or None.
    """

    name: str
    note: str
    pixels: np.ndarray
    ranking: list[tuple[int, float]]
    classes: list[ClassFound]
    scans: list[ScanFound]
    before: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What there is to show.

    learned: class -> an image (h, w, 3) uint8 that the model takes for it, and how surely.
    target, camera: the layer of the coarse maps, and their method.
    """

    model: Opened
    settings: Settings
    pictures: list[PictureFound]
    learned: dict[int, tuple[np.ndarray, float]]
    target: str
    camera: str
    field: ReceptiveField
    sanity: Sanity | None


def explain(
    model: Opened,
    pictures: np.ndarray,
    names: Sequence[str],
    settings: Settings | None = None,
    *,
    notes: Sequence[str] = (),
    before: Sequence[np.ndarray | None] = (),
    classes: Sequence[Sequence[int]] = (),
    progress: Progress | None = None,
) -> Explanation:
    """Explain what a model says about some pictures.

    Args:
        pictures: (n, h, w, 3) uint8, n >= 1, in the size that the model reads.
        names: of the pictures.
        notes: a sentence about each picture. before: each picture before it was changed, None where it was not.
        classes: for each picture, instead of `settings.classes`.
    Raises:
        ModelError: the layer to look at is not known.
    """
    progress, settings = progress or Progress(), settings or Settings()
    images = model.prepare(pictures)
    target = target_of(model.network)
    with evaluation(model.network), torch.inference_mode():
        found = [model.network(batch).float() for batch in images.split(settings.batch_size)]
        probabilities = model.probabilities(torch.cat(found)).cpu()
    seen = []
    progress.start("explaining", len(images))
    try:
        for i in range(len(images)):
            order = probabilities[i].argsort(descending=True, stable=True).tolist()
            own = list(classes[i]) if classes else list(settings.classes) or order[:2]
            known = [_class(model, images[i : i + 1], c, float(probabilities[i, c]), settings) for c in own]
            seen.append(PictureFound(
                name=names[i], note=notes[i] if notes else "", pixels=pictures[i], classes=known,
                ranking=[(c, float(probabilities[i, c])) for c in order[:TOP]],
                scans=_scans(model, images[i : i + 1], known), before=before[i] if before else None,
            ))  # fmt: skip
            progress.update(i + 1)
    finally:
        progress.stop()
    wanted = list(dict.fromkeys(each.index for picture in seen for each in picture.classes))
    learned = learned_features(model, wanted, settings, progress)
    field = receptive_field(model.network, images[: settings.batch_size], batch_size=settings.batch_size)
    sanity, first = None, seen[0].classes[0].index
    if settings.score_steps:
        sanity = randomised_weights(
            one_network(model.network), images[:1],
            lambda network, images: grad_cam(network, images, first, relu=False), stages=4, seed=settings.seed,
        )  # fmt: skip
    return Explanation(
        model=model, settings=settings, pictures=seen, target=target.name,
        camera="Grad-CAM" if target.alike else "HiResCAM",
        learned=learned, field=field,
        sanity=sanity,
    )  # fmt: skip


class YesOrNo(nn.Module):
    """One label of a network whose images have several, as two classes: softmax gives its sigmoid.

    Args:
        index: of the label, which is class 1.
    """

    def __init__(self, network: nn.Module, index: int):
        super().__init__()
        self.network, self.index = network, index

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits (b, 2)."""
        logit = self.network(images)[:, self.index]
        return torch.stack([torch.zeros_like(logit), logit], 1)


def one_network(network: nn.Module) -> nn.Module:
    """The network whose single layers are shown: of an ensemble its first member, which reads what it reads."""
    return network.members[0] if isinstance(network, Ensemble) else network


def learned_features(
    model: Opened, classes: Sequence[int], settings: Settings, progress: Progress | None = None
) -> dict[int, tuple[np.ndarray, float]]:
    """For every class an image (h, w, 3) uint8 that was sought for it, and the probability that the model gives it."""
    found = {}
    for start in range(0, len(classes) if settings.search.steps else 0, TOGETHER):
        own = list(classes[start : start + TOGETHER])
        images = visualise(
            model.network, class_objective(own), len(own), size=model.image_size, mean=model.task.mean,
            std=model.task.std, search=settings.search, progress=progress,
        )  # fmt: skip
        pixels = (images * 255).round().byte()
        with evaluation(model.network), torch.inference_mode():
            sure = model.probabilities(model.network(model.task.prepare(pixels)))
        for i, index in enumerate(own):
            found[index] = pixels[i].permute(1, 2, 0).cpu().numpy(), float(sure[i, index])
    return found


def _class(model: Opened, image: Tensor, index: int, probability: float, settings: Settings) -> ClassFound:
    network = model.network
    coarse = grad_cam(network, image, index, resize=False)
    signed = grad_cam(network, image, index, relu=False)
    fine = integrated_gradients(
        network, image, index, steps=settings.gradient_steps, batch_size=settings.batch_size
    ).maps
    height, width = coarse.shape[-2:]
    row, column = divmod(int(coarse.flatten().argmax()), width)
    place = (row + 0.5) / height, (column + 0.5) / width
    curves: dict[str, dict[str, Curve]] = {}
    if settings.score_steps:
        rows, columns = image.shape[-2:]
        noise = random_maps(settings.random, (rows, columns), grid=(height, width), seed=settings.seed)
        maps = {"camera": signed, "gradients": fine, "random": noise.to(image.device)}
        asked, which = (YesOrNo(network, index), 1) if model.several else (network, index)
        for name, own in maps.items():  # averaged where there are several maps
            curves[name] = {}
            for kind, curve in CURVES.items():
                images = image.expand(len(own), -1, -1, -1)
                every = curve(
                    asked, images, own, which, steps=settings.score_steps, batch_size=settings.batch_size,
                    seed=settings.seed,
                )  # fmt: skip
                curves[name][kind] = averaged([Curve(every.shares, row) for row in every.probability])
    return ClassFound(
        index=index, probability=probability, camera=_numpy(signed.clamp(min=0)[0]), gradients=_numpy(fine[0]),
        query=place, curves=curves,
    )  # fmt: skip


def _scans(model: Opened, image: Tensor, classes: list[ClassFound]) -> list[ScanFound]:
    """The last scans of every size of map; none for a network without scans."""
    try:
        calls = [call for call in scans_of(one_network(model.network), image) if call.place is not None]
    except ModelError:
        return []
    last = {call.place.grid: _block(call) for call in calls if call.place is not None}
    found = []
    for name in list(last.values())[-LAYERS:]:
        own = [call for call in calls if _block(call) == name]  # one, or one a direction
        place = own[0].place
        assert place is not None
        nowhere = (place.pixel[0] < 0).nonzero().flatten()
        queries: list[tuple[str, Tensor | None, int, tuple[int, int] | None]] = []
        if len(place.pixel) == 1 and len(nowhere) == 1:  # a class token, which all classes are read from
            queries.append(("class token", None, int(nowhere[0]), None))
        else:
            for each in classes:
                at = each.query
                row, column = (min(int(part * side), side - 1) for part, side in zip(at, place.grid, strict=True))
                rows, token = place.token_at(row, column)
                queries.append((f"where {short(model.classes[each.index])} was found", rows, token, (row, column)))
        attention = []
        for text, windows, token, where in queries:
            weights = torch.stack([call.mean_attention([token]).squeeze(1) for call in own]).sum(0)
            if windows is not None:  # the ones with the query
                weights = torch.zeros_like(weights).index_copy(0, windows, weights[windows])
            attention.append((text, _numpy(place.to_map(weights)[0]), where))
        steps = _numpy(torch.stack([call.to_map(call.step_sizes())[0] for call in own]).mean(0))
        states = _numpy(torch.stack([call.to_map(call.state_norms())[0] for call in own]).mean(0))
        found.append(ScanFound(name=name, op=own[0].op, steps=steps, states=states, attention=attention))
    return found


def _block(call: ScanCall) -> str:
    """The name of the block that a call belongs to; two directions may be two modules of it."""
    return call.name.removesuffix(".forward_block").removesuffix(".backward_block")


def _numpy(map_: Tensor) -> np.ndarray:
    return map_.detach().float().cpu().numpy()


def enlarged(map_: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map of any grid as squares in the size of a picture, (h, w)."""
    tensor = torch.from_numpy(np.ascontiguousarray(map_))[None, None]
    return F.interpolate(tensor, size=size, mode="nearest")[0, 0].numpy()
