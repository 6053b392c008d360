#!/usr/bin/env python3
"""Sizes of the first N images of an IDX file under general codecs, in bits per dimension.

    python3 bench/codecs.py FILE [N]        FILE: IDX images, gzipped or not; N: 256 by default

Image codecs (PNG by oxipng, WebP and JPEG XL without loss) code every image as a file of its own and are summed; zstd
and xz code all pixels at once. Needs Pillow and pyoxipng (pip), cwebp, cjxl, zstd and xz (Debian: webp, libjxl-tools,
zstd, xz-utils); a codec that is not there is left out, and said so.
"""

import gzip
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def read_idx(path, count):
    data = Path(path).read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    n, height, width = (int.from_bytes(data[i : i + 4], "big") for i in (4, 8, 12))
    n = min(n, count)
    size = height * width
    return [data[16 + i * size : 16 + (i + 1) * size] for i in range(n)], height, width


def main():
    images, height, width = read_idx(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 256)
    dims = len(images) * height * width
    found = {}
    missing = []

    from PIL import Image

    def png(pixels):
        out = io.BytesIO()
        Image.frombytes("L", (width, height), pixels).save(out, "PNG", optimize=True)
        return out.getvalue()

    try:
        import oxipng

        raw = [oxipng.optimize_from_memory(png(p), level=6, strip=oxipng.StripChunks.all()) for p in images]
        found["PNG (oxipng -o 6)"] = sum(map(len, raw))
    except ImportError:
        missing.append("pyoxipng")

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "a.png"), Path(folder, "a.out")
        commands = {
            "WebP lossless": ["cwebp", "-quiet", "-lossless", "-z", "9", str(source), "-o", str(target)],
            "JPEG XL lossless": ["cjxl", "--quiet", "-d", "0", "-e", "9", str(source), str(target)],
        }
        for name, command in commands.items():
            if not shutil.which(command[0]):
                missing.append(command[0])
                continue
            total = 0
            for pixels in images:
                source.write_bytes(png(pixels))
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                total += target.stat().st_size
            found[name] = total
        whole = Path(folder, "all")
        whole.write_bytes(b"".join(images))
        for name, command in {"zstd -19": ["zstd", "-19", "-c"], "xz -9": ["xz", "-9e", "-c"]}.items():
            if not shutil.which(command[0]):
                missing.append(command[0])
                continue
            found[name] = len(subprocess.run([*command, str(whole)], check=True, capture_output=True).stdout)

    print(f"{len(images)} images of {height}x{width}")
    for name, size in found.items():
        print(f"{name:20} {size:9} bytes  {8 * size / dims:.4f} bits per dimension")
    for name in missing:
        print(f"{name} is not installed: left out")


if __name__ == "__main__":
    main()
