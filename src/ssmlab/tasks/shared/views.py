"""Test-time augmentation: a network asked several times about an image, mirrored and turned, as one network."""

from collections.abc import Callable

from torch import Tensor, nn

from ssmlab.models.ensemble import mean_logits

View = Callable[[Tensor], Tensor]


def _turn(times: int, mirrored: bool) -> View:
    def view(images: Tensor) -> Tensor:
        turned = images.rot90(times, (-2, -1)) if times else images
        return turned.flip(-1) if mirrored else turned

    return view


# Only what leaves pixels as they are, so that nothing is interpolated
VIEWS: dict[str, list[View]] = {
    "none": [_turn(0, False)],
    "horizontal": [_turn(0, False), _turn(0, True)],
    "flips": [_turn(0, False), _turn(0, True), _turn(2, True), _turn(2, False)],
    "dihedral": [_turn(times, mirrored) for times in range(4) for mirrored in (False, True)],
}


class Views(nn.Module):
    """The mean of the probabilities that a network gives to views of an image.

    Args:
        network: in evaluation mode, (b, c, h, w) with h = w -> logits (b, classes).
        name: of `VIEWS`: "horizontal" (2: also mirrored left to right), "flips" (4: mirrored along both axes),
            "dihedral" (8: also turned by 90 degrees).
        several: an image may have several labels.
    """

    def __init__(self, network: nn.Module, name: str, several: bool = False):
        super().__init__()
        self.network, self.views, self.several = network, VIEWS[name], several

    def forward(self, images: Tensor) -> Tensor:
        """Logits (b, classes) whose probabilities are the mean over views."""
        return mean_logits([self.network(view(images)) for view in self.views], self.several)
