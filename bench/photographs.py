"""Rate over time of lossless codecs on photographs: the table and the plot of docs/compression.md.

    cargo build --release && bench/compare.sh 1 1      # once, for the virtual environment
    bench/.venv/bin/pip install matplotlib pillow pyoxipng
    bench/.venv/bin/python bench/photographs.py MODEL FILES [--steps 8,16,32,50] [--figure FIGURE.svg]

MODEL is a model of colour images, FILES are PNG files (`scripts/photographs.py` makes some). Needs cwebp, dwebp, cjxl, djxl, zstd and
xz (Debian: webp, libjxl-tools, zstd, xz-utils). Sizes are those of whole files, in bits per dimension: one for each image, and for vdm
one for all. Seconds are those of the wall clock per megapixel, starts of the programs included; vdm takes all cores, the
others one. What was decoded is compared with the original.
"""

import argparse
import io
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import oxipng
from PIL import Image

VDM = os.environ.get("VDM", "target/release/vdm")


def timed(f):
    start = time.perf_counter()
    found = f()
    return found, time.perf_counter() - start


def run(*command):
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def by_png(level):
    def code(source, pixels, folder):
        plain = io.BytesIO()
        Image.open(source).save(plain, "PNG", compress_level=1)
        found, coding = timed(lambda: oxipng.optimize_from_memory(plain.getvalue(), level=level))
        back, decoding = timed(lambda: Image.open(io.BytesIO(found)).tobytes())
        assert back == pixels
        return len(found), coding, decoding

    return code


def by_program(coder, decoder, ending):
    def code(source, pixels, folder):
        coded, back = folder / f"a.{ending}", folder / "back.png"
        _, coding = timed(lambda: run(*[part.format(source=source, coded=coded) for part in coder]))
        _, decoding = timed(lambda: run(*[part.format(coded=coded, back=back) for part in decoder]))
        assert Image.open(back).convert("RGB").tobytes() == pixels
        return coded.stat().st_size, coding, decoding

    return code


def by_pixels(coder, decoder):
    def code(source, pixels, folder):
        raw, coded = folder / "raw", folder / "coded"
        raw.write_bytes(pixels)
        done, coding = timed(lambda: subprocess.run([*coder, raw], check=True, capture_output=True).stdout)
        coded.write_bytes(done)
        back, decoding = timed(lambda: subprocess.run([*decoder, coded], check=True, capture_output=True).stdout)
        assert back == pixels
        return len(done), coding, decoding

    return code


CODECS = {
    "PNG (oxipng -o 2)": by_png(2),
    "PNG (oxipng -o 6)": by_png(6),
    **{f"WebP -z {z}": by_program(["cwebp", "-quiet", "-lossless", "-z", str(z), "{source}", "-o", "{coded}"],
                                  ["dwebp", "-quiet", "{coded}", "-o", "{back}"], "webp") for z in (0, 6, 9)},
    **{f"JPEG XL -e {e}": by_program(["cjxl", "-d", "0", "-e", str(e), "--num_threads=0", "{source}", "{coded}"],
                                     ["djxl", "--num_threads=0", "{coded}", "{back}"], "jxl") for e in (1, 3, 7, 9)},
    "zstd -19": by_pixels(["zstd", "-19", "-c"], ["zstd", "-d", "-c"]),
    "xz -9": by_pixels(["xz", "-9e", "-c"], ["xz", "-d", "-c", "--format=xz"]),
}  # fmt: skip


def by_vdm(model, files, steps, folder):
    coded, back = folder / "all.vdmz", folder / "back"
    shutil.rmtree(back, ignore_errors=True)
    command = [VDM, "compress", model, *files, "--timesteps", steps, "--no-verify", "--no-fallback", "--force", "-o", coded]
    _, coding = timed(lambda: run(*command))
    _, decoding = timed(lambda: run(VDM, "decompress", coded, "--model", model, "-o", back))
    for file in files:
        assert Image.open(back / file.name).convert("RGB").tobytes() == Image.open(file).tobytes(), file
    return coded.stat().st_size, coding, decoding


def plot(rows, figure):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "vdm"
    import matplotlib.pyplot as plt

    panel, axis = plt.subplots(figsize=(7, 4.2))
    families = {}
    for name, (bpd, coding, _) in rows.items():
        families.setdefault(name.split(" ")[0], []).append((coding, bpd, name))
    for name, points in families.items():
        points.sort()
        axis.plot([p[0] for p in points], [p[1] for p in points], marker="o", label="JPEG XL" if name == "JPEG" else name)
    axis.set(xscale="log", xlabel="seconds to code a megapixel", ylabel="bits per dimension, whole files")
    axis.grid(alpha=0.3)
    axis.legend()
    panel.tight_layout()
    panel.savefig(figure, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--steps", default="8,16,32,50")
    parser.add_argument("--figure")
    args = parser.parse_args()
    images = {file: Image.open(file) for file in args.files}
    assert all(image.mode == "RGB" for image in images.values())
    megapixels = sum(image.width * image.height for image in images.values()) / 1e6
    rows = {}

    def add(name, size, coding, decoding):
        rows[name] = (8 * size / (3e6 * megapixels), coding / megapixels, decoding / megapixels)
        print(f"| {name} | {rows[name][0]:.3f} | {rows[name][1]:.3g} | {rows[name][2]:.3g} |", flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for name, code in CODECS.items():
            found = [code(file, image.tobytes(), folder) for file, image in images.items()]
            add(name, *map(sum, zip(*found)))
        for steps in filter(None, args.steps.split(",")):
            add(f"vdm T = {steps}", *by_vdm(args.model, args.files, steps, folder))
    print(f"{len(images)} images, {megapixels:.3f} megapixels")
    if args.figure:
        plot(rows, args.figure)


main()
