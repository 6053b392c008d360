#!/usr/bin/env python3
"""Reads what a training wrote for TensorBoard with TensorBoard itself, compares every number with metrics.jsonl, and saves a
picture of its page in headless Chromium.

    python3 -m venv target/tensorboard && target/tensorboard/bin/pip install tensorboard
    target/release/vdm train --steps 300 --tensorboard --out /tmp/run
    target/tensorboard/bin/python scripts/tensorboard_page.py /tmp/run /tmp/tensorboard.png

Needs Chromium (Debian: chromium). Serves on loopback only.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

run, shot = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "histograms": 0})
events.Reload()

TRAIN = {"bpd": "train/bpd", "prior": "train/prior", "reconstruction": "train/reconstruction",
         "diffusion": "train/diffusion", "gamma_0": "schedule/gamma_0", "gamma_1": "schedule/gamma_1",
         "grad_norm": "optimizer/grad_norm", "lr": "optimizer/lr", "images_per_second": "speed/images_per_second"}
EVAL = {f"eval_{name}": name for name in ("bpd", "prior", "reconstruction", "diffusion")}
scalars = {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
compared = 0
for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
    tags = EVAL if "eval_bpd" in line else TRAIN
    for key, tag in tags.items():
        tag = f"eval/{line['eval_split']}/{tag}" if "eval_bpd" in line else tag
        found, expected = scalars[tag][line["step"]], line[key]
        assert abs(found - expected) <= 1e-6 * abs(expected), (tag, line["step"], found, expected)
        compared += 1
grids = events.Images("samples")
for grid in grids:
    png = (run / "samples" / f"step-{grid.step:07}.png")
    assert png.read_bytes() == grid.encoded_image_string, png
losses = events.Histograms("eval/loss over t")
for loss in losses:
    ends, bits = loss.histogram_value.bucket_limit, loss.histogram_value.bucket
    assert [round(end * len(bits)) for end in ends] == list(range(1, len(bits) + 1)) and min(bits) >= 0, loss
    # Its mean over t is the diffusion loss, here of a few of the images that were evaluated.
    mean, all_images = sum(bits) / len(bits), scalars["eval/valid/diffusion"][loss.step]
    assert abs(mean - all_images) < 0.25 * all_images, (loss.step, mean, all_images)
assert {loss.step for loss in losses} == set(scalars["eval/valid/diffusion"])
print(f"{compared} numbers and {len(grids)} grids are those of the run, and {len(losses)} losses over t are near them")

server = subprocess.Popen([sys.executable, "-m", "tensorboard.main", "--logdir", str(run / "tensorboard"), "--port", "0",
                           "--host", "127.0.0.1"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
try:
    address = None
    for line in server.stdout:
        if address := re.search(r"http://127\.0\.0\.1:\d+/", line):
            break
    threading.Thread(target=server.stdout.read, daemon=True).start()
    time.sleep(3)
    with tempfile.TemporaryDirectory() as folder:
        browser = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                   "--window-size=1400,1600", "--hide-scrollbars", f"--user-data-dir={folder}"]
        subprocess.run([*browser, "--timeout=20000", "--virtual-time-budget=20000", f"--screenshot={shot}",
                        f"{address[0]}#timeseries"], check=True, capture_output=True, timeout=120)
    print(f"its page: {shot}")
finally:
    server.terminate()
