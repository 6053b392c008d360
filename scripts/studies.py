#!/usr/bin/env python3
"""Trains with one thing changed at a time, some seeds each, and compares the bounds on the validation images.

    cargo build --release
    python3 scripts/studies.py options               training options, on the digits
    python3 scripts/studies.py ablations             what the paper varies, on the digits
    python3 scripts/studies.py networks              networks at equal time, on Fashion-MNIST
    python3 scripts/studies.py NAME [--seeds 3] [--first-seed 0] [--rows 0,2] [--steps N | --seconds S] [--core C] [--work FOLDER] [--json]

With --steps every run has as many steps; with --seconds as much processor time on one thread, so that other work beside it
changes little. The difference of a row is taken seed by seed, on the same images and with the same noise; its standard error
is that over the seeds. FOLDER keeps what is done, so that an interrupted study goes on. Prints a table in Markdown.
"""

import argparse
import json
import math
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

EVEN = "train.times=low-discrepancy"
# What the paper has and the preset has not: all rows of a study draw their times alike.
PAPER = [EVEN, "model.fourier=paper"]
HOURGLASS = "model.kind=hourglass"
UNET = "model.kind=unet"
# name: (preset, steps, seconds, validation images, passes over them, rows); the first row is what the others are compared with.
STUDIES = {
    "options": ("digits", 1500, None, 74, 20, {
        "constant rate, `eps`, exponential average": [EVEN],
        "`train.lr_decay=cosine`": [EVEN, "train.lr_decay=cosine"],
        "`train.lr_decay=linear`": [EVEN, "train.lr_decay=linear"],
        "`model.prediction=v`": [EVEN, "model.prediction=v"],
        "`model.prediction=x`": [EVEN, "model.prediction=x"],
        "`train.times=importance`": ["train.times=importance"],
        "`train.ema_width=0.1`": [EVEN, "train.ema_width=0.1"],
        "`train.lr_decay=cosine`, twice the rate": [EVEN, "train.lr_decay=cosine", "train.lr=4e-3"],
    }),
    "ablations": ("digits", 1500, None, 74, 20, {
        "4 layers of 32 channels, Fourier features, learned ends, continuous time": [*PAPER],
        "no Fourier features": [*PAPER, "model.fourier=none"],
        "fixed ends": [*PAPER, "schedule.kind=fixed-linear"],
        "learned shape of the schedule, trained for less variance": [
            *PAPER, "schedule.kind=pinned-network", "schedule.objective=variance"],
        "attention after every block": [*PAPER, "model.with_attention=true"],
        "2 layers": [*PAPER, "model.n_layer=2"],
        "8 layers": [*PAPER, "model.n_layer=8"],
        "16 channels": [*PAPER, "model.n_embd=16"],
        "trained and evaluated in 10 steps": [*PAPER, "train.timesteps=10"],
        "trained and evaluated in 100 steps": [*PAPER, "train.timesteps=100"],
        "trained and evaluated in 250 steps": [*PAPER, "train.timesteps=250"],
        "trained and evaluated in 1000 steps": [*PAPER, "train.timesteps=1000"],
    }),
    "networks": ("fashion-mnist", None, 300, 1000, 1, {
        "`score`, 4 layers": [],
        "`score`, 6 layers": ["model.n_layer=6"],
        "`hourglass`": [HOURGLASS],
        "`unet`": [UNET],
        "`unet`, z added to the output": [UNET, "model.add_input=true"],
        "`unet`, z added, last layer zero at first": [UNET, "model.add_input=true", "model.zero_last=true"],
        "`unet`, z added, last layer zero, Fourier features": [
            UNET, "model.add_input=true", "model.zero_last=true", "model.n_fourier=[7, 8]"],
        "`unet`, Fourier features": [UNET, "model.n_fourier=[7, 8]"],
    }),
}  # fmt: skip


