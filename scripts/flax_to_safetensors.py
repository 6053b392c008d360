#!/usr/bin/env python3
"""Turns a checkpoint of Flax, such as those of google-research/vdm, into a safetensors file that `vdm import` reads.

    pip install msgpack numpy safetensors
    python3 scripts/flax_to_safetensors.py checkpoint_10000 weights.safetensors [TREE]
    vdm import weights.safetensors --map official --preset cifar10 -o cifar10.safetensors

TREE names the part of the checkpoint with the parameters: `ema_params` by default, the averaged weights, or `params`. Names are
joined by `/`. Nothing in the file is executed: MessagePack holds data only. Arrays are `ExtType` 1 there, a row of shape, type
and bytes (flax/serialization.py); arrays that Flax has cut into pieces are put together again.
"""

import math
import sys

import msgpack
import numpy as np
from safetensors.numpy import save_file


def array(code, data):
    """The value of a MessagePack extension: an array, a complex number or a scalar."""
    if code in (1, 3):
        shape, kind, raw = msgpack.unpackb(data, raw=True)
        return np.frombuffer(raw, dtype=np.dtype(kind.decode())).reshape(shape)
    return msgpack.ExtType(code, data)


def whole(tree):
    """The tree with arrays that were cut into pieces put together."""
    if not isinstance(tree, dict):
        return tree
    if "__msgpack_chunked_array__" in tree:
        pieces = tree["chunks"]
        flat = np.concatenate([pieces[key] for key in sorted(pieces, key=int)])
        shape = [int(tree["shape"][key]) for key in sorted(tree["shape"], key=int)]
        assert flat.size == math.prod(shape)
        return flat.reshape(shape)
    return {key: whole(value) for key, value in tree.items()}


def leaves(tree, name=""):
    """All arrays of floating-point numbers, by name."""
    for key, value in tree.items():
        path = f"{name}/{key}" if name else key
        if isinstance(value, dict):
            yield from leaves(value, path)
        elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
            yield path, np.ascontiguousarray(value, dtype=np.float32)


def main():
    source, target = sys.argv[1:3]
    wanted = sys.argv[3] if len(sys.argv) > 3 else "ema_params"
    with open(source, "rb") as file:
        checkpoint = whole(msgpack.unpack(file, ext_hook=array, raw=False, strict_map_key=False))
    if wanted not in checkpoint:
        sys.exit(f"{source} has no {wanted!r}; it has {', '.join(map(str, checkpoint))}")
    tensors = dict(leaves(checkpoint[wanted]))
    save_file(tensors, target)
    print(f"{target}: {sum(t.size for t in tensors.values())} numbers in {len(tensors)} tensors")


main()
