"""Configs as the tests want them: merged and plain, or built."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import ModuleType

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from torch import nn


@pytest.fixture(scope="module", autouse=True)
def find_bases_once():
    """mmengine reads the whole model index of mmdet or mmseg for each of their base files, which
    takes half a second per config."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, "_get_cfg_path", staticmethod(functools.cache(Config._get_cfg_path)))
        yield


@pytest.fixture
def load(root) -> Callable[[str], Config]:
    """The merged config without the scopes that mmengine notes down for inherited dicts."""

    def plain(node):
        if isinstance(node, dict):
            return {key: plain(value) for key, value in node.items() if key != "_scope_"}
        return [plain(value) for value in node] if isinstance(node, list) else node

    return lambda name: Config(plain(Config.fromfile(root / "configs" / name).to_dict()))


@pytest.fixture
def assert_settings() -> Callable[[Config, dict], None]:
    """Compare values by their dotted paths, in which numbers index lists."""

    def get(cfg, path: str):
        for key in path.split("."):
            cfg = cfg[int(key)] if key.isdigit() else cfg[key]
        return cfg

    def check(cfg: Config, settings: dict) -> None:
        found = {}
        for path, expected in settings.items():
            value = get(cfg, path)
            found[path] = list(value) if isinstance(expected, list) else value
        assert found == settings

    return check


@pytest.fixture
def enter() -> Callable[[Config], ModuleType]:
    """The registries that a config is for, its scope having become the default; it is put back."""
    before = dict(DefaultScope._instance_dict)

    def registries(cfg: Config) -> ModuleType:
        DefaultScope._instance_dict.clear()
        init_default_scope(cfg.default_scope)
        return importlib.import_module(f"{cfg.default_scope}.registry")

    yield registries
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(before)


@pytest.fixture
def build(root, enter) -> Callable[[str], tuple[Config, nn.Module]]:
    """A model from a config, without its pretrained weights."""

    def make(name: str):
        cfg = Config.fromfile(root / "configs" / name)
        cfg.model.backbone.pop("init_cfg", None)
        return cfg, enter(cfg).MODELS.build(cfg.model)

    return make
