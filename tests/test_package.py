"""The package as seen from outside: imports, registry, public names."""

import subprocess
import sys

import pytest
import torch

import mmmetaformer


def run_python(code: str, cwd) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=cwd, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip().splitlines()[-1]


def test_import_is_light(tmp_path):
    code = (
        "import sys, mmmetaformer; "
        "print([m for m in ('torch', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain') if m in sys.modules])"
    )
    assert run_python(code, tmp_path) == "[]"


def test_import_costs_nothing_over_mmengine(tmp_path):
    """Where an OpenMMLab project has started anyway: four small modules, and Python's own."""
    code = (
        "import sys, mmengine.registry; before = set(sys.modules); import mmmetaformer; "
        "new = set(sys.modules) - before; "
        "print(sorted(m for m in new if m.partition('.')[0] not in sys.stdlib_module_names))"
    )
    own = ["mmmetaformer", *(f"mmmetaformer.{name}" for name in ("_moved", "_scopes", "version"))]
    assert run_python(code, tmp_path) == str(own)


def test_building_a_backbone_imports_neither_mmdet_nor_mmseg(tmp_path):
    code = (
        "import sys, mmmetaformer; mmmetaformer.create_backbone('poolformer_s12'); "
        "print([m for m in ('mmdet', 'mmseg', 'mmpretrain') if m in sys.modules])"
    )
    assert run_python(code, tmp_path) == "[]"


@pytest.mark.parametrize("scope", ["mmdet", "mmseg"])
def test_a_foreign_config_needs_no_custom_imports(scope, tmp_path):
    """From a directory of the user's own, with nothing imported but the host package."""
    (tmp_path / "mine.py").write_text(
        "backbone = dict(type='mmmetaformer.PoolFormer', arch='s12', out_indices=(1, 2, 3))"
    )
    code = (
        "from mmengine.config import Config; from mmengine.registry import init_default_scope; "
        f"from {scope}.registry import MODELS; init_default_scope({scope!r}); "
        "backbone = MODELS.build(Config.fromfile('mine.py').backbone); "
        "print(backbone.out_strides)"
    )
    assert run_python(code, tmp_path) == "(8, 16, 32)"


def test_public_names():
    assert set(mmmetaformer.__all__) <= set(dir(mmmetaformer))
    assert all(getattr(mmmetaformer, name) is not None for name in mmmetaformer.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = mmmetaformer.no_such_name


def test_user_mixer_by_dotted_path(tmp_path, monkeypatch):
    """A mixer from outside of the package, without registration."""
    (tmp_path / "my_mixers.py").write_text(
        "from torch import nn\n"
        "class Roll(nn.Module):\n"
        "    def __init__(self, dim, shift=1):\n"
        "        super().__init__()\n"
        "        self.shift = shift\n"
        "    def forward(self, x):\n"
        "        return x.roll(self.shift, dims=-1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mixer = dict(type="my_mixers.Roll", shift=2)
    backbone = mmmetaformer.create_backbone(
        "poolformer_s12", token_mixers=["pooling", mixer, "identity", mixer]
    )
    assert [type(stage[0].token_mixer).__name__ for stage in backbone.stages] == [
        "Pooling", "Roll", "Identity", "Roll",
    ]  # fmt: skip
    assert backbone.stages[3][1].token_mixer.shift == 2


def test_a_user_mixer_that_lacks_a_dependency_says_so(tmp_path, monkeypatch):
    (tmp_path / "broken_mixers.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="no_such_dependency"):
        mmmetaformer.create_backbone("poolformer_s12", token_mixers="broken_mixers.Mixer")
    with pytest.raises(ValueError, match="unknown token mixer type 'no_such_module.Mixer'"):
        mmmetaformer.create_backbone("poolformer_s12", token_mixers="no_such_module.Mixer")


def test_a_user_mixer_by_a_name_of_its_own():
    """Registered as any module of OpenMMLab, found under that name in a config."""

    @mmmetaformer.TOKEN_MIXERS.register_module(name="flip_for_this_test")
    class Flip(torch.nn.Module):
        def __init__(self, dim: int) -> None:
            super().__init__()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flip(-1)

    backbone = mmmetaformer.PoolFormer("s12", token_mixers="flip_for_this_test", out_indices=(0,))
    assert isinstance(backbone.stages[0][0].token_mixer, Flip)


def test_a_user_mixer_that_changes_the_shape_is_named():
    class Squeeze(torch.nn.Module):
        def __init__(self, dim: int) -> None:
            super().__init__()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3), keepdim=True)  # would broadcast

    backbone = mmmetaformer.PoolFormer("s12", token_mixers=Squeeze, out_indices=(0,))
    with pytest.raises(ValueError, match=r"Squeeze mapped \[1, 64, 8, 8\] to \[1, 64, 1, 1\]"):
        backbone(torch.rand(1, 3, 32, 32))


def test_a_dotted_path_that_is_wrong_says_where(tmp_path, monkeypatch):
    (tmp_path / "mixers_of_mine.py").write_text("class Roll: ...")
    monkeypatch.syspath_prepend(tmp_path)
    for name, message in (
        ("mixers_of_mine.Rol", "'mixers_of_mine' is there, and has no class 'Rol'"),
        ("mixers_of_yours.Roll", "no module 'mixers_of_yours' in the current folder"),
    ):
        with pytest.raises(ValueError, match=message):
            mmmetaformer.PoolFormer("s12", token_mixers=name)


WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import mmmetaformer
"""


def test_weights_and_networks_need_no_mmcv(tmp_path):
    code = WITHOUT.format(packages=("mmcv", "mmdet", "mmseg", "mmpretrain")) + (
        "found = []\n"
        "for arch in ('poolformer_s12', 'ffnet_1', 'convmixer_768_32', 'caformer_s18'):\n"
        "    backbone = mmmetaformer.create_backbone(arch)\n"
        "    names = {f'backbone.{n}': t for n, t in backbone.state_dict().items()}\n"
        "    found.append(len(mmmetaformer.convert_state_dict(names, backbone)) == len(names))\n"
        "print(found)"
    )
    assert run_python(code, tmp_path) == "[True, True, True, True]"


def test_tables_need_no_openmmlab(tmp_path):
    packages = ("mmengine", "mmcv", "mmdet", "mmseg", "mmpretrain", "torchvision")
    code = WITHOUT.format(packages=packages) + (
        "print(mmmetaformer.list_archs('poolformer_s*'), "
        "len(mmmetaformer.list_checkpoints()) > 50, mmmetaformer.convert_state_dict.__name__)"
    )
    expected = "['poolformer_s12', 'poolformer_s24', 'poolformer_s36'] True convert_state_dict"
    assert run_python(code, tmp_path) == expected


@pytest.mark.parametrize("name", ["create_backbone", "PoolFormer", "MODELS"])
def test_a_missing_package_is_one_sentence(name, tmp_path):
    code = WITHOUT.format(packages=("mmengine",)) + (
        f"try:\n    mmmetaformer.{name}\nexcept ImportError as error:\n    print(error)"
    )
    message = run_python(code, tmp_path)
    assert message.startswith(
        f"mmmetaformer.{name} cannot be used: mmengine is not installed; get it with pip install"
    )
