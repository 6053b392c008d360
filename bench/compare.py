"""The table of bench/compare.sh. A round measures every side once, so that a machine that slows down for a while slows all of
them; the table has the medians of the rounds' medians. A peer that does not run here is named below the table."""

import json
import statistics
import subprocess
import sys

SECONDS, ROUNDS, WITHOUT = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
PEERS = {"train": ["eager", "channels-last", "compile"], "sample": ["eager", "channels-last", "compile", "onnxruntime"]}
VDM = ["target/release/vdm", "bench"]
PRESETS = ["rgb32", "gray28", "digits8", "unet28"]


def twin(preset):
    """The U-Net's twin is ours; the others are the score network's."""
    return [sys.executable, "bench/twin_more.py" if preset == "unet28" else "bench/pytorch_twin.py"]


def measure(command):
    """The median in milliseconds and the peak memory in MiB of one side; none where it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        return None
    run = json.loads(done.stdout.strip().splitlines()[-1])
    return run["median_ms"], run["peak_rss_mib"]


def main():
    failed = []
    print("| case | vdm ms | " + " | ".join(PEERS["sample"]) + " | ratio to the strongest | MiB: vdm, least of the peers |")
    print("|---|" + "---|" * (len(PEERS["sample"]) + 3))
    for what, peers in PEERS.items():
        peers = [peer for peer in peers if peer not in WITHOUT]
        for preset in PRESETS:
            common = [what, "--preset", preset, "--threads", "2", "--seconds", SECONDS]
            sides = {"vdm": [*VDM, *common, "--json"]}
            sides |= {peer: [*twin(preset), *common, "--peer", peer] for peer in peers}
            runs = {side: [] for side in sides}
            for _ in range(ROUNDS):
                for side, command in sides.items():
                    found = measure(command) if runs[side] is not None else None
                    runs[side] = [*runs[side], found] if found else None
            failed += [f"{what} {preset}: {side}" for side, found in runs.items() if found is None]
            ms = {side: statistics.median(run[0] for run in found) for side, found in runs.items() if found}
            mib = {side: max(run[1] for run in found) for side, found in runs.items() if found}
            strongest = min((peer for peer in ms if peer != "vdm"), key=ms.get)
            cells = [f"**{ms[p]:.0f}**" if p == strongest else f"{ms[p]:.0f}" if p in ms else "" for p in PEERS["sample"]]
            least = min(mib[p] for p in mib if p != "vdm")
            print(f"| {what} {preset} | {ms['vdm']:.0f} | {' | '.join(cells)} | {ms['vdm'] / ms[strongest]:.2f} "
                  f"| {mib['vdm']:.0f}, {least:.0f} |", flush=True)
    for side in failed:
        print(f"{side} did not run")


main()
