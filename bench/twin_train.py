"""How long vdm and its PyTorch twin take to a bound: the curve of docs/results.md.

    cargo build --release && bench/compare.sh 1 1      # once, for the virtual environment
    bench/.venv/bin/pip install matplotlib
    bench/.venv/bin/python bench/twin_train.py twin --seconds 1800 --out twin.jsonl
    bench/.venv/bin/python bench/twin_train.py vdm --seconds 1800 --out vdm.jsonl
    bench/.venv/bin/python bench/twin_train.py plot vdm.jsonl twin.jsonl --figure FIGURE.svg

The same network of 4 layers of 32 channels (8 groups in each normalisation, no dropout) on Fashion-MNIST, batches of 16, on one
thread of one core. The twin has the paper's recipe: AdamW at a rate of 2e-4, decay 0.01, learned linear schedule, evenly spread
times; its averaged weights, which the paper's decay of 0.9999 would hold back in so short a training, have the decay 0.999. vdm has
its preset `fashion-mnist`, with the same decay. The time is that of the processor in training, without evaluations. The bound is on 500 validation images (of every 20 training images the last, which neither trains on), of the better of raw and averaged
weights.
"""

import argparse
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from frechet import VDM, idx, is_held_out

EVERY = 120  # processor seconds


def split():
    images = idx("train-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28)
    held_out = is_held_out(images)
    valid = images[held_out]
    return images[~held_out], valid[np.linspace(0, len(valid) - 1, 500).astype(int)]


def twin(seconds, out):
    import pytorch_twin
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = pytorch_twin.ScoreUNet(1, 32, 4, 0.0)
    for module in net.modules():
        if isinstance(module, nn.GroupNorm):
            module.num_groups = 8
    net = net.to(memory_format=torch.channels_last)
    gamma = nn.Parameter(torch.tensor([-13.3, 18.3]))
    params = [*net.parameters(), gamma]
    optimizer = torch.optim.AdamW(params, lr=2e-4, betas=(0.9, 0.99), weight_decay=0.01)
    average = [p.detach().clone() for p in params]
    train, valid = (torch.tensor(images) for images in split())

    def bound():
        net.eval()
        with torch.no_grad():
            found = [pytorch_twin.bits_per_dim(net, gamma, part).item() for part in valid.split(50)]
        net.train()
        return float(np.mean(found))

    def with_average(f):
        own = [p.detach().clone() for p in params]
        with torch.no_grad():
            torch._foreach_copy_(params, average)
            found = f()
            torch._foreach_copy_(params, own)
        return found

    used, step, due = 0.0, 0, EVERY
    order = torch.Generator().manual_seed(0)
    with open(out, "w") as file:
        while used < seconds:
            start = time.process_time()
            images = train[torch.randint(len(train), (16,), generator=order)]
            for group in optimizer.param_groups:
                group["lr"] = 2e-4 * min(1, (step + 1) / 100)
            optimizer.zero_grad(set_to_none=True)
            pytorch_twin.bits_per_dim(net, gamma, images).backward()
            optimizer.step()
            torch._foreach_lerp_(average, [p.detach() for p in params], 0.001)
            step += 1
            used += time.process_time() - start
            if used >= due:
                due += EVERY
                row = {"seconds": used, "step": step, "bpd": min(bound(), with_average(bound))}
                print(json.dumps(row), file=file, flush=True)


def processor_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def vdm(seconds, out, settings):
    """Stops the training at every point of the curve, evaluates, and goes on, which changes nothing but the time."""
    with tempfile.TemporaryDirectory() as folder, open(out, "w") as file:
        run, used = f"{folder}/run", 0.0
        many = "train.steps=1000000"
        common = ["--threads", "1", "--plain"]
        first = [VDM, "train", "--preset", "fashion-mnist", "--out", run, "--set", many, "--set", "train.eval_every=0",
                 "--set", "train.sample_every=0", *[part for s in settings for part in ("--set", s)], *common]  # fmt: skip
        command = first
        while used < seconds:
            training = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            spent = 0.0
            while training.poll() is None and spent < EVERY:
                time.sleep(0.1)
                spent = processor_seconds(training.pid)
            training.send_signal(signal.SIGTERM)
            training.wait()
            used += spent
            bounds = []
            for weights in ["raw", "ema"]:
                done = subprocess.run([VDM, "eval", run, "--split", "validation", "--images", "500", "--repeats", "1",
                                       "--weights", weights, "--threads", "1", "--json"], check=True, capture_output=True)  # fmt: skip
                bounds.append(json.loads(done.stdout))
            row = {"seconds": used, "step": bounds[0]["step"], "bpd": min(found["bpd"] for found in bounds)}
            print(json.dumps(row), file=file, flush=True)
            command = [VDM, "train", "--resume", run, *common]


def plot(files, figure):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "vdm"
    import matplotlib.pyplot as plt

    panel, axis = plt.subplots(figsize=(6, 4))
    for file in files:
        rows = [json.loads(line) for line in Path(file).read_text().splitlines()]
        axis.plot([row["seconds"] / 60 for row in rows], [row["bpd"] for row in rows], marker=".", label=Path(file).stem)
        for goal in [4.0, 3.5, 3.3, 3.2, 3.1, 3.0]:
            reached = next((row for row in rows if row["bpd"] <= goal), None)
            print(Path(file).stem, goal, f"{reached['seconds'] / 60:.0f} min, {reached['step']} steps" if reached else "not reached")
    axis.set(xlabel="minutes of one core", ylabel="bits per dimension, validation", ylim=(2.9, 4.6))
    axis.legend()
    panel.tight_layout()
    panel.savefig(figure, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["twin", "vdm", "plot"])
    parser.add_argument("files", nargs="*")
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--out")
    parser.add_argument("--set", action="append", default=[], help="a setting of vdm")
    parser.add_argument("--figure")
    args = parser.parse_args()
    if args.what != "plot" and not args.out:
        parser.error("name a file with --out")
    if args.what == "twin":
        twin(args.seconds, args.out)
    elif args.what == "vdm":
        vdm(args.seconds, args.out, args.set)
    else:
        plot(args.files, args.figure)


main()
