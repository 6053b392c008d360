#!/usr/bin/env python3
"""What is lost when a training is stopped, which damage to files is found, what a full disk does, how memory grows: the long
part of the tests.

    cargo build --release && python3 scripts/reliability.py [STOPS [FLIPS]]      100 stops, 200 flipped bits by default

Prints the rows of the table in docs/reliability.md. Needs Python's standard library only; takes half an hour. The rows
about disks need the right to mount file systems; without it they say that they were not tried.
"""

import json
import random
import signal
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


def stops(folder, count):
    """Half of the stops are SIGKILL, the others SIGINT and SIGTERM."""
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
            child.send_signal(random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM]))
            child.wait()
            done += 1
        # Twice: the second finds that all is done.
        for _ in range(2):
            subprocess.run(train(killed), capture_output=True)
        want, found = content(whole), content(killed)
        different |= {name for name in want.keys() | found.keys() if want.get(name) != found.get(name)}
    lost = ", ".join(sorted(different)) or "nothing: every byte but times"
    print(f"| SIGKILL, SIGINT or SIGTERM at random moments of {runs} trainings | {done} | {lost} |", flush=True)
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


def full_disk(folder, whole):
    """A training on a disk that gets full, and is made larger: it goes on as if nothing had been."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        return print("| a full disk, an unwritable folder | not tried: no right to mount | |")
    try:
        run, messages = disk / "run", []
        sizes = range(3, 40)
        for size in sizes:
            subprocess.run(["mount", "-o", f"remount,size={size}m", disk], check=True)
            done = subprocess.run(train(run), capture_output=True, text=True)
            if done.returncode == 0:
                break
            messages.append(done.stderr.strip().splitlines()[-1])
        once = all(message.count("No space left on device") == 1 for message in messages)
        want, found = content(whole), content(run)
        same = "nothing: every byte but times" if want == found else "bytes differ"
        said = "each said once" if once else "not said once: " + "; ".join(messages)
        print(f"| the disk gets full during a training, and then larger ({said}) | {len(messages)} | {same} |", flush=True)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        tried = [["sample", run, "--count", "1", "--steps", "1"], train(disk / "other")[1:], ["train", "--resume", run]]
        said = [vdm(*command).stderr.count("Read-only file system") == 1 for command in tried[:2]]
        print(f"| a folder that cannot be written to | {len(said)} | {said.count(False)} not said once |", flush=True)
    finally:
        subprocess.run(["umount", disk], check=True)


def memory(what, command):
    """Memory of a long command, at the end of each fifth of its time."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seen = []
    while child.poll() is None:
        lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
        seen += [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")]
        time.sleep(0.2)
    assert child.returncode == 0, what
    fifths = [f"{max(seen[len(seen) * i // 5:len(seen) * (i + 1) // 5]):.0f}" for i in range(5)]
    print(f"| {what} | memory by fifths of the time | {', '.join(fifths)} MiB |", flush=True)


def main():
    numbers = [int(word) for word in sys.argv[1:]]
    random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        run = stops(folder, numbers[0] if numbers else 100)
        full_disk(folder, run)
        count = numbers[1] if len(numbers) > 1 else 200
        sample = ["sample", run, "--count", "1", "--steps", "1", "-o", folder / "a.png"]
        flips("the last checkpoint", run / "checkpoints/last.safetensors", count, sample)
        best = [*sample, "--checkpoint", "best"]
        flips("the best checkpoint", run / "checkpoints/best.safetensors", count, best)
        coded = folder / "a.vdmz"
        vdm("compress", run, "--timesteps", 2, "--count", 2, "-o", coded)
        flips("a compressed file", coded, count, ["decompress", coded, "-m", run, "-o", folder / "out", "--force"])
        sets = ["train.steps=10000", "train.batch_size=4", "model.n_layer=1", "sample.count=4", "sample.steps=6"]
        words = [word for s in sets for word in ("--set", s)]
        memory("10,000 small steps", [VDM, "train", "--json", "--out", folder / "long", *words])
        many = ["--count", "10000", "--steps", "2", "--separate", "-o", folder / "many"]
        memory("10,000 samples", [VDM, "sample", run, *many])


main()
