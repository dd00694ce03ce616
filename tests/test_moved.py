"""Old import paths of what is in tools/ now."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from mmmetaformer import _moved
from mmmetaformer.backbones import MetaFormerBlock

ENGINE = ("drawing", "results", "whole_model")
MOVED = {
    "mmmetaformer.zoo": "model_zoo",
    "mmmetaformer.benchmark": "benchmarking",
    "mmmetaformer.instruments": "instruments",
    **{f"mmmetaformer.engine.{name}": f"tool_support.{name}" for name in ENGINE},
}
PARTS = {
    "mmmetaformer.zoo.checks": "model_zoo.checks",
    "mmmetaformer.benchmark.networks": "benchmarking.networks",
    "mmmetaformer.instruments.recording": "instruments.recording",
}


@pytest.fixture(autouse=True)
def forget_old_names(monkeypatch):
    """Each test imports the old names as if for the first time."""
    for name in list(sys.modules):
        if any(f"{name}.".startswith(f"{old}.") for old in MOVED):
            monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize(("old", "new"), [*MOVED.items(), *PARTS.items()])
def test_old_names_warn_and_are_the_moved_modules(old, new):
    with pytest.warns(DeprecationWarning, match=f"import {new.partition('.')[0]}") as caught:
        module = importlib.import_module(old)
    assert module is importlib.import_module(new)
    assert len([one for one in caught if "has moved to tools/" in str(one.message)]) == 1


@pytest.mark.parametrize("old", ["block", "hierarchical"])
def test_modules_that_moved_within_the_package(old):
    name = f"mmmetaformer.backbones.{old}"
    sys.modules.pop(name, None)
    with pytest.warns(DeprecationWarning, match=f"{name} has moved to .*metaformer: import it"):
        module = importlib.import_module(name)
    assert module.MetaFormerBlock is MetaFormerBlock
    assert module.__spec__.name == "mmmetaformer.backbones.metaformer"


@pytest.mark.parametrize("module", ["mmmetaformer.layers", "mmmetaformer.layers.downsampling"])
def test_a_layer_that_moved(module):
    with pytest.warns(DeprecationWarning, match="ConvDownsampling has moved"):
        found = importlib.import_module(module).ConvDownsampling
    assert found.__module__ == "mmmetaformer.backbones.metaformer"
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        importlib.import_module(module).Nonsense  # noqa: B018


def test_the_old_name_of_a_class():
    with pytest.warns(DeprecationWarning, match="import instruments"):
        from mmmetaformer.instruments import Answers, KeyActivations
    assert Answers is KeyActivations


def test_from_a_folder_of_the_users_own(tmp_path):
    """Where tools/ is not on the path; the warning points at the user's line."""
    (tmp_path / "mine.py").write_text(
        "from mmmetaformer.instruments import activation_sparsity\n"
        "from mmmetaformer.engine.results import as_json\n"
        "print(activation_sparsity.__module__, as_json.__module__)\n"
    )
    result = subprocess.run(
        [sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.stdout == "instruments.activation_sparsity tool_support.results\n", result.stderr
    message = "mine.py:1: DeprecationWarning: mmmetaformer.instruments has moved to tools/instrum"
    assert message in result.stderr


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_beside_an_installed_wheel_there_are_no_tools(old, new, tmp_path, monkeypatch):
    monkeypatch.setattr(_moved, "TOOLS", tmp_path / "tools")
    message = f"{old} has moved out of the package: it is tools/{new.replace('.', '/')} in the repo"
    with pytest.raises(ImportError, match=message):
        importlib.import_module(old)
    assert old not in sys.modules


@pytest.mark.parametrize("name", sorted(_moved.MOVED_NAMES))
def test_old_names_of_classes_and_functions_warn(name):
    module, _, attribute = name.rpartition(".")
    with pytest.warns(DeprecationWarning, match=f"{name} has moved to"):
        found = getattr(importlib.import_module(module), attribute)
    assert found is getattr(importlib.import_module(_moved.MOVED_NAMES[name]), attribute)
