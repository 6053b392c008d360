#!/usr/bin/env python3
"""Code lengths of simple models of pixels, in bits per dimension: what a bit means beside the diffusion model.

    python3 bench/baselines.py TRAIN TEST        IDX files of images, gzipped or not

Counts over the training images give a distribution of a pixel, over all levels, and the test images are coded with it:

- order 0: of every pixel alike;
- by place: of every pixel of the image by itself;
- order 2: given the pixels to the left and above, each in 32 steps of brightness;
- order 4: given those and the two diagonal ones above, each in 12 steps.

A count of 1/256 of every level in every context makes all levels possible. Needs NumPy.
"""

import gzip
import sys

import numpy as np

LEVELS = 256


def read(path):
    data = open(path, "rb").read()
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    n, height, width = (int.from_bytes(data[i : i + 4], "big") for i in (4, 8, 12))
    return np.frombuffer(data, np.uint8, offset=16).reshape(n, height, width)


def shifted(images, down, right):
    """Each pixel's neighbour `down` lines above and `right` columns to the left; 0 outside."""
    out = np.zeros_like(images)
    height, width = images.shape[1:]
    if right >= 0:
        out[:, down:, right:] = images[:, : height - down, : width - right]
    else:
        out[:, down:, :right] = images[:, : height - down, -right:]
    return out


def neighbours(images, steps, places):
    context = np.zeros(images.shape, np.int64)
    for down, right in places:
        context = context * steps + shifted(images, down, right).astype(np.int64) * steps // LEVELS
    return context


MODELS = {
    "order 0": lambda images: np.zeros(images.shape, np.int64),
    "by place": lambda images: np.broadcast_to(np.arange(images[0].size).reshape(1, *images.shape[1:]), images.shape),
    "order 2": lambda images: neighbours(images, 32, [(0, 1), (1, 0)]),
    "order 4": lambda images: neighbours(images, 12, [(0, 1), (1, 0), (1, 1), (1, -1)]),
}

train, test = read(sys.argv[1]), read(sys.argv[2])
print(f"{len(test)} test images, counts of {len(train)} training images")
for name, context in MODELS.items():
    of_train, of_test = context(train), context(test)
    contexts = int(max(of_train.max(), of_test.max())) + 1
    counts = np.bincount(of_train.ravel() * LEVELS + train.ravel(), minlength=contexts * LEVELS).reshape(contexts, LEVELS)
    weights = counts + 1 / LEVELS
    bits = np.log2(weights.sum(1))[of_test] - np.log2(weights)[of_test, test]
    per_image = bits.reshape(len(test), -1).mean(1)
    print(f"{name:10} {per_image.mean():.3f} ± {per_image.std(ddof=1) / len(test) ** 0.5:.3f} bits per dimension")
