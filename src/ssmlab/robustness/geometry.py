"""Transformations of places: the result at p is x at q(p), between the four nearest pixels (bilinear).

A place is (column, row) with the first pixel's middle at (1/2, 1/2), so an image covers 0..w and 0..h; see `pixels` for
the rest. Outside, x is black, or goes on as its last pixel where a docstring says "edge".
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.robustness.philox import Draws
from ssmlab.robustness.pixels import per_image

LARGEST_CORNER = 0.45  # of the image's side: opposite corners must not pass each other


def sample(x: Tensor, column: Tensor, row: Tensor, *, edge: bool = False) -> Tensor:
    """x at places that broadcast to (b, h, w)."""
    h, w = x.shape[-2:]
    shape = (len(x), h, w)
    grid = torch.stack([(column * (2 / w) - 1).expand(shape), (row * (2 / h) - 1).expand(shape)], -1)
    return F.grid_sample(x, grid, padding_mode="border" if edge else "zeros", align_corners=False)


def _places(x: Tensor) -> tuple[Tensor, Tensor]:
    """Column (1, 1, w) and row (1, h, 1) of the pixels' middles."""
    h, w = x.shape[-2:]
    column = torch.arange(w, device=x.device, dtype=x.dtype) + 0.5
    row = torch.arange(h, device=x.device, dtype=x.dtype) + 0.5
    return column[None, None], row[None, :, None]


def fliplr(x: Tensor, draws: Draws, p: Tensor, coin: Tensor) -> Tensor:
    """Left and right change places where coin < p."""
    return torch.where(per_image(coin < p), x.flip(-1), x)


def affine(x: Tensor, draws: Draws, scale: Tensor, shift: Tensor, rotate: Tensor, shear: Tensor) -> Tensor:
    """What was at m + q is shown at m + d + R S Z q; m is the middle.

    Z = diag(scale_0, scale_1), S = [[1, tan shear_0], [tan shear_1, 1]], R = [[cos a, -sin a], [sin a, cos a]],
    d = (shift_0 w, shift_1 h). Columns before rows; angles in degrees; rows count downwards, so rotation is clockwise.
    """
    h, w = x.shape[-2:]
    cos, sin = torch.cos(rotate.deg2rad()), torch.sin(rotate.deg2rad())
    t0, t1 = torch.tan(shear.deg2rad()).unbind(1)
    z0, z1 = scale.unbind(1)
    a, b = (cos - sin * t1) * z0, (cos * t0 - sin) * z1
    c, d = (sin + cos * t1) * z0, (sin * t0 + cos) * z1
    inverse = torch.stack([d, -b, -c, a]) / (a * d - b * c)
    i, j, k, l = inverse[:, :, None, None]
    column, row = _places(x)
    column = column - w / 2 - (shift[:, 0] * w)[:, None, None]
    row = row - h / 2 - (shift[:, 1] * h)[:, None, None]
    return sample(x, i * column + j * row + w / 2, k * column + l * row + h / 2)


def crop(x: Tensor, draws: Draws, sides: Tensor) -> Tensor:
    """Fractions are cut off at the top, the right, the bottom and the left; the rest is stretched to h x w. Edge."""
    return _stretch(x, sides, edge=True)


def crop_and_pad(x: Tensor, draws: Draws, sides: Tensor) -> Tensor:
    """As `crop`; a negative fraction adds so much black instead."""
    return _stretch(x, sides, edge=False)


def _stretch(x: Tensor, sides: Tensor, *, edge: bool) -> Tensor:
    """q = (left w + (1 - left - right) column, top h + (1 - top - bottom) row)"""
    h, w = x.shape[-2:]
    top, right, bottom, left = sides[:, :, None, None].unbind(1)
    column, row = _places(x)
    return sample(x, left * w + (1 - left - right) * column, top * h + (1 - top - bottom) * row, edge=edge)


def piecewise_affine(x: Tensor, draws: Draws, scale: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """q = p + what the corners of p's triangle are moved by, weighted so that it is affine in each triangle. Edge.

    A grid of r x s points, r = floor(rows) and s = floor(columns), lies evenly over the image, the outer ones on its
    border. Point (i, j) is moved by scale times (h z_0, w z_1), down and to the right, with z standard normal,
    (4, 4, 2) at [i, j] (part 1), and no further than to the border. Each cell is cut into two triangles from its upper
    left to its lower right corner.
    """
    h, w = x.shape[-2:]
    r, s = rows.floor()[:, None], columns.floor()[:, None]
    moved = draws.normal(4, 4, 2, part=1).to(x.device) * per_image(scale)
    number = torch.arange(4, device=x.device, dtype=x.dtype)[None]
    down = _kept_inside(moved[..., 0], (number / (r - 1))[:, :, None]) * h
    right = _kept_inside(moved[..., 1], (number / (s - 1))[:, None, :]) * w
    column, row = _places(x)
    i, f = _cell(row[..., 0] / h, r)
    j, g = _cell(column[:, 0] / w, s)
    f, g = f[:, :, None], g[:, None, :]
    corner = i[:, :, None] * 4 + j[:, None, :]
    lower = f > g  # of the cell's two triangles

    def moved_by(points: Tensor) -> Tensor:
        points = points.flatten(1)

        def at(offset: int) -> Tensor:
            return points.gather(1, (corner + offset).flatten(1)).view_as(corner)

        first, last, middle = at(0), at(5), torch.where(lower, at(4), at(1))
        steep, flat = torch.maximum(f, g), torch.minimum(f, g)
        return first + steep * (middle - first) + flat * (last - middle)

    return sample(x, column + moved_by(right), row + moved_by(down), edge=True)


def _kept_inside(moved: Tensor, place: Tensor) -> Tensor:
    return (place + moved).clamp(0, 1) - place


def _cell(place: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """The number of the cell and the place in it, 0 to 1; place (1, n) in 0..1, points (b, 1)."""
    scaled = place * (points - 1)
    number = torch.minimum(scaled.floor(), points - 2)
    return number.long(), scaled - number


def perspective(x: Tensor, draws: Draws, scale: Tensor) -> Tensor:
    """q is the projective map that takes the image's corners to points inside it; their quadrangle fills it. Edge.

    The corners move inwards by scale |z| of the width and of the height, at most 0.45; z is standard normal, (4, 2)
    (part 1), column before row, of the upper left, upper right, lower right and lower left corner. Closed form:
    Heckbert 1989, Fundamentals of texture mapping and image warping, section 2.2.3.
    """
    h, w = x.shape[-2:]
    inwards = (draws.normal(4, 2, part=1).abs().to(x.device) * scale[:, None, None]).clamp(max=LARGEST_CORNER)
    away = torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1]], device=x.device, dtype=x.dtype)
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = (away + inwards * (1 - 2 * away)).permute(1, 2, 0)[..., None, None]
    ax, ay, bx, by = x1 - x2, y1 - y2, x3 - x2, y3 - y2
    sx, sy = x0 - x1 + x2 - x3, y0 - y1 + y2 - y3
    area = ax * by - bx * ay
    g, k = (sx * by - bx * sy) / area, (ax * sy - sx * ay) / area
    column, row = _places(x)
    u, v = column / w, row / h
    depth = g * u + k * v + 1
    q0 = ((x1 - x0 + g * x1) * u + (x3 - x0 + k * x3) * v + x0) / depth
    q1 = ((y1 - y0 + g * y1) * u + (y3 - y0 + k * y3) * v + y0) / depth
    return sample(x, q0 * w, q1 * h, edge=True)
