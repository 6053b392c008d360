"""Samples, bits and a compressed file of the shipped digits model: `python crates/vdm-python/examples/digits.py`."""

import numpy as np

import vdm

m = vdm.load("digits")
print(m, "-", m.about["bound"])

# Samples, and how many bits the model gives them: an image and its negative.
images = m.sample(64, seed=1)
bits = m.bits_per_dim(images, repeats=10)
negative = m.bits_per_dim((m.levels - 1) - images, repeats=10)
print(f"samples {bits.mean():.2f} bits per dimension, their negatives {negative.mean():.2f}")
best, worst = np.argmin(bits), np.argmax(bits)
for name, which in [("likeliest", best), ("least likely", worst)]:
    print(f"the {name} sample, number {which}, {bits[which]:.2f} bits per dimension:")
    for line in images[which, 0]:
        print("  " + "".join(" .:-=+*#%@"[int(level) * 9 // (m.levels - 1)] for level in line))

# Without loss, near the bound.
data = m.compress(images, steps=50)
assert (m.decompress(data) == images).all()
print(f"64 images in {len(data)} bytes: {8 * len(data) / images.size:.2f} bits per dimension, NumPy has 8")

# The noise schedule that it learned.
t = np.linspace(0, 1, 5)
print("log SNR at t = 0, 1/4, …, 1:", np.round(-m.schedule.gamma(t), 2))
