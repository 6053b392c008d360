#!/usr/bin/env python3
"""Trains the digits with each training option, three seeds each and as many steps, and compares the validation bounds.

    cargo build --release && python3 scripts/training_options.py

Every option costs the same time per step to within 2 %, so the same number of steps is the same time. The difference of
an option is taken seed by seed, on the same images and with the same noise; its standard error is that over the seeds.
Prints a table in Markdown.
"""

import argparse
import json
import math
import pathlib
import statistics
import subprocess
import tempfile

OPTIONS = {
    "constant rate, `eps`, exponential average": [],
    "`train.lr_decay=cosine`": ["train.lr_decay=cosine"],
    "`train.lr_decay=linear`": ["train.lr_decay=linear"],
    "`model.prediction=v`": ["model.prediction=v"],
    "`model.prediction=x`": ["model.prediction=x"],
    "`train.times=importance`": ["train.times=importance"],
    "`train.ema_width=0.1`": ["train.ema_width=0.1"],
    "`train.lr_decay=cosine`, twice the rate": ["train.lr_decay=cosine", "train.lr=4e-3"],
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--vdm", default="target/release/vdm", help="the program")
parser.add_argument("--steps", type=int, default=1500, help="training steps")
parser.add_argument("--seeds", type=int, default=3)
args = parser.parse_args()


def validation_bound(folder, settings):
    """The validation bound after the last step, in bits per dimension, and the seconds of the whole run."""
    command = [args.vdm, "train", "--out", str(folder)]
    given = [f"train.steps={args.steps}", f"train.eval_every={args.steps}", "train.sample_every=0"]
    for setting in [*given, "train.times=low-discrepancy", *settings]:
        command += ["--set", setting]
    subprocess.run(command, check=True, capture_output=True)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return next(row["eval_bpd"] for row in rows if row.get("eval_split") == "valid")


results = {}
with tempfile.TemporaryDirectory() as folder:
    for seed in range(args.seeds):
        for i, (name, settings) in enumerate(OPTIONS.items()):
            run = pathlib.Path(folder) / f"{i}-{seed}"
            results.setdefault(name, []).append(validation_bound(run, [f"seed={seed}", *settings]))
            print(seed, name, results[name][-1], flush=True)

base = next(iter(results.values()))
print("| option | validation bound | difference to the first row |")
print("|---|---|---|")
for name, bounds in results.items():
    differences = [bound - own for bound, own in zip(bounds, base)]
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    difference = "" if bounds is base else f"{statistics.fmean(differences):+.4f} ± {error:.4f}"
    print(f"| {name} | {statistics.fmean(bounds):.4f} | {difference} |")
