#!/usr/bin/env bash
# Fuzzes the readers of bytes, guided by coverage, and keeps the inputs that are worth keeping.
#
#     scripts/fuzz.sh [SECONDS [TARGET…]]      600 seconds for each of all targets by default
#
# A crash ends the script and leaves its input in fuzz/artifacts/TARGET. Needs a C++ compiler, for libFuzzer.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-600}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(basename -s .rs fuzz/targets/*.rs)
# Inputs longer than this, in bytes, are not kept: the corpora are part of the repository.
most=4096

command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
# The code under test is safe Rust, which needs no sanitizer; so the stable compiler does.
for target in "${targets[@]}"; do
    cargo fuzz build --release --sanitizer none --features libfuzzer "$target"
done
programs=target/$(rustc --print host-tuple)/release

for target in "${targets[@]}"; do
    found=fuzz/found/$target
    mkdir -p "$found" "fuzz/artifacts/$target"
    echo "== $target for $seconds seconds"
    "$programs/$target" "$found" "fuzz/corpus/$target" -artifact_prefix="fuzz/artifacts/$target/" \
        -max_total_time="$seconds" -max_len=16384 -rss_limit_mb=6144 -malloc_limit_mb=4096 -timeout=60 \
        -print_final_stats=1 > "$found.log" 2>&1 || { tail -n 20 "$found.log"; exit 1; }
    grep -E "DONE|stat::(number|peak)" "$found.log"
    # Of what was found, the short files that reach what no kept one reaches.
    find "$found" -type f -size "+${most}c" -delete
    "$programs/$target" -merge=1 "fuzz/corpus/$target" "$found" > "$found.log" 2>&1
    rm -rf "$found"
    # The shortest of them, so that the corpora stay small.
    find "fuzz/corpus/$target" -type f ! -name 'seed-*' -printf '%s %p\n' | sort -n | tail -n +129 | cut -d' ' -f2- | xargs -r rm
    echo "$(find "fuzz/corpus/$target" -type f | wc -l) files kept"
done
