#!/usr/bin/env bash
# Builds the wheel, installs it into a virtual environment, and tests it against the program.
#
#   scripts/python.sh [FOLDER OF THE ENVIRONMENT]
set -euo pipefail
cd "$(dirname "$0")/.."
environment=$(realpath -m "${1:-target/python}")
python3 -m venv "$environment"
"$environment/bin/pip" install --quiet 'maturin>=1.7,<2' numpy pytest
cargo build --release --workspace
(cd crates/vdm-python && "$environment/bin/maturin" build --release -i "$environment/bin/python" --out "$environment/wheels")
"$environment/bin/pip" install --quiet --force-reinstall --no-deps "$environment"/wheels/vdm-*.whl
VDM=target/release/vdm "$environment/bin/python" -m pytest -q crates/vdm-python/tests
"$environment/bin/python" crates/vdm-python/examples/digits.py
