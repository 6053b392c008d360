"""The paper's network in PyTorch, with the weights of `vdm export MODEL --layout pytorch -o FILE`.

    vdm export fashion-mnist --layout pytorch -o model.safetensors
    python crates/vdm-python/examples/pytorch_model.py model.safetensors fashion-mnist

Run as a program, it compares eps_hat with that of the package `vdm`.
"""

import json
import math
import sys

import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, c_in, c, groups, eps):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(groups, c_in, eps), nn.GroupNorm(groups, c, eps)
        self.conv1, self.conv2 = nn.Conv2d(c_in, c, 3, padding=1), nn.Conv2d(c, c, 3, padding=1)
        self.cond = nn.Linear(4 * c, c, bias=False)
        self.skip = nn.Conv2d(c_in, c, 1) if c_in != c else nn.Identity()

    def forward(self, x, cond):
        h = self.conv1(F.silu(self.norm1(x))) + self.cond(cond)[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    def __init__(self, c, heads, groups, eps):
        super().__init__()
        self.norm, self.heads = nn.GroupNorm(groups, c, eps), heads
        self.q, self.k, self.v, self.out = (nn.Conv2d(c, c, 1) for _ in range(4))

    def forward(self, x):
        b, c, h, w = x.shape
        n = self.norm(x)
        q, k, v = (m(n).reshape(b, self.heads, c // self.heads, h * w).transpose(2, 3) for m in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(b, c, h, w)
        return x + self.out(y)


class ScoreUNet(nn.Module):
    """eps_hat of z, at the time t: the share of the way from time[0] to time[1] that gamma has gone."""

    def __init__(self, channels, n_embd, n_layer, fourier, conditioning, classes, norm_groups, norm_eps, heads, with_attention, **_):
        super().__init__()
        c, norm = n_embd, (norm_groups, norm_eps)
        self.n_embd, self.fourier, self.scalar = c, fourier, conditioning
        self.dense0, self.dense1 = nn.Linear(c + conditioning, 4 * c), nn.Linear(4 * c, 4 * c)
        if classes:
            self.add_module("class", nn.Embedding(classes + 1, 4 * c))
        self.conv_in = nn.Conv2d(channels * (1 if fourier == "none" else 5), c, 3, padding=1)
        self.down = nn.ModuleList(Block(c, c, *norm) for _ in range(n_layer))
        self.mid1, self.mid2, self.mid_attn = Block(c, c, *norm), Block(c, c, *norm), Attention(c, heads, *norm)
        self.up = nn.ModuleList(Block(2 * c, c, *norm) for _ in range(n_layer + 1))
        attentions = (lambda n: nn.ModuleList(Attention(c, heads, *norm) for _ in range(n))) if with_attention else (lambda n: [])
        self.down_attn, self.up_attn = attentions(n_layer), attentions(n_layer + 1)
        self.norm_out, self.conv_out = nn.GroupNorm(*norm[:1], c, norm[1]), nn.Conv2d(c, channels, 3, padding=1)

    def forward(self, z, t, classes=None):
        half = self.n_embd // 2
        angle = 1000 * t[:, None] * torch.exp(-math.log(1e4) * torch.arange(half) / (half - 1))
        parts = [angle.sin(), angle.cos()] + ([torch.zeros(len(t), 1)] if self.scalar else [])
        cond = self.dense1(F.silu(self.dense0(torch.cat(parts, 1))))
        if hasattr(self, "class"):
            embedding = getattr(self, "class")
            none = torch.full((len(t),), embedding.num_embeddings - 1)
            cond = cond + embedding(none if classes is None else classes)
        cond, x = F.silu(cond), z
        if self.fourier == "paper":
            angles = torch.stack([z * (2**f * 2 * math.pi) for f in (6, 7)], 2).flatten(1, 2)
            x = torch.cat([z, angles.sin(), angles.cos()], 1)
        h = self.conv_in(x)
        skips = [h]
        for i, block in enumerate(self.down):
            h = block(h, cond)
            h = self.down_attn[i](h) if len(self.down_attn) else h
            skips.append(h)
        h = self.mid2(self.mid_attn(self.mid1(h, cond)), cond)
        for i, block in enumerate(self.up):
            h = block(torch.cat([h, skips.pop()], 1), cond)
            h = self.up_attn[i](h) if len(self.up_attn) else h
        return z + self.conv_out(F.silu(self.norm_out(h)))


def load(path):
    """The network, and the two gammas between which its time runs."""
    with safe_open(path, "pt") as file:
        about = file.metadata()
        config = json.loads(about["network"])
        assert config.pop("kind") == "score" and json.loads(about["prediction"]) == "eps", "another network"
        network = ScoreUNet(channels=json.loads(about["shape"])[0], **config)
        network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})
    return network.eval(), json.loads(about["time"])


if __name__ == "__main__":
    import vdm

    model = vdm.load(sys.argv[2])
    network, (start, end) = load(sys.argv[1])
    worst = 0.0
    for gamma in (-12.0, -6.0, -1.0, 4.0):
        z = torch.randn(4, *model.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            theirs = network(z, torch.full((4,), (gamma - start) / (end - start)))
        worst = max(worst, float((theirs - torch.from_numpy(model.eps_hat(z.numpy(), gamma))).abs().max()))
    print(f"largest difference of eps_hat: {worst:.1e}")
    assert worst < 1e-5, "another network"
