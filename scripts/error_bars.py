#!/usr/bin/env python3
"""Compares the standard errors that `vdm eval` reports with how its results really scatter over seeds.

    cargo build --release && target/release/vdm train --out runs/digits && python3 scripts/error_bars.py runs/digits

Noise: the scatter of the bound over seeds, on the same images. Total: that, and the error over images, which is taken from
the runs with most passes. Prints a table in Markdown; the errors of the ratios come from the number of seeds.
"""

import argparse
import json
import math
import statistics
import subprocess

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("run", help="a run's folder")
parser.add_argument("--vdm", default="target/release/vdm", help="the program")
parser.add_argument("--passes", type=int, nargs="+", default=[1, 2, 3, 5, 20])
parser.add_argument("--seeds", type=int, default=256)
args = parser.parse_args()


def evaluate(passes, seed):
    command = [args.vdm, "eval", args.run, "--repeats", str(passes), "--seed", str(seed), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def root_mean_square(values):
    return math.sqrt(statistics.fmean(value * value for value in values))


results = {passes: [evaluate(passes, seed) for seed in range(args.seeds)] for passes in args.passes}
most = results[max(args.passes)]
over_images = math.sqrt(
    statistics.fmean(r["bpd_stderr"] ** 2 for r in most) - statistics.variance(r["bpd"] for r in most)
)
print(f"error over images: {over_images:.4f} bits per dimension; {args.seeds} seeds")
print("| passes | scatter over seeds | reported noise | ratio | scatter and images | reported error | ratio |")
print("|---|---|---|---|---|---|---|")
for passes, found in results.items():
    scatter = statistics.stdev(r["bpd"] for r in found)
    of_ratio = 1 / math.sqrt(2 * (args.seeds - 1))
    noise, ratio = "not reported", ""
    if "bpd_stderr_noise" in found[0] and found[0]["bpd_stderr_noise"] is not None:
        value = root_mean_square(r["bpd_stderr_noise"] for r in found)
        noise, ratio = f"{value:.4f}", f"{value / scatter:.2f} ± {value / scatter * of_ratio:.2f}"
    true = math.hypot(over_images, scatter)
    total = root_mean_square(r["bpd_stderr"] for r in found)
    print(f"| {passes} | {scatter:.4f} | {noise} | {ratio} | {true:.4f} | {total:.4f} | {total / true:.2f} |", flush=True)
