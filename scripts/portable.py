#!/usr/bin/env python3
"""Shows that a training, its samples and its compressed files are the same bytes on every processor.

    cargo build --release && python3 scripts/portable.py [STEPS]      50 training steps by default

Trains a small network, samples, evaluates and compresses, natively and under QEMU as a processor without AVX and FMA
(Nehalem), and as one with AVX2 and FMA (Haswell), with 1, 2 and 3 threads, and compares every byte. Then each compressed file
is decompressed on another processor. Needs `qemu-x86_64` (Debian: qemu-user).
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VDM = Path(__file__).resolve().parent.parent / "target/release/vdm"
STEPS = sys.argv[1] if len(sys.argv) > 1 else "50"
NETWORKS = {
    "score": ["model.n_embd=8", "model.norm_groups=4", "model.n_layer=2", "schedule.kind=monotonic", "schedule.objective=variance"],
    "hourglass": ["model.kind=hourglass", "model.n_embd=8", "model.norm_groups=4", "model.blocks=[1, 1, 1]"],
    "unet": ["model.kind=unet", "model.n_embd=8", "model.norm_groups=4", "schedule.kind=network"],
}


def processors():
    yield "native", []
    for cpu in ["Nehalem-v1", "Haswell"]:
        yield cpu, ["qemu-x86_64", "-cpu", cpu]


def run(prefix, threads, *args):
    command = [*prefix, VDM, *args, "--threads", str(threads)]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command}: {done.stderr}")


def images(folder):
    """A data set of random images, small enough for a processor that is emulated."""
    for name, count in [("train", 64), ("t10k", 4)]:
        pixels = bytes((i * 2654435761 >> 13) % 256 for i in range(count * 64))
        header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (count, 8, 8))
        (folder / f"{name}-images-idx3-ubyte").write_bytes(header + pixels)
        labels = bytes(i % 3 for i in range(count))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1]) + count.to_bytes(4, "big") + labels)


def content(folder):
    """The digest of every file; the metrics and the evaluation without the times in them."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "lock"):
        data = path.read_bytes()
        if path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in data.splitlines()]
            data = json.dumps([{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]).encode()
        found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def main():
    for network, sets in NETWORKS.items():
        with tempfile.TemporaryDirectory() as folder:
            folder, results = Path(folder), {}
            images(folder)
            sets = [*sets, "data.source=idx", f"data.dir={folder}", f"train.steps={STEPS}", "train.batch_size=4", "train.eval_every=0", "train.log_every=10",
                    "eval.repeats=1", "sample.count=2", "sample.steps=3"]
            for name, prefix in processors():
                for threads in [1, 2, 3] if name == "native" else [1, 3] if network == "score" else [1]:
                    out, started = folder / f"{name}-{threads}", time.time()
                    words = [word for s in sets for word in ("--set", s)]
                    run(prefix, threads, "train", "--json", "--out", out, *words)
                    run(prefix, threads, "sample", out, "--count", 2, "--steps", 3, "-o", out / "a.png")
                    coded = out / "a.vdmz"
                    run(prefix, threads, "compress", out, "--timesteps", 3, "--count", 2, "--no-verify", "-o", coded)
                    results[name, threads] = content(out)
                    print(f"{network}: {name}, {threads} threads: {time.time() - started:.0f} s", flush=True)
            want = results["native", 1]
            for key, found in results.items():
                different = [name for name in want.keys() | found.keys() if want.get(name) != found.get(name)]
                if different:
                    sys.exit(f"{network}: {key}: other bytes in {', '.join(sorted(different))}")
            for name, prefix in list(processors())[1:]:
                # Coded here, decoded there, by the model that was trained here.
                back = folder / f"back-{name}"
                native = folder / "native-1"
                run(prefix, 1, "decompress", native / "a.vdmz", "-m", native, "-o", back)
            print(f"{network}: {len(results)} runs, {len(want)} files each: every byte the same, and decoded everywhere", flush=True)


main()
