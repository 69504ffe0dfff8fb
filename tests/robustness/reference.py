"""The twenty formulas once more, in plain numpy and float64, an image and a pixel rule at a time."""

import math

import numpy as np

MASK = np.uint64(0xFFFFFFFF)


def philox(counter, key):
    """Philox4x32-10 on numpy's 64-bit words, written from the paper's figure."""
    c = [np.asarray(word, np.uint64) & MASK for word in counter]
    k = [int(word) for word in key]
    for _ in range(10):
        first, second = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [
            (second >> np.uint64(32)) ^ c[1] ^ np.uint64(k[0]),
            second & MASK,
            (first >> np.uint64(32)) ^ c[3] ^ np.uint64(k[1]),
            first & MASK,
        ]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def words(seed, image, number, part, count):
    blocks = np.arange(-(-count // 4))
    zeros = np.zeros_like(blocks)
    counter = (blocks, zeros + image % 2**32, zeros + image // 2**32, zeros + 256 * number + part)
    return np.stack(philox(counter, (seed % 2**32, seed // 2**32)), -1)


def uniform(seed, image, number, part, *shape):
    count = math.prod(shape)
    return (words(seed, image, number, part, count).ravel()[:count] // 256 / 2**24).reshape(shape)


def normal(seed, image, number, part, *shape):
    count = math.prod(shape)
    pairs = words(seed, image, number, part, count).reshape(-1, 2) // 256
    radius, angle = np.sqrt(-2 * np.log((pairs[:, 0] + 1) / 2**24)), 2 * np.pi * pairs[:, 1] / 2**24
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1).ravel()[:count].reshape(shape)


class Image:
    """One image (c, h, w) of values 0 to 255 with its random numbers."""

    def __init__(self, values, seed, index, number):
        self.v = np.asarray(values, np.float64)
        self.c, self.h, self.w = self.v.shape
        self.source = (seed, index, number)

    def uniform(self, *shape):
        return uniform(*self.source, 1, *shape)

    def normal(self, *shape):
        return normal(*self.source, 1, *shape)

    def mirrored(self, row, column):
        def fold(i, n):
            while not 0 <= i < n:
                i = -i if i < 0 else 2 * (n - 1) - i
            return i

        return self.v[:, fold(row, self.h), fold(column, self.w)]

    def stencil(self, matrix):
        reach = len(matrix) // 2
        out = np.zeros_like(self.v)
        for i in range(self.h):
            for j in range(self.w):
                for a, row in enumerate(matrix):
                    for b, weight in enumerate(row):
                        if weight:
                            out[:, i, j] += weight * self.mirrored(i + a - reach, j + b - reach)
        return out

    def at(self, column, row, edge):
        """Bilinear, with pixel middles at halves."""
        x, y = column - 0.5, row - 0.5
        if edge:
            x, y = min(max(x, 0), self.w - 1), min(max(y, 0), self.h - 1)
        left, upper = math.floor(x), math.floor(y)
        total = np.zeros(self.c)
        for i, j in ((upper, left), (upper, left + 1), (upper + 1, left), (upper + 1, left + 1)):
            if 0 <= i < self.h and 0 <= j < self.w:
                total += self.v[:, i, j] * (1 - abs(y - i)) * (1 - abs(x - j))
        return total

    def warp(self, place, edge):
        out = np.zeros_like(self.v)
        for i in range(self.h):
            for j in range(self.w):
                out[:, i, j] = self.at(*place(j + 0.5, i + 0.5), edge)
        return out


def additive_gaussian_noise(image, sigma):
    return image.v + sigma * image.normal(1, image.h, image.w)


def affine(image, scale, shift, rotate, shear):
    a = math.radians(rotate)
    turn = np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
    lean = np.array([[1, math.tan(math.radians(shear[0]))], [math.tan(math.radians(shear[1])), 1]])
    back = np.linalg.inv(turn @ lean @ np.diag(scale))
    middle = np.array([image.w / 2, image.h / 2])
    moved = middle + np.array([shift[0] * image.w, shift[1] * image.h])
    return image.warp(lambda x, y: middle + back @ (np.array([x, y]) - moved), edge=False)


def crop(image, sides):
    return stretched(image, sides, True)


def crop_and_pad(image, sides):
    return stretched(image, sides, False)


def stretched(image, sides, edge):
    top, right, bottom, left = sides
    columns, rows = np.interp, np.interp
    x = (left * image.w, image.w - right * image.w)
    y = (top * image.h, image.h - bottom * image.h)
    return image.warp(lambda p, q: (columns(p, (0, image.w), x), rows(q, (0, image.h), y)), edge)


def hue_and_saturation(image, hue, saturation):
    import colorsys

    out = np.empty_like(image.v)
    for i in range(image.h):
        for j in range(image.w):
            h, s, v = colorsys.rgb_to_hsv(*image.v[:, i, j] / 255)
            h, s = (h + hue / 255) % 1, min(max(s + saturation / 255, 0), 1)
            out[:, i, j] = np.multiply(colorsys.hsv_to_rgb(h, s, v), 255)
    return out


def cutout(image, size, centre):
    out = image.v.copy()
    for i in range(image.h):
        for j in range(image.w):
            away = max(abs(i + 0.5 - centre[0] * image.h), abs(j + 0.5 - centre[1] * image.w))
            if away <= size * image.h / 2:
                out[:, i, j] = 128
    return out


def dropout(image, p):
    return image.v * (image.uniform(image.h, image.w) >= p)


def edge_detect(image, alpha):
    return (1 - alpha) * image.v + alpha * image.stencil([[0, 1, 0], [1, -4, 1], [0, 1, 0]])


def emboss(image, alpha, strength):
    s = strength
    return (1 - alpha) * image.v + alpha * image.stencil([[-1 - s, -s, 0], [-s, 1, s], [0, s, 1 + s]])


def piecewise_affine(image, scale, rows, columns):
    r, s = int(rows), int(columns)
    size = np.array([image.h, image.w])
    z = image.normal(4, 4, 2)
    points = {(i, j): np.array([i / (r - 1), j / (s - 1)]) * size for i in range(r) for j in range(s)}
    moved = {key: np.clip(point + scale * size * z[key], 0, size) for key, point in points.items()}

    def place(x, y):
        i = min(int(y / image.h * (r - 1)), r - 2)
        j = min(int(x / image.w * (s - 1)), s - 2)
        for third in ((i, j + 1), (i + 1, j)):
            corners = [(i, j), third, (i + 1, j + 1)]
            equations = np.vstack([np.array([points[c] for c in corners]).T, np.ones(3)])
            weights = np.linalg.solve(equations, [y, x, 1])
            if weights.min() > -1e-9:
                found = sum(weight * moved[c] for weight, c in zip(weights, corners))
                return found[1], found[0]
        raise AssertionError("a place is in no triangle")

    return image.warp(place, edge=True)


def salt(image, p):
    u, t = image.uniform(2, image.h, image.w)
    beta = 0.5 + 0.5 * np.cos(np.pi * t)
    bright = 255 * np.where(beta < 0.5, 1 - beta, beta)
    return np.where(u < p, bright, image.v)


def fast_snowy_landscape(image, threshold, factor):
    import colorsys

    out = np.empty_like(image.v)
    for i in range(image.h):
        for j in range(image.w):
            h, l, s = colorsys.rgb_to_hls(*image.v[:, i, j] / 255)
            l = min(1, l * factor) if 255 * l < threshold else l
            out[:, i, j] = np.multiply(colorsys.hls_to_rgb(h, l, s), 255)
    return out


def fliplr(image, p, coin):
    return image.v[:, :, ::-1] if coin < p else image.v


def gaussian_blur(image, sigma, radius):
    g = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return image.stencil(np.outer(g, g) / g.sum() ** 2)


def grayscale(image, alpha):
    grey = 0.299 * image.v[0] + 0.587 * image.v[1] + 0.114 * image.v[2]
    return (1 - alpha) * image.v + alpha * grey


def invert(image, p, coin):
    return 255 - image.v if coin < p else image.v


def linear_contrast(image, alpha):
    return 127 + alpha * (image.v - 127)


def multiply(image, factor):
    return factor * image.v


def multiply_per_channel(image, factor):
    return np.asarray(factor)[:, None, None] * image.v


def perspective(image, scale):
    inwards = np.minimum(abs(image.normal(4, 2)) * scale, 0.45)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    size = np.array([image.w, image.h])
    inside = np.where(corners == 0, inwards, 1 - inwards) * size
    equations, known = [], []
    for (x, y), (u, v) in zip(corners * size, inside):
        equations += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        known += [u, v]
    a, b, c, d, e, f, g, k = np.linalg.solve(equations, known)

    def place(x, y):
        depth = g * x + k * y + 1
        return (a * x + b * y + c) / depth, (d * x + e * y + f) / depth

    return image.warp(place, edge=True)
