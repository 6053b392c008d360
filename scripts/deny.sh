#!/usr/bin/env bash
# Licences, known weaknesses, sources and duplicates of the dependencies, as deny.toml says.
#
#     scripts/deny.sh [CHECK…]      advisories bans licenses sources; all by default
#
# The check `advisories` fetches the list of RustSec over the network.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
cargo deny --workspace check "$@"
