#!/usr/bin/env bash
# Sets `vdm bench` against the PyTorch twin: alternating, two threads each, medians; prints a table of ratios.
#
#     bench/compare.sh [SECONDS [ROUNDS]]     seconds of measuring a side and round, 5 by default; 3 rounds
#
# A round measures one side and then the other; the table has the medians of the rounds' medians, so that a machine that
# slows down for a while slows both. Python packages go to a virtual environment in bench/.venv. Nothing else should run
# on the machine meanwhile.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."
seconds=${1:-5}
rounds=${2:-3}

cargo build --release --workspace --quiet
if [ ! -x bench/.venv/bin/python ]; then
    python3 -m venv bench/.venv
    bench/.venv/bin/pip install --quiet torch numpy
fi

printf '| case | vdm ms | PyTorch ms | ratio | vdm MiB | PyTorch MiB | ratio |\n|---|---|---|---|---|---|---|\n'
for what in train sample; do
    for preset in rgb32 gray28 digits8; do
        measured=$(for _ in $(seq "$rounds"); do
            target/release/vdm bench "$what" --preset "$preset" --threads 2 --seconds "$seconds" --json
            bench/.venv/bin/python bench/pytorch_twin.py "$what" --preset "$preset" --threads 2 --seconds "$seconds"
        done)
        python3 - "$what $preset" "$measured" <<'PY'
import json, statistics, sys
sides = [json.loads(line) for line in sys.argv[2].splitlines()]
ours, theirs = sides[::2], sides[1::2]
ms = [statistics.median(run["median_ms"] for run in side) for side in (ours, theirs)]
mib = [max(run["peak_rss_mib"] for run in side) for side in (ours, theirs)]
print(f"| {sys.argv[1]} | {ms[0]:.0f} | {ms[1]:.0f} | {ms[0] / ms[1]:.2f} | {mib[0]} | {mib[1]} | {mib[0] / mib[1]:.2f} |")
PY
    done
done