def processor_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Study:
    def __init__(self, args):
        self.args = args
        self.preset, self.steps, self.seconds, self.images, self.repeats, self.rows = STUDIES[args.study]
        if args.rows:
            wanted = [int(row) for row in args.rows.split(",")]
            self.rows = {name: self.rows[name] for i, name in enumerate(list(self.rows)) if i in wanted}
        if args.steps or args.seconds:
            self.steps, self.seconds = args.steps, args.seconds
        self.on_core = ["taskset", "-c", str(args.core)] if args.core is not None else []

    def bound(self, folder, settings):
        """Bits per dimension on the validation images, and the steps of the training."""
        done = folder.with_suffix(".json")
        recipe = [self.preset, self.steps, self.seconds, self.images, self.repeats, settings]
        if not done.exists() or json.loads(done.read_text())["recipe"] != recipe:
            shutil.rmtree(folder, ignore_errors=True)
            self.train(folder, settings)
            command = [*self.on_core, self.args.vdm, "eval", folder, "--split", "validation", "--images", self.images,
                       "--repeats", self.repeats, "--threads", "1" if self.seconds else "0", "--json"]  # fmt: skip
            found = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
            done.write_text(json.dumps(json.loads(found.stdout) | {"recipe": recipe}))
        found = json.loads(done.read_text())
        return found["bpd"], found["step"]

    def train(self, folder, settings):
        command = [*self.on_core, self.args.vdm, "train", "--preset", self.preset, "--out", str(folder), "--plain"]
        steps = self.steps or 10**6
        # The test images are evaluated at the end of a training whatever happens; here as few as can be.
        given = [f"train.steps={steps}", f"train.eval_every={steps}", "train.sample_every=0", "eval.images=1", "eval.repeats=1",
                 f"train.checkpoint_every={steps}"]  # fmt: skip
        for setting in [*given, *settings]:
            command += ["--set", setting]
        command += ["--threads", "1"] if self.seconds else []
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while self.seconds and run.poll() is None and processor_seconds(run.pid) < self.seconds:
            time.sleep(0.2)
        if self.seconds and run.poll() is None:
            run.send_signal(signal.SIGTERM)  # saves
        if run.wait() != 0 and not self.seconds:
            raise SystemExit(f"{command} failed")

    def run(self, work):
        results = {}
        for seed in range(self.args.first_seed, self.args.first_seed + self.args.seeds):
            for i, (name, settings) in enumerate(self.rows.items()):
                found = self.bound(work / f"{self.args.study}-{i}-{seed}", [f"seed={seed}", *settings])
                results.setdefault(name, []).append(found)
                print(seed, name, *found, file=sys.stderr, flush=True)
        return results


def table(results):
    base = next(iter(results.values()))
    print("| | steps | validation bound | difference to the first row |\n|---|---|---|---|")
    for name, found in results.items():
        differences = [own[0] - first[0] for own, first in zip(found, base)]
        error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
        difference = "" if found is base else f"{statistics.fmean(differences):+.4f} ± {error:.4f}"
        bound, steps = (statistics.fmean(run[i] for run in found) for i in (0, 1))
        print(f"| {name} | {steps:.0f} | {bound:.4f} | {difference} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--vdm", default="target/release/vdm", help="the program")
    parser.add_argument("--steps", type=int, help="training steps of a run")
    parser.add_argument("--seconds", type=float, help="processor seconds of a run, on one thread")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rows", help="only these rows, numbers from 0 with commas between")
    parser.add_argument("--core", type=int, help="the core to stay on")
    parser.add_argument("--json", action="store_true", help="print the bounds of the last row as JSON, not the table")
    parser.add_argument("--work", type=pathlib.Path, help="where the runs are; a temporary folder by default")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or pathlib.Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        results = Study(args).run(work)
        if args.json:
            bounds = [bound for bound, _ in list(results.values())[-1]]
            print(json.dumps({"bpd": statistics.fmean(bounds), "of_seeds": bounds}))
        else:
            table(results)


main()
