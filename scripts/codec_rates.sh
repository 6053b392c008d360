#!/usr/bin/env bash
# Codes test images at several numbers of steps and prints a table in Markdown: net, with the first bits, whole file.
#
#   cargo build --release && scripts/codec_rates.sh fashion-mnist 100 target/release/vdm
set -euo pipefail
model=${1:?usage: codec_rates.sh MODEL [IMAGES] [PROGRAM] [MORE ARGUMENTS OF vdm compress]}
images=${2:-100}
vdm=${3:-target/release/vdm}
more=("${@:4}")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
echo "| T | net | with the first bits | whole file | images a second | peak memory, MiB |"
echo "|---|---|---|---|---|---|"
for steps in ${STEPS:-16 32 50 100 250 1000}; do
  /usr/bin/env time -f %M -o "$folder/memory" "$vdm" compress "$model" --count "$images" --timesteps "$steps" --no-verify \
    --force -o "$folder/file.vdmz" --json "${more[@]}" > "$folder/report.json" 2> /dev/null
  python3 - "$steps" "$folder" << 'END'
import json
import sys

steps, folder = sys.argv[1:]
r = json.load(open(f"{folder}/report.json"))
memory = int(open(f"{folder}/memory").read().split()[-1]) // 1024
print(
    f"| {steps} | {r['net_bpd']:.3f} ± {r['net_bpd_stderr']:.3f} | {r['stream_bpd']:.3f} | {r['file_bpd']:.3f} "
    f"| {r['images'] / r['seconds']:.1f} | {memory} |",
    flush=True,
)
END
done
