#!/usr/bin/env bash
# Remakes a number of the documentation and says whether it is what it should be.
#
#   scripts/reproduce.sh            lists the names
#   scripts/reproduce.sh NAME       remakes it; the exit status is 1 if it is off by more than its error
#   scripts/reproduce.sh all-quick  remakes all that take less than ten minutes, but for the ablations
#   scripts/reproduce.sh ablations  remakes these
#
# Values are in bits per dimension. Results are the same bits on every machine, so no more than rounding is allowed; their
# standard errors over images are in docs/. VDM names another program than target/release/vdm.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
vdm=$(realpath "${VDM:-target/release/vdm}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# name | expected | error allowed | minutes | what gives the JSON object | its key
table() {
  cat << 'END'
digits-shipped | 1.8445 | 0.0001 | 1 | "$vdm" eval digits --repeats 20 --json | bpd
digits-T100-posterior | 1.9299 | 0.0001 | 1 | "$vdm" eval digits --repeats 20 --timesteps 100 --reverse-variance posterior --json | bpd
digits-code-T16 | 1.9131 | 0.0001 | 1 | "$vdm" compress digits --timesteps 16 --json --no-verify -o "$work/a.vdmz" | net_bpd
digits-code-T100 | 1.8604 | 0.0001 | 1 | "$vdm" compress digits --timesteps 100 --json --no-verify -o "$work/a.vdmz" | net_bpd
digits-training | 1.8445 | 0.0001 | 4 | "$vdm" train --out "$work/run" > "$work/log" 2>&1; cat "$work/run/evaluation.json" | bpd
fashion-mnist-T50 | 2.9821 | 0.0002 | 2 | "$vdm" eval fashion-mnist --without-classes --images 500 --repeats 4 --timesteps 50 --json | bpd
fashion-mnist-500 | 2.7118 | 0.0002 | 2 | "$vdm" eval fashion-mnist --without-classes --images 500 --repeats 4 --json | bpd
fashion-mnist-code-T16 | 2.9685 | 0.0001 | 2 | "$vdm" compress fashion-mnist --count 100 --timesteps 16 --json --no-verify -o "$work/a.vdmz" | net_bpd
fashion-mnist-shipped | 2.7613 | 0.001 | 15 | "$vdm" eval fashion-mnist --without-classes --repeats 2 --json | bpd
fashion-mnist-shipped-by-class | 2.7495 | 0.001 | 15 | "$vdm" eval fashion-mnist --repeats 2 --json | bpd
END
  # The rows of the table of ablations, seed 0, in their order.
  local row=0 expected
  for expected in 2.0140 1.9934 2.2507 1.9584 2.0079 2.0457 1.9992 2.0832 3.3803 2.1048 2.0542 2.0264; do
    echo "ablation-$row | $expected | 0.0001 | 2 | python3 \"\$root/scripts/studies.py\" ablations --vdm \"\$vdm\" --rows $row --seeds 1 --json | bpd"
    row=$((row + 1))
  done
}

remake() {
  local name=$1 row
  row=$(table | grep "^$name |") || { echo "no such name: $name; scripts/reproduce.sh lists them" >&2; return 2; }
  IFS='|' read -r _ expected allowed _ command key <<< "$row"
  local found
  found=$(cd "$work" && eval "$command" 2> "$work/errors" | python3 -c "import json,sys; print(json.load(sys.stdin)['${key// /}'])") || {
    cat "$work/errors" >&2
    return 2
  }
  rm -rf "$work"/a.vdmz "$work"/run
  python3 - "$name" "$found" "$expected" "$allowed" << 'END'
import sys

name, found, expected, allowed = sys.argv[1], *map(float, sys.argv[2:])
off = abs(found - expected)
# The last digit of the expected value is rounded.
good = off <= allowed
print(f"{name:32} {found:.4f}, expected {expected:g}: {'as documented' if good else f'OFF BY {off:.4f}, more than {allowed:g}'}")
sys.exit(0 if good else 1)
END
}

case ${1:-} in
  "") table | awk -F'|' '{ printf "%-32s expected %s, some %s min\n", $1, $2, $4 }' ;;
  all-quick | ablations)
    failed=0
    wanted=$([ "$1" = ablations ] && echo '/^ablation/' || echo '$4 < 10 && !/^ablation/')
    for name in $(table | awk -F' *[|] *' "$wanted { print \$1 }"); do remake "$name" || failed=1; done
    exit "$failed"
    ;;
  *) remake "$1" ;;
esac
