#!/usr/bin/env python3
"""Rebuild digits.bin.gz from scikit-learn's copy of the digits dataset.

Usage:  python3 make_digits.py [path/to/digits.csv.gz]

Without an argument the CSV is looked up inside the installed scikit-learn.
Only the standard library is needed when the path is given.

The layout of the output is described in README.md beside this script.
"""

import gzip
import pathlib
import sys

IMAGES = 1797
PIXELS = 64
LEVELS = 17
CLASSES = 10


def find_csv() -> pathlib.Path:
    if len(sys.argv) > 1:
        return pathlib.Path(sys.argv[1])
    import sklearn.datasets

    return pathlib.Path(sklearn.datasets.__file__).parent / "data" / "digits.csv.gz"


def main() -> None:
    records = bytearray()
    with gzip.open(find_csv(), "rt", encoding="ascii") as lines:
        for number, line in enumerate(lines, start=1):
            values = [int(float(text)) for text in line.split(",")]
            *pixels, label = values
            if len(pixels) != PIXELS or not 0 <= label < CLASSES:
                sys.exit(f"line {number}: expected {PIXELS} pixels and a label 0..9")
            if not all(0 <= pixel < LEVELS for pixel in pixels):
                sys.exit(f"line {number}: expected pixels 0..{LEVELS - 1}")
            records.append(label)
            records.extend(pixels)
    if len(records) != IMAGES * (1 + PIXELS):
        sys.exit(f"expected {IMAGES} images, found {len(records) // (1 + PIXELS)}")

    # mtime=0 keeps the output the same from run to run with the same zlib.
    target = pathlib.Path(__file__).with_name("digits.bin.gz")
    target.write_bytes(gzip.compress(bytes(records), compresslevel=9, mtime=0))
    print(f"{target}: {len(records)} bytes, {target.stat().st_size} compressed")


if __name__ == "__main__":
    main()
