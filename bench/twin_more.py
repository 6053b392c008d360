"""More cases for bench/pytorch_twin.py, which does the measuring: the starting project's U-Net, the paper's network for
CIFAR-10, and other sizes of the twin's presets.

    python twin_more.py train --preset unet28
    python twin_more.py sample --preset gray28 --batch 1 --peer onnxruntime

The U-Net is a plain PyTorch module of the architecture that crates/vdm/src/nn/unet computes: convolution, normalisation and
SiLU twice a block, the context added between; strided 4x4 convolutions down, nearest neighbours up; attention of four heads
in the middle. Options as for pytorch_twin.py, and --batch, --side, --n-embd, --layers in place of the preset's."""

import argparse
import math
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F

import pytorch_twin as twin


class ContextBlock(nn.Module):
    def __init__(self, c_in, c_out, context, p):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(c_in, c_out, 3, padding=1), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(8, c_out), nn.GroupNorm(8, c_out)
        self.ctx, self.drop = nn.Linear(context, c_out), nn.Dropout(p)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x, ctx):
        h = F.silu(self.norm1(self.conv1(x))) + self.ctx(ctx)[:, :, None, None]
        return self.skip(x) + F.silu(self.norm2(self.conv2(self.drop(h))))


class HeadsAttention(nn.Module):
    def __init__(self, channels, dim, heads):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Conv2d(channels, dim, 1, bias=False) for _ in range(3))
        self.q, self.k, self.v, self.out = (nn.Conv2d(dim, dim, 1) for _ in range(4))
        self.from_q = nn.Conv2d(dim, channels, 1, bias=False)

    def forward(self, x):
        b, _, h, w = x.shape
        maps = (self.q(self.to_q(x)), self.k(self.to_k(x)), self.v(self.to_v(x)))
        q, k, v = (m.reshape(b, self.heads, -1, h * w).transpose(-1, -2) for m in maps)
        y = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(b, -1, h, w)
        return x + self.from_q(self.out(y))


class UNet(nn.Module):
    def __init__(self, channels, n_embd, p=0.1, multiples=(1, 2, 4), dim=64):
        super().__init__()
        self.n_embd, context = n_embd, 4 * n_embd
        self.time0, self.time1 = nn.Linear(n_embd, context), nn.Linear(context, context)
        self.conv_in = nn.Conv2d(channels, n_embd, 7, padding=3)
        after = [m * n_embd for m in multiples]
        levels = list(zip([n_embd, *after], after))
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, (c_in, c_out) in enumerate(levels):
            strided = dict(kernel_size=4, stride=2, padding=1) if i + 1 < len(levels) else dict(kernel_size=3, padding=1)
            blocks = [ContextBlock(c_in, c_in, context, p), ContextBlock(c_in, c_in, context, p)]
            self.down.append(nn.ModuleList([*blocks, nn.Conv2d(c_in, c_out, **strided)]))
        middle = after[-1]
        self.mid1, self.mid2 = ContextBlock(middle, middle, context, 0), ContextBlock(middle, middle, context, 0)
        self.mid_attn = HeadsAttention(middle, dim, 4)
        for c_in, c_out in reversed(levels):
            blocks = [ContextBlock(c_out + c_in, c_out, context, p), ContextBlock(c_out + c_in, c_out, context, p)]
            self.up.append(nn.ModuleList([*blocks, nn.Conv2d(c_out, c_in, 3, padding=1)]))
        self.last = ContextBlock(2 * n_embd, n_embd, context, 0)
        self.conv_out = nn.Conv2d(n_embd, channels, 1)

    def forward(self, z, t, conditioning):
        half = self.n_embd // 2
        f = torch.exp(-math.log(10000) / (half - 1) * torch.arange(half))
        a = 1000 * t[:, None] * f
        ctx = F.silu(self.time1(F.gelu(self.time0(torch.stack([a.sin(), a.cos()], 2).flatten(1)))))
        h = self.conv_in(z)
        hs = [h]
        for block1, block2, resize in self.down:
            h = block1(h, ctx)
            hs.append(h)
            h = block2(h, ctx)
            hs.append(h)
            h = resize(h)
        h = self.mid2(self.mid_attn(self.mid1(h, ctx)), ctx)
        for i, (block1, block2, resize) in enumerate(self.up):
            h = block1(torch.cat([h, hs.pop()], 1), ctx)
            h = block2(torch.cat([h, hs.pop()], 1), ctx)
            h = resize(F.interpolate(h, scale_factor=2) if i + 1 < len(self.up) else h)
        return self.conv_out(self.last(torch.cat([h, hs.pop()], 1), ctx))


def main():
    sizes = argparse.ArgumentParser(add_help=False)
    for name in ["--batch", "--side", "--n-embd", "--layers"]:
        sizes.add_argument(name, type=int)
    given, rest = sizes.parse_known_args()
    score = twin.ScoreUNet
    twin.PRESETS |= {"unet28": (1, 28, 28, 32, 0, 32), "cifar10": (3, 32, 32, 128, 32, 8)}
    for name, (c, h, w, e, l, b) in twin.PRESETS.items():
        twin.PRESETS[name] = (c, given.side or h, given.side or w, given.n_embd or e, given.layers or l, given.batch or b)
    twin.ScoreUNet = lambda c, e, l: score(c, e, l) if l else UNet(c, e)
    sys.argv[1:] = rest
    twin.main()


main()
