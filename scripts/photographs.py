#!/usr/bin/env python3
"""Makes a data set of 32x32 colour patches of photographs from Debian's wallpaper packages.

    pip install pillow && python3 scripts/photographs.py data/photographs

Downloads the packages (`apt-get download`, no root needed), takes the photographs among their pictures, shrinks each by
a whole number of at least 3, so that what JPEG did to the originals averages out, and cuts patches. The split is by
photograph: no photograph gives patches to two splits. The training patches are taken at four scales, half a patch
apart, and half of them are mirrored; those of validation and test are taken at one scale and do not overlap. The
test photographs are saved whole, shrunk, in FOLDER-whole, for `vdm compress`.

Licences, from the packages' copyright files: lomiri-wallpapers-16.04 CC-BY-4.0, CC-BY-SA-4.0 and CC0-1.0;
mate-backgrounds GPL-2+; plasma-workspace-wallpapers LGPL-3 and GPL-2+.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

from PIL import Image, ImageOps

SIDE = 32
SCALES = (3, 4, 6, 8)  # the shrinking factors of the training patches
SCALE = 4  # that of validation and test
PHOTOGRAPHS = {
    "lomiri-wallpapers-16.04": (
        "usr/share/backgrounds/{}.jpg",
        "Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Picture_0B_by_freespace "
        "Picture_1A_by_freespace Wine_by_Jakkub_Mede aitzgorri_by_Aitzol_Berasategi free_by_Peter_Nerlich "
        "friends_by_Aitzol_Berasategi greentock_by_Peter_Nerlich life_by_Aitzol_Berasategi "
        "picosdeeuropa_by_Aitzol_Berasategi seeding_by_Clements_Engelhardt sunset_by_Aitzol_Berasategi",
    ),
    "mate-backgrounds": (
        "usr/share/backgrounds/mate/nature/{}.jpg",
        "Aqua Blinds Dune FreshFlower Garden GreenMeadow LadyBird RainDrops Storm TwoWings Wood YellowFlower",
    ),
    "plasma-workspace-wallpapers": (
        "usr/share/wallpapers/{}/contents/images/2560x1600.jpg",
        "BytheWater ColdRipple ColorfulCups DarkestHour EveningGlow FallenLeaf Grey Kite OneStandsOut Path summer_1am",
    ),
}
TEST = {"aitzgorri_by_Aitzol_Berasategi", "Wine_by_Jakkub_Mede", "Garden", "Dune", "EveningGlow", "ColorfulCups"}
VALID = {"life_by_Aitzol_Berasategi", "LadyBird", "BytheWater"}


def photographs(folder):
    """Yields (name, image) of every photograph, each once; `folder` is for the packages."""
    seen = set()
    for package, (pattern, names) in PHOTOGRAPHS.items():
        subprocess.run(["apt-get", "download", "-q", package], cwd=folder, check=True, stdout=sys.stderr)
        for archive in pathlib.Path(folder).glob(f"{package}_*.deb"):
            subprocess.run(["dpkg-deb", "-x", archive.name, "."], cwd=folder, check=True)
        for name in names.split():
            path = pathlib.Path(folder) / pattern.format(name)
            if name not in seen and path.exists():
                seen.add(name)
                yield name, Image.open(path).convert("RGB")
    missing = {name for _, names in PHOTOGRAPHS.values() for name in names.split()} - seen
    if missing:
        sys.exit(f"the packages of this release lack {', '.join(sorted(missing))}")


def patches(image, apart):
    """Yields the patches of an image whose corners are `apart` pixels apart, leaving narrow edges out."""
    for top in range(0, image.height - SIDE + 1, apart):
        for left in range(0, image.width - SIDE + 1, apart):
            yield image.crop((left, top, left + SIDE, top + SIDE))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, help="the folder to make, with train, valid and test in it")
    out = parser.parse_args().out
    whole = out.with_name(out.name + "-whole")
    for folder in (out / "train", out / "valid", out / "test", whole):
        folder.mkdir(parents=True)
    counts = {"train": 0, "valid": 0, "test": 0}
    with tempfile.TemporaryDirectory() as folder:
        for name, image in photographs(folder):
            split = "test" if name in TEST else "valid" if name in VALID else "train"
            # Originals of more than 3,000 pixels have soft pixels: all start from about 2,000 at most.
            own = max(1, round(max(image.size) / 2560))
            for scale in SCALES if split == "train" else (SCALE,):
                shrunk = image.reduce(own * scale)
                for i, patch in enumerate(patches(shrunk, SIDE // 2 if split == "train" else SIDE)):
                    patch = ImageOps.mirror(patch) if split == "train" and i % 2 else patch
                    patch.save(out / split / f"{name}-{scale}-{i:05}.png", compress_level=1)
                    counts[split] += 1
                if split == "test":
                    shrunk.save(whole / f"{name}.png")
    print(", ".join(f"{split}: {count} patches" for split, count in counts.items()))


if __name__ == "__main__":
    main()
