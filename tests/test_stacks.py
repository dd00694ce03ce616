"""Tests of which stack is there and how to get what is missing."""

from __future__ import annotations

import sys

import pytest

from mmmetaformer import stacks
from mmmetaformer.stacks import STACKS, choose_stack, explain_missing


@pytest.fixture
def installed(monkeypatch):
    """Sets what is installed."""
    monkeypatch.delenv("STACK", raising=False)

    def apply(*names):
        versions = dict.fromkeys(names, "1")
        monkeypatch.setattr(stacks, "installed_version", versions.get)

    return apply


@pytest.mark.parametrize(
    "names, python, chosen",
    [
        ((), (3, 11), "openmmlab"),
        ((), (3, 13), "onedl"),
        (("mmengine", "mmdet"), (3, 13), "openmmlab"),
        (("onedl-mmengine",), (3, 11), "onedl"),
        (("onedl-mmengine", "mmcv", "mmdet"), (3, 11), "openmmlab"),
    ],
)
def test_what_is_installed_is_chosen_else_what_works(installed, monkeypatch, names, python, chosen):
    installed(*names)
    monkeypatch.setattr(sys, "version_info", python)
    assert choose_stack().name == chosen


def test_named_stack(installed, monkeypatch):
    installed("mmengine")
    monkeypatch.setenv("STACK", "onedl")
    assert choose_stack().name == "onedl"
    monkeypatch.setenv("STACK", "mmcv")
    with pytest.raises(ValueError, match="STACK=mmcv: expected one of openmmlab, onedl"):
        choose_stack()


def test_tested_versions():
    assert STACKS["openmmlab"].version_of("mmcv") == "2.1.0"
    with pytest.raises(ValueError, match="onedl.txt does not name mmcv"):
        STACKS["onedl"].version_of("mmcv")


@pytest.mark.parametrize(
    "names, missing, message",
    [
        (
            (),
            "mmengine",
            "x cannot be used: mmengine is not installed; get it with "
            "pip install 'mmmetaformer[openmmlab]' or pip install 'mmmetaformer[onedl]'",
        ),
        (
            ("onedl-mmengine",),
            "mmseg",
            "x cannot be used: mmseg is not installed; get it with "
            "pip install 'mmmetaformer[onedl]'",
        ),
        (
            ("mmengine", "mmcv-lite"),
            "mmcv._ext",
            "x cannot be used: mmcv is installed without compiled operators (mmcv-lite); get it "
            "with python -m mmmetaformer.build_mmcv",
        ),
        (("mmengine",), "mmdet.nothing", None),
        ((), "numpy", None),
    ],
)
def test_missing_package_is_one_sentence(installed, names, missing, message):
    installed(*names)
    assert explain_missing(ModuleNotFoundError(name=missing), "x") == message
