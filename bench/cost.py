"""How the time of a step grows with the work: the tables and the figure of docs/speed.md.

    cargo build --release && bench/compare.sh 1 1      # once, for the virtual environment
    bench/.venv/bin/pip install matplotlib
    bench/.venv/bin/python bench/cost.py growth [FIGURE.svg]     batch, channels, side and layers, 1 and 2 threads
    bench/.venv/bin/python bench/cost.py latency                 one image at a time, beside the peers
    bench/.venv/bin/python bench/cost.py cifar10                 the paper's network for CIFAR-10, beside the peers

Nothing else should run on the machine. `growth` changes one size of a network of 32 channels and 4 layers for 8 images of
3x32x32."""

import json
import subprocess
import sys

VDM = ["target/release/vdm", "bench"]
GROWTH = {
    "batch": ("--batch", [1, 2, 4, 8, 16, 32, 64]),
    "channels": ("--n-embd", [32, 64, 128, 256]),
    "side, 1 image": ("--side", [8, 16, 32, 64, 128]),
    "layers": ("--layers", [1, 2, 4, 8, 16]),
}
BASE = {"--batch": 8, "--n-embd": 32, "--side": 32, "--layers": 4}


def measure(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command}: {done.stderr[-400:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def growth(figure):
    curves = {}
    for name, (flag, values) in GROWTH.items():
        print(f"\n| {name} | " + " | ".join(map(str, values)) + " |\n|---|" + "---|" * len(values))
        for what in ["train", "sample"]:
            for threads in [1, 2]:
                row = []
                for value in values:
                    # At 128 pixels a side the attention alone takes seconds an image.
                    own = {flag: value} | ({"--batch": 1} if "1 image" in name else {})
                    sizes = [part for pair in (BASE | own).items() for part in pair]
                    run = measure([*VDM, what, "--preset", "rgb32", "--threads", threads, "--seconds", 1, "--json", *sizes])
                    row.append(run["median_ms"])
                label = f"{what}, {threads} thread{'s' * (threads > 1)}"
                curves[name, label] = (values, row)
                print(f"| {label} | " + " | ".join(f"{ms:.3g}" for ms in row) + " |", flush=True)
    if figure:
        plot(curves, figure)


def plot(curves, figure):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "vdm"
    import matplotlib.pyplot as plt

    panels, axes = plt.subplots(1, 4, figsize=(12, 3.2), sharey=True)
    for axis, name in zip(axes, GROWTH):
        for (of, label), (values, row) in curves.items():
            if of == name:
                axis.plot(values, row, marker="o", markersize=3, label=label)
        axis.set(xscale="log", yscale="log", xlabel=name)
        axis.set_xticks(GROWTH[name][1], [str(v) for v in GROWTH[name][1]])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("milliseconds a step")
    axes[0].legend(fontsize=7)
    panels.tight_layout()
    panels.savefig(figure, metadata={"Date": None})


def beside(what, preset, extra, peers, seconds, rounds=2):
    sides = {"vdm": [*VDM, what, "--json"]} | {
        peer: [sys.executable, "bench/twin_more.py", what, "--peer", peer] for peer in peers
    }
    runs = {name: [] for name in sides}
    for _ in range(rounds):
        for name, command in sides.items():
            runs[name].append(measure([*command, "--preset", preset, "--threads", 2, "--seconds", seconds, *extra]))
    ms = {name: min(run["median_ms"] for run in found) for name, found in runs.items()}
    mib = {name: max(run["peak_rss_mib"] for run in found) for name, found in runs.items()}
    cells = " | ".join(f"{ms[name]:.3g} ms, {mib[name]} MiB" for name in sides)
    ratio = ms["vdm"] / min(ms[peer] for peer in peers)
    print(f"| {what} {preset} | {cells} | {ratio:.2f} |", flush=True)


def main():
    what, *more = sys.argv[1:] or [None]
    if any(not name.endswith(".svg") or name.startswith("-") for name in more):
        sys.exit(__doc__)
    if what == "growth":
        growth(more[0] if more else None)
    elif what == "latency":
        peers = ["eager", "channels-last", "onnxruntime"]
        print("| one image | vdm | " + " | ".join(peers) + " | ratio |\n|---|---|---|---|---|---|")
        for preset in ["rgb32", "gray28", "digits8", "unet28"]:
            beside("sample", preset, ["--batch", 1], peers, 2)
    elif what == "cifar10":
        peers = ["eager", "channels-last"]
        print("| | vdm | " + " | ".join(peers) + " | ratio |\n|---|---|---|---|---|")
        beside("train", "cifar10", [], peers, 1, 1)
        beside("sample", "cifar10", [], peers, 1, 1)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
