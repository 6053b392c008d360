"""How good samples of a few steps are: the table and the figure of docs/likelihoods.md.

    cargo build --release && bench/compare.sh 1 1      # once, for the virtual environment
    bench/.venv/bin/pip install matplotlib pillow
    bench/.venv/bin/python bench/frechet.py [--images 256] [--figure FIGURE.svg] [--work FOLDER]

The measure is a Frechet distance between Gaussians fitted to 32 features of images. The features are those of a small
classifier that is trained here on the training images (seed 0), NOT those of the Inception network: the values are not FID,
cannot be compared with any, and only rank samplers of one model with each other. Reference are the training images; what as
many validation images have, which no model can be expected to beat, is printed too. A distance of few images is too high, by
an amount that need not be the same for all samplers.

Every image of every sampler comes from the same seed. FOLDER keeps the samples, so that an interrupted run goes on.
"""

import argparse
import gzip
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

VDM = os.environ.get("VDM", "target/release/vdm")
DATA = Path("/usr/share/datasets/fashion-mnist")
# Evaluations of the network per image; `heun` takes one less, since its last step is of first order.
EVALUATIONS = [4, 8, 16, 32, 64]
STEPS = {"ancestral": lambda n: n, "ddim": lambda n: n, "dpm++-2m": lambda n: n, "heun": lambda n: (n + 1) // 2}
GRIDS = {"ancestral": "time", "ddim": "time", "dpm++-2m": "gamma", "heun": "gamma"}


def idx(name, header):
    data = gzip.open(DATA / f"{name}.gz", "rb").read() if (DATA / f"{name}.gz").exists() else (DATA / name).read_bytes()
    return np.frombuffer(data, np.uint8, offset=header)


def is_held_out(images):
    """Which training images are those of validation: as `vdm` holds them out."""
    return np.arange(len(images)) % 20 == 19


def classifier(images, labels):
    """Three convolutions of stride 2, 32 features, 10 classes."""
    torch.manual_seed(0)
    features = nn.Sequential(
        nn.Conv2d(1, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 16, 32), nn.ReLU())  # fmt: skip
    head = nn.Linear(32, 10)
    optimizer = torch.optim.AdamW([*features.parameters(), *head.parameters()], 2e-3)
    for _ in range(3):
        for batch in torch.randperm(len(images)).split(128):
            loss = nn.functional.cross_entropy(head(features(images[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return features, head


def scaled(images):
    return torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 28, 28) / 127.5 - 1


def statistics(features, images):
    with torch.no_grad():
        found = torch.cat([features(part) for part in scaled(images).split(1000)]).double().numpy()
    return found.mean(0), np.cov(found, rowvar=False)


def root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def distance(a, b):
    """Between Gaussians (Dowson and Landau 1982)."""
    (mean_a, cov_a), (mean_b, cov_b) = a, b
    half = root(cov_a)
    mixed = np.linalg.eigvalsh(half @ cov_b @ half).clip(0)
    return ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(mixed).sum()


def sampled(model, sampler, evaluations, count, folder):
    # Of this model, this program and this number of images only.
    own = hashlib.sha256(Path(VDM).read_bytes() + str(model).encode()).hexdigest()[:12]
    out = folder / f"{own}-{count}-{sampler}-{evaluations}"
    if len(list(out.glob("*.png"))) != count:
        command = [VDM, "sample", model, "--sampler", sampler, "--steps", STEPS[sampler](evaluations), "--grid", GRIDS[sampler],
                   "--count", count, "--separate", "--out", out, "--batch-size", 32, "--seed", 0]  # fmt: skip
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{command}: {done.stderr[-400:]}")
    return np.stack([np.array(Image.open(file).convert("L")) for file in sorted(out.glob("*.png"))])


def plot(curves, floor, figure):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "vdm"
    import matplotlib.pyplot as plt

    panel, axis = plt.subplots(figsize=(6, 4))
    for sampler, row in curves.items():
        axis.plot(EVALUATIONS, row, marker="o", label=sampler)
    axis.axhline(floor, color="grey", linestyle=":", label="validation images")
    axis.set(xscale="log", yscale="log", xlabel="evaluations of the network per image", ylabel="distance to the training images")
    axis.set_xticks(EVALUATIONS, EVALUATIONS)
    axis.xaxis.set_minor_formatter("")
    axis.legend()
    panel.tight_layout()
    panel.savefig(figure, metadata={"Date": None})


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="fashion-mnist")
    arguments.add_argument("--images", type=int, default=256)
    arguments.add_argument("--figure")
    arguments.add_argument("--work", type=Path, default=Path("/tmp/frechet"))
    given = arguments.parse_args()

    images, labels = idx("train-images-idx3-ubyte", 16).reshape(-1, 28, 28), idx("train-labels-idx1-ubyte", 8)
    held_out = is_held_out(images)
    train, valid = images[~held_out], images[held_out]
    features, head = classifier(scaled(train), torch.tensor(labels[~held_out], dtype=torch.long))
    with torch.no_grad():
        right = head(features(scaled(valid))).argmax(1).numpy() == labels[held_out]
    print(f"the classifier is right on {right.mean():.3f} of the validation images")
    reference = statistics(features, train)
    floor = distance(reference, statistics(features, valid[: given.images]))
    print(f"{given.images} validation images: {floor:.2f}\n")

    curves = {}
    print("| sampler | " + " | ".join(map(str, EVALUATIONS)) + " |\n|---|" + "---|" * len(EVALUATIONS))
    for sampler in STEPS:
        of = [statistics(features, sampled(given.model, sampler, n, given.images, given.work)) for n in EVALUATIONS]
        curves[sampler] = [distance(reference, found) for found in of]
        print(f"| `{sampler}` | " + " | ".join(f"{value:.2f}" for value in curves[sampler]) + " |", flush=True)
    if given.figure:
        plot(curves, floor, given.figure)


if __name__ == "__main__":
    main()
