#!/usr/bin/env python3
"""Converts published gates of Fast KVzip (arXiv 2601.17668), a .pt file, to the safetensors file that
--compression-gate-path takes.

    tools/convert_fastkvzip.py q4_dim16_sink16.pt gates.safetensors

A .pt file is a zip archive with a pickle in it, and a pickle may run any code. This one is read by an unpickler that knows
how to build tensors and dictionaries, ignores numpy's values, which the published files carry as notes, and refuses
everything else. Needs Python alone.
"""

import collections
import io
import json
import math
import pickle
import struct
import sys
import zipfile


def widen(data):
    """bf16 to f32: the upper half of each."""
    wide = bytearray(2 * len(data))
    wide[2::4], wide[3::4] = data[0::2], data[1::2]
    return bytes(wide)


def repack(code):
    size = struct.calcsize("<" + code)
    return lambda data: struct.pack(f"<{len(data) // size}f", *struct.unpack(f"<{len(data) // size}{code}", data))


# torch's storages: bytes of an element, and what makes them f32.
STORAGES = {"FloatStorage": (4, bytes), "DoubleStorage": (8, repack("d")), "HalfStorage": (2, repack("e")),
            "BFloat16Storage": (2, widen), "LongStorage": (8, repack("q")), "IntStorage": (4, repack("i"))}
TENSORS = ("q_proj.weight", "q_proj.bias", "k_proj.weight", "q_norm.weight", "k_norm.weight", "k_base", "b")


class Ignored:
    """Stands for a value that is not looked at."""

    def __init__(self, *_args, **_named):
        pass

    def __setstate__(self, _state):
        pass


class StorageType:
    def __init__(self, name):
        self.name = name


class Tensor:
    """Row-major f32."""

    def __init__(self, shape, data):
        self.shape, self.data = list(shape), data


def rebuild_tensor(storage, offset, shape, strides, *_):
    count = math.prod(shape)
    if offset < 0 or min(shape, default=0) < 0 or 4 * (offset + count) > len(storage):
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    for i, (size, step) in enumerate(zip(shape, strides, strict=True)):
        if size > 1 and step != math.prod(shape[i + 1:]):
            raise pickle.UnpicklingError("a tensor is no contiguous part of its storage")
    return Tensor(shape, storage[4 * offset:4 * (offset + count)])


class TensorUnpickler(pickle.Unpickler):
    GLOBALS = {
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("_codecs", "encode"): Ignored,  # bytes of numpy's values
    }

    def __init__(self, archive, root):
        super().__init__(io.BytesIO(archive.read(root + "data.pkl")), encoding="utf-8")
        self.archive, self.root = archive, root

    def find_class(self, module, name):
        if module == "torch" and name in STORAGES:
            return StorageType(name)
        if module.split(".")[0] == "numpy":
            return Ignored
        try:
            return self.GLOBALS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a tensor: refused") from None

    def persistent_load(self, key):
        kind, storage_type, name, _device, _count = key
        if kind != "storage" or not isinstance(storage_type, StorageType):
            raise pickle.UnpicklingError("not a tensor's storage")
        size, to_f32 = STORAGES[storage_type.name]
        data = self.archive.read(f"{self.root}data/{name}")
        if len(data) % size != 0:
            raise pickle.UnpicklingError("a storage ends inside an element")
        return to_f32(data)


def load(path):
    with zipfile.ZipFile(path) as archive:
        pickles = [n for n in archive.namelist() if n.endswith("data.pkl")]
        if len(pickles) != 1:
            raise SystemExit(f"{path}: not a file of torch.save")
        return TensorUnpickler(archive, pickles[0][:-len("data.pkl")]).load()


def save(path, tensors, metadata):
    header, data = {"__metadata__": metadata}, []
    offset = 0
    for name, tensor in tensors.items():
        end = offset + len(tensor.data)
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [offset, end]}
        data.append(tensor.data)
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(data))


def main(source, target):
    module = load(source)
    layers = module.get("module") if isinstance(module, dict) else None
    if not layers or not all(isinstance(layer, dict) and all(isinstance(layer.get(t), Tensor) for t in TENSORS) for layer in layers):
        raise SystemExit(f"{source}: no gates of Fast KVzip: a list of layers, each with {', '.join(TENSORS)}")
    tensors = {f"layers.{i}.{t}": layer[t] for i, layer in enumerate(layers) for t in TENSORS}
    save(target, tensors, {"format": "tangram-fastkvzip-1"})


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
