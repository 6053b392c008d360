#!/usr/bin/env python3
"""What is lost when a training is killed, and which damage to files is found: the long part of the tests.

    cargo build --release && python3 scripts/reliability.py [KILLS [FLIPS]]      100 kills, 200 flipped bits by default

Prints the rows of the table in docs/reliability.md. Needs Python's standard library only; takes some minutes.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VDM = Path(__file__).resolve().parent.parent / "target/release/vdm"
SETS = [
    "train.steps=60", "train.batch_size=8", "model.n_layer=1", "train.eval_every=7", "train.checkpoint_every=5",
    "train.sample_every=9", "train.log_every=4", "eval.repeats=1", "eval.images=20", "sample.count=4", "sample.steps=6",
]


def vdm(*args, **more):
    return subprocess.run([VDM, *map(str, args)], capture_output=True, text=True, **more)


def train(run):
    if (run / "config.toml").exists():
        return [VDM, "train", "--json", "--resume", run]
    return [VDM, "train", "--json", "--out", run, *(word for s in SETS for word in ("--set", s))]


def content(run):
    """Every file with its bytes; the metrics without the times in them."""
    files = {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}
    lines = [json.loads(line) for line in files["metrics.jsonl"].splitlines()]
    files["metrics.jsonl"] = [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]
    return files


def kills(folder, count):
    whole, killed = folder / "whole", folder / "killed"
    started = time.time()
    subprocess.run(train(whole), check=True, capture_output=True)
    seconds = time.time() - started
    done = runs = 0
    different = set()
    while done < count:
        runs += 1
        killed = folder / f"killed-{runs}"
        while done < count:
            child = subprocess.Popen(train(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(random.uniform(0.02, 0.6 * seconds))
            if child.poll() is not None:
                break
            child.kill()
            child.wait()
            done += 1
        # Twice: the second finds that all is done.
        for _ in range(2):
            subprocess.run(train(killed), capture_output=True)
        want, found = content(whole), content(killed)
        different |= {name for name in want.keys() | found.keys() if want.get(name) != found.get(name)}
    lost = ", ".join(sorted(different)) or "nothing: every byte but times"
    print(f"| SIGKILL at random moments of {runs} trainings | {done} | {lost} |", flush=True)
    return whole


def flips(what, file, count, command):
    good = file.read_bytes()
    found = 0
    for _ in range(count):
        bad = bytearray(good)
        bad[random.randrange(len(bad))] ^= 1 << random.randrange(8)
        file.write_bytes(bad)
        found += vdm(*command).returncode != 0
    file.write_bytes(good)
    assert vdm(*command).returncode == 0
    print(f"| one flipped bit in {what} | {count} | {count - found} not found |", flush=True)


def main():
    numbers = [int(word) for word in sys.argv[1:]]
    random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        run = kills(folder, numbers[0] if numbers else 100)
        count = numbers[1] if len(numbers) > 1 else 200
        sample = ["sample", run, "--count", "1", "--steps", "1", "-o", folder / "a.png"]
        flips("a checkpoint", run / "checkpoints/last.safetensors", count, sample)
        coded = folder / "a.vdmz"
        vdm("compress", run, "--timesteps", 2, "--count", 2, "-o", coded)
        flips("a compressed file", coded, count, ["decompress", coded, "-m", run, "-o", folder / "out", "--force"])


main()
