"""How good samples are: of a few steps by each sampler, the table and the figure of docs/likelihoods.md, and by the weight of
guidance, the table of docs/results.md.

    cargo build --release && bench/compare.sh 1 1      # once, for the virtual environment
    bench/.venv/bin/pip install matplotlib pillow
    bench/.venv/bin/python bench/frechet.py [--images 256] [--figure FIGURE.svg] [--work FOLDER]
    bench/.venv/bin/python bench/frechet.py --guidance [--images 500]

The measure is a Frechet distance between Gaussians fitted to 32 features of images. The features are those of a small
classifier that is trained here on the training images (seed 0), NOT those of the Inception network: the values are not FID,
cannot be compared with any, and only rank samplers of one model with each other. Reference are the training images; what as
many validation images have, which no model can be expected to beat, is printed too. A distance of few images is too high, by
an amount that need not be the same for all samplers. The classifier also says which samples it takes for their class.

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

# Ways to draw the images of a class.
MULTISTEP = ["--sampler", "dpm++-2m", "--steps", 16, "--grid", "gamma"]
WAYS = {
    **{f"`dpm++-2m`, 16 steps, weight {w}": [*MULTISTEP, "--guidance", w] for w in (1, 1.5, 2, 3, 4, 6, 8)},
    "the same, weight 2, levels drawn": [*MULTISTEP, "--guidance", 2, "--decoder", "draw"],
    "`ancestral`, 250 steps, weight 1": ["--sampler", "ancestral", "--steps", 250],
    "`ancestral`, 250 steps, weight 2": ["--sampler", "ancestral", "--steps", 250, "--guidance", 2],
}


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


def sampled(model, options, count, folder):
    # Of this model, this program and these options only.
    own = hashlib.sha256(Path(VDM).read_bytes() + f"{model} {count} {options}".encode()).hexdigest()[:12]
    out = folder / own
    if len(list(out.glob("*.png"))) != count:
        command = [VDM, "sample", model, *options, "--count", count, "--separate", "--out", out, "--batch-size", 32,
                   "--seed", 0]  # fmt: skip
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
    arguments.add_argument("--guidance", action="store_true", help="the table by the weight of guidance")
    arguments.add_argument("--figure")
    arguments.add_argument("--work", type=Path, default=Path("/tmp/frechet"))
    given = arguments.parse_args()

    images, labels = idx("train-images-idx3-ubyte", 16).reshape(-1, 28, 28), idx("train-labels-idx1-ubyte", 8)
    held_out = is_held_out(images)
    train, valid = images[~held_out], images[held_out]
    features, head = classifier(scaled(train), torch.tensor(labels[~held_out], dtype=torch.long))

    def right(images, labels):
        with torch.no_grad():
            return (head(features(scaled(images))).argmax(1).numpy() == labels).mean()

    print(f"the classifier is right on {right(valid, labels[held_out]):.3f} of the validation images")
    reference = statistics(features, train)
    floor = distance(reference, statistics(features, valid[: given.images]))
    print(f"{given.images} validation images: {floor:.2f}\n")

    if given.guidance:
        print("| | distance | taken for their class |\n|---|---|---|")
        for name, options in WAYS.items():
            found = sampled(given.model, options, given.images, given.work)
            # The classes come in turn.
            share = right(found, np.arange(len(found)) % 10)
            print(f"| {name} | {distance(reference, statistics(features, found)):.1f} | {share:.3f} |", flush=True)
        return

    curves = {}
    print("| sampler | " + " | ".join(map(str, EVALUATIONS)) + " |\n|---|" + "---|" * len(EVALUATIONS))
    for sampler in STEPS:
        options = [["--sampler", sampler, "--steps", STEPS[sampler](n), "--grid", GRIDS[sampler]] for n in EVALUATIONS]
        of = [statistics(features, sampled(given.model, of_n, given.images, given.work)) for of_n in options]
        curves[sampler] = [distance(reference, found) for found in of]
        print(f"| `{sampler}` | " + " | ".join(f"{value:.2f}" for value in curves[sampler]) + " |", flush=True)
    if given.figure:
        plot(curves, floor, given.figure)


if __name__ == "__main__":
    main()
