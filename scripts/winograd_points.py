#!/usr/bin/env python3
"""The error of Winograd's convolution F(m x m, 3x3) in single precision, for several sets of points: the table in
crates/vdm-kernels/src/cpu/points.rs and docs/speed.md. Needs numpy (bench/.venv has it).

    bench/.venv/bin/python scripts/winograd_points.py

Root mean square error over the standard deviation of the outputs, with 64 channels of standard normal inputs and weights of
variance 1/576; transforms and sums are rounded after every operation."""

import numpy as np

CHANNELS, TILES, TAPS = 64, 200, 3


def maps(points, m):
    """A^T, G and B^T of F(m, 3) by the finite points given and infinity (Toom and Cook)."""
    n = m + TAPS - 1
    at = np.array([[p**i for p in points] + [float(i == m - 1)] for i in range(m)])
    g = np.array([[p**j for j in range(TAPS)] for p in points] + [[0.0] * (TAPS - 1) + [1.0]])
    g[: n - 1] /= np.array([np.prod([p - q for q in points if q != p]) for p in points])[:, None]
    bt = np.zeros((n, n))
    for i, p in enumerate(points):
        row = np.poly([q for q in points if q != p])[::-1]
        bt[i, : len(row)] = row
    bt[n - 1] = np.poly(points)[::-1]
    return at, g, bt


def product(matrix, x, axis):
    """The matrix along an axis, in single precision."""
    x = np.moveaxis(x, axis, -1)
    out = np.zeros(x.shape[:-1] + (matrix.shape[0],), np.float32)
    for j in range(matrix.shape[1]):
        out = out + x[..., j : j + 1] * matrix[:, j]
    return np.moveaxis(out, -1, axis)


def errors(points, m):
    """Of the direct sum and of Winograd's method."""
    side = m + TAPS - 1
    rng = np.random.default_rng(1)
    d = rng.normal(size=(TILES, CHANNELS, side, side)).astype(np.float32)
    g = (rng.normal(size=(CHANNELS, TAPS, TAPS)) / np.sqrt(CHANNELS * TAPS * TAPS)).astype(np.float32)
    exact, direct = np.zeros((TILES, m, m)), np.zeros((TILES, m, m), np.float32)
    for c in range(CHANNELS):
        for a in range(TAPS):
            for b in range(TAPS):
                window = d[:, c, a : a + m, b : b + m]
                exact += window.astype(float) * float(g[c, a, b])
                direct += window * g[c, a, b]
    at, gm, bt = (x.astype(np.float32) for x in maps(points, m))
    u, v = product(gm, product(gm, g, 1), 2), product(bt, product(bt, d, 2), 3)
    sums = np.zeros((TILES, side, side), np.float32)
    for c in range(CHANNELS):
        sums += v[:, c] * u[c]
    y = product(at, product(at, sums, 1), 2)
    return [np.sqrt(np.mean((x - exact) ** 2)) / exact.std() for x in (direct, y)]


def main():
    print("| method, points | error |\n|---|---|")
    print(f"| direct sum | {errors([0.0, 1.0, -1.0, 2.0, -2.0], 4)[0]:.1e} |")
    print(f"| F(2x2, 3x3): 0, ±1, ∞ | {errors([0.0, 1.0, -1.0], 2)[1]:.1e} |")
    half = 2**-0.5
    for a, b, name in [(1, 2, "±1, ±2"), (0.5, 1, "±1/2, ±1"), (0.5, 2, "±1/2, ±2"), (0.625, 1.25, "±5/8, ±5/4"),
                       (half, 2 * half, "±1/√2, ±√2"), (0.625, 1.5, "±5/8, ±3/2")]:
        points = [0.0, float(a), -float(a), float(b), -float(b)]
        print(f"| F(4x4, 3x3): 0, {name}, ∞ | {errors(points, 4)[1]:.1e} |")


main()
