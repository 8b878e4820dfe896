"""Five architectures of timm, tiny. timm wants torchvision's names when it is imported, and none of its code."""

import importlib.abc
import importlib.machinery
import sys
import types


class _Anything(type):
    """A class that has every attribute: its name."""

    def __getattr__(cls, name):
        return name if not name.startswith("__") else _missing(name)


class _Names(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers every import of torchvision with a module whose every attribute is a new class."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: _Anything(name, (), {}) if not name.startswith("__") else _missing(name)
        return module

    def exec_module(self, module):
        pass


def _missing(name):
    raise AttributeError(name)


_names = _Names()
if importlib.util.find_spec("torchvision") is None:
    sys.meta_path.insert(0, _names)
import timm  # noqa: E402
from hf import CLASSES, SIZE, pictures  # noqa: E402, F401

if _names in sys.meta_path:
    sys.meta_path.remove(_names)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


def made(name, **more):
    return timm.create_model(name, num_classes=CLASSES, **more)


def build_timm_vit():
    return made("vit_tiny_patch16_224", img_size=SIZE, patch_size=8, embed_dim=32, depth=4, num_heads=4)


def build_timm_resnet18():
    return made("resnet18")


def build_timm_convnext():
    return made("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 16, 32))


def build_timm_effnet():
    return made("test_efficientnet")


def build_timm_mixer():
    return timm.models.mlp_mixer.MlpMixer(CLASSES, img_size=SIZE, patch_size=8, num_blocks=4, embed_dim=32)
