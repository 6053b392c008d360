#!/usr/bin/env bash
# Sets `vdm bench` against the PyTorch twin: alternating, two threads each, medians; prints a table of ratios.
#
#     bench/compare.sh [SECONDS]      seconds of measuring a side and case, 20 by default
#
# Python packages go to a virtual environment in bench/.venv. Nothing else should run on the machine meanwhile.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-20}

cargo build --release --quiet
if [ ! -x bench/.venv/bin/python ]; then
    python3 -m venv bench/.venv
    bench/.venv/bin/pip install --quiet torch numpy
fi

field() { python3 -c 'import json,sys; print(json.loads(sys.argv[1])[sys.argv[2]])' "$1" "$2"; }

printf '| case | vdm ms | PyTorch ms | ratio | vdm MiB | PyTorch MiB | ratio |\n|---|---|---|---|---|---|---|\n'
for what in train sample; do
    for preset in rgb32 gray28 digits8; do
        ours=$(target/release/vdm bench "$what" --preset "$preset" --threads 2 --seconds "$seconds" --json)
        theirs=$(bench/.venv/bin/python bench/pytorch_twin.py "$what" --preset "$preset" --threads 2 --seconds "$seconds")
        python3 - "$what $preset" "$(field "$ours" median_ms)" "$(field "$theirs" median_ms)" \
            "$(field "$ours" peak_rss_mib)" "$(field "$theirs" peak_rss_mib)" <<'PY'
import sys
case, a, b, m, n = sys.argv[1], *map(float, sys.argv[2:])
print(f"| {case} | {a:.0f} | {b:.0f} | {a / b:.2f} | {m:.0f} | {n:.0f} | {m / n:.2f} |")
PY
    done
done
