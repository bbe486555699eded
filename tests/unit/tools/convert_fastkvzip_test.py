"""The converter of Fast KVzip's gates reads what torch.save writes of tensors, and runs nothing else."""

import collections
import io
import json
import pathlib
import pickle
import struct
import sys
import tempfile
import types
import unittest
import zipfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[3] / "tools"))
import convert_fastkvzip  # noqa: E402


def fake_module(name, **members):
    module = types.ModuleType(name)
    for key, value in members.items():
        if isinstance(value, type) or callable(value):
            value.__module__, value.__qualname__, value.__name__ = name, key, key
        setattr(module, key, value)
    return module


def rebuild(*_):
    """Stands for torch._utils._rebuild_tensor_v2, by name."""


TORCH = fake_module("torch", **{name: type(name, (), {}) for name in convert_fastkvzip.STORAGES})
TORCH_UTILS = fake_module("torch._utils", _rebuild_tensor_v2=rebuild)


class Storage:
    def __init__(self, kind, name):
        self.kind, self.name = kind, name


class SavedTensor:
    """Pickles as a tensor of torch does."""

    def __init__(self, kind, name, offset, shape, strides):
        self.args = (Storage(kind, name), offset, shape, strides, False, collections.OrderedDict())

    def __reduce__(self):
        return TORCH_UTILS._rebuild_tensor_v2, self.args


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        if isinstance(value, Storage):
            return "storage", getattr(TORCH, value.kind), value.name, "cpu", 0
        return None


class ConvertFastKvzip(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        for module in (TORCH, TORCH_UTILS):
            self.assertNotIn(module.__name__, sys.modules)
            sys.modules[module.__name__] = module
            self.addCleanup(sys.modules.pop, module.__name__)

    def path(self, name):
        return str(pathlib.Path(self.folder.name) / name)

    def write(self, value, storages):
        buffer = io.BytesIO()
        Pickler(buffer, 2).dump(value)
        with zipfile.ZipFile(self.path("gate.pt"), "w") as archive:
            archive.writestr("gate/data.pkl", buffer.getvalue())
            for name, data in storages.items():
                archive.writestr(f"gate/data/{name}", data)

    def convert(self):
        convert_fastkvzip.main(self.path("gate.pt"), self.path("out"))
        data = pathlib.Path(self.path("out")).read_bytes()
        size, = struct.unpack("<Q", data[:8])
        header, values = json.loads(data[8:8 + size]), {}
        self.assertEqual({"format": "tangram-fastkvzip-1"}, header.pop("__metadata__"))
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            part = data[8 + size + begin:8 + size + end]
            values[name] = (entry["shape"], struct.unpack(f"<{len(part) // 4}f", part))
        return values

    def layer(self, **changes):
        layer = {name: SavedTensor("FloatStorage", "0", 1, (2,), (1,)) for name in convert_fastkvzip.TENSORS}
        return layer | changes

    FOUR = {"0": struct.pack("<4f", 1, 2, 3, 4)}

    def test_tensors_of_every_type(self):
        layer = self.layer(**{
            "q_proj.weight": SavedTensor("BFloat16Storage", "1", 0, (2, 1), (1, 7)),
            "q_proj.bias": SavedTensor("HalfStorage", "2", 0, (1,), (1,)),
            "k_base": SavedTensor("DoubleStorage", "3", 1, (1, 1, 1, 1), (9, 9, 9, 1))})
        self.write({"module": [layer, self.layer()], "loss": 0.5},
                   self.FOUR | {"1": b"\x80\x3f\x00\xc0", "2": struct.pack("<e", 0.25), "3": struct.pack("<2d", 0, 9)})
        values = self.convert()
        self.assertEqual(2 * len(convert_fastkvzip.TENSORS), len(values))
        self.assertEqual(([2], (2, 3)), values["layers.1.b"])
        self.assertEqual(([2, 1], (1, -2)), values["layers.0.q_proj.weight"])
        self.assertEqual(([1], (0.25,)), values["layers.0.q_proj.bias"])
        self.assertEqual(([1, 1, 1, 1], (9,)), values["layers.0.k_base"])

    def test_code_is_refused(self):
        ran = pathlib.Path(self.path("ran"))

        class Hostile:
            def __reduce__(self):
                return pathlib.Path.touch, (ran,)

        for value in (Hostile(), eval, {"module": [self.layer(b=Hostile())]}):
            self.write(value, self.FOUR)
            with self.assertRaises(pickle.UnpicklingError):
                self.convert()
        self.assertFalse(ran.exists())

    def test_tensors_that_lie_are_refused(self):
        for tensor in (SavedTensor("FloatStorage", "0", 3, (2,), (1,)), SavedTensor("FloatStorage", "0", -1, (2,), (1,)),
                       SavedTensor("FloatStorage", "0", 0, (2, 2), (1, 2)),
                       SavedTensor("FloatStorage", "0", 0, (1 << 40,), (1,))):
            self.write({"module": [self.layer(b=tensor)]}, self.FOUR)
            with self.assertRaises(pickle.UnpicklingError):
                self.convert()

    def test_other_files_are_named(self):
        for value in ({"module": []}, {"module": [{"b": 1}]}, [1], {"module": [self.layer(b=[1])]}):
            self.write(value, self.FOUR)
            with self.assertRaisesRegex(SystemExit, "no gates"):
                self.convert()


if __name__ == "__main__":
    unittest.main()
