"""A small autoregressive network of pixels to compare the diffusion model with.

    cargo build --release && bench/compare.sh 1 1      # once, for the virtual environment
    bench/.venv/bin/pip install pillow
    bench/.venv/bin/python bench/pixelcnn.py --seconds 1560

A gated PixelCNN (van den Oord et al. 2016, arXiv 1606.05328): two stacks of causal convolutions, one that sees the lines above, one
that sees the pixels to the left and the first stack, so that no pixel above is left out; 6 layers of 32 channels, a softmax
over 256 levels. Its code length is exact, not a bound. It is trained on Fashion-MNIST on one thread for so many seconds of the
processor: AdamW, batches of 16, moving average of 0.998. Prints the bits per dimension
of the averaged weights on 1,000 validation images every 5 minutes, and at the end on all 10,000 test images.
"""

import argparse
import json
import math
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from frechet import idx, is_held_out

EVERY = 300  # processor seconds


class Gated(nn.Module):
    """One layer of both stacks. The first layer must not see the pixel itself."""

    def __init__(self, inputs, channels, first=False):
        super().__init__()
        self.first = first
        self.above = nn.Conv2d(inputs, 2 * channels, (2, 3))
        self.left = nn.Conv2d(inputs, 2 * channels, (1, 2))
        self.between = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    @staticmethod
    def gate(x):
        a, b = x.chunk(2, 1)
        return torch.tanh(a) * torch.sigmoid(b)

    def forward(self, above, left):
        # A line of `above` knows this line of its input and the one before; one further up is passed on to `left`.
        v = self.above(F.pad(above, (1, 1, 1, 0)))
        shifted = F.pad(v, (0, 0, 1, 0))[:, :, :-1]
        padded = F.pad(left, (2, -1, 0, 0)) if self.first else F.pad(left, (1, 0, 0, 0))
        h = self.out(self.gate(self.left(padded) + self.between(shifted)))
        return self.gate(v), h if self.first else left + h


class PixelCNN(nn.Module):
    def __init__(self, channels=32, layers=6):
        super().__init__()
        self.first = Gated(2, channels, first=True)
        self.layers = nn.ModuleList(Gated(channels, channels) for _ in range(layers - 1))
        self.out = nn.Sequential(nn.ReLU(), nn.Conv2d(channels, 2 * channels, 1), nn.ReLU(), nn.Conv2d(2 * channels, 256, 1))

    def forward(self, k):
        """Logits of the levels, (B, 256, H, W), of levels k, (B, 1, H, W)."""
        x = torch.cat([k / 127.5 - 1, (k == 0).float()], 1)
        v, h = self.first(x, x)
        for layer in self.layers:
            v, h = layer(v, h)
        return self.out(h)

    def bits_per_dim(self, k):
        """Of each image, (B,)."""
        nats = F.cross_entropy(self(k.float()), k[:, 0].long(), reduction="none")
        return nats.mean((1, 2)) / math.log(2)


def check(net):
    """No pixel's distribution depends on itself or on later pixels, and it depends on every one before that is near."""
    torch.manual_seed(1)
    a = torch.randint(1, 256, (1, 1, 9, 9)).float()
    found = net(a)
    for place in [0, 40, 79]:
        b = a.clone()
        b.view(-1)[place] = 0
        changed = (net(b) != found).any(1).view(-1)
        assert not changed[: place + 1].any() and changed[place + 1], place
        # In the middle of the image: the three pixels below.
        assert place != 40 or changed[48:51].all()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1560)
    parser.add_argument("--lr", type=float, default=1e-3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.tensor(idx("train-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28))
    held_out = is_held_out(images)
    train, valid = images[~held_out], images[held_out][np.linspace(0, held_out.sum() - 1, 1000).astype(int)]
    net = PixelCNN()
    check(net)
    average = PixelCNN()
    average.load_state_dict(net.state_dict())
    average.requires_grad_(False)
    optimizer = torch.optim.AdamW(net.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01)
    parameters = sum(p.numel() for p in net.parameters())

    def bound(images):
        with torch.no_grad():
            bits = torch.cat([average.bits_per_dim(part) for part in images.split(100)]).numpy()
        return {"bpd": float(bits.mean()), "stderr": float(bits.std(ddof=1) / len(bits) ** 0.5)}

    used, step, due = 0.0, 0, EVERY
    while used < args.seconds:
        start = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1, (step + 1) / 100)
        optimizer.zero_grad(set_to_none=True)
        net.bits_per_dim(train[torch.randint(len(train), (16,))]).mean().backward()
        optimizer.step()
        torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in net.parameters()], 0.002)
        step += 1
        used += time.process_time() - start
        if used >= due:
            due += EVERY
            print(json.dumps({"seconds": used, "step": step, "split": "validation"} | bound(valid)), flush=True)
    test = torch.tensor(idx("t10k-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28))
    print(json.dumps({"seconds": used, "step": step, "split": "test", "parameters": parameters} | bound(test)), flush=True)


main()
