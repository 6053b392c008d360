#!/usr/bin/env bash
# Compares another device with the CPU: its kernels, golden files with every gradient, the losses of a short training, a bound.
#
#   scripts/device.sh wgpu [STEPS]
#
# DEVICE is cuda or wgpu. Without a card, Debian's
# mesa-vulkan-drivers bring a Vulkan driver that computes on the CPU, for wgpu. The program is built a second time, with the
# device, in target/DEVICE.
set -euo pipefail
cd "$(dirname "$0")/.."
device=${1:?usage: scripts/device.sh DEVICE [STEPS]}
steps=${2:-50}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
target=${VDM_TARGET:-target/$device}
build=(--release -p vdm -p vdm-cli --features "vdm/$device,vdm-cli/$device" --target-dir "$target")
cargo build "${build[@]}"
vdm=$(realpath "$target/release/vdm")

status=0
VDM_DEVICE=$device cargo test "${build[@]}" --test accelerator || status=$?
VDM_DEVICE=$device cargo test "${build[@]}" --test golden every_golden_file -- --nocapture || status=$?

for on in cpu "$device"; do
  "$vdm" train --device "$on" --steps "$steps" --set train.log_every=1 --set eval.images=64 --set eval.repeats=1 \
    --set train.sample_every=0 --set sample.count=4 --set sample.steps=20 --plain --out "$work/$on" > "$work/$on.log" 2>&1
  "$vdm" eval digits --device "$on" --images 64 --json > "$work/$on.json"
done
python3 - "$work" "$device" << 'END'
import json
import sys

work, device = sys.argv[1:]
runs = [[json.loads(line) for line in open(f"{work}/{on}/metrics.jsonl")] for on in ("cpu", device)]
steps = [[line for line in run if "bpd" in line] for run in runs]
for key in ("bpd", "grad_norm", "gamma_0", "gamma_1"):
    off = [abs(a[key] - b[key]) / abs(a[key]) for a, b in zip(*steps, strict=True)]
    print(f"training, {key:9} first step off by {off[0]:.1e} of its value, largest of {len(off)} steps {max(off):.1e}")
speed = [sorted(line["images_per_second"] for line in run)[len(run) // 2] for run in steps]
print(f"training, images a second (median): cpu {speed[0]:.1f}, {device} {speed[1]:.1f}")
bounds = [json.load(open(f"{work}/{on}.json"))["bpd"] for on in ("cpu", device)]
print(f"bound of `digits` on 64 test images: cpu {bounds[0]:.6f}, {device} {bounds[1]:.6f}")
END
exit "$status"
