#!/usr/bin/env bash
# Sets `vdm bench` against the PyTorch twin and its peers: alternating, two threads each, medians; prints a table of ratios.
#
#     bench/compare.sh [SECONDS [ROUNDS [PEER...]]]     seconds of measuring a side and round, 5 by default; 3 rounds;
#                                                       peers to leave out, such as compile, which compiles for minutes
#
# The peers are the same network in PyTorch (eager, with channels_last, compiled) and, for sampling, in ONNX Runtime. Python
# packages go to a virtual environment in bench/.venv. Nothing else should run on the machine meanwhile.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --workspace --quiet
if [ ! -x bench/.venv/bin/python ]; then
    python3 -m venv bench/.venv
    bench/.venv/bin/pip install --quiet torch numpy onnx onnxruntime onnxscript
fi
exec bench/.venv/bin/python bench/compare.py "${1:-5}" "${2:-3}" "${@:3}"
