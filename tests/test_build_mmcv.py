"""Tests of building mmcv; tests/test_setup_scripts.py runs the steps with a fake pip."""

from __future__ import annotations

import pytest

from mmmetaformer import build_mmcv


@pytest.mark.parametrize(
    "line, left",
    [
        ("args['cxx'] = ['-std=c++17']", "args['cxx'] = []"),
        ("args['cxx'] = ['-Wall', '-std=c++17']", "args['cxx'] = ['-Wall', ]"),
        ("args['nvcc'] += [\"-std=c++14\"]", "args['nvcc'] += []"),
        ("'cxx': ['/std:c++17'],", "'cxx': ['/std:c++17'],"),
    ],
)
def test_the_standard_is_left_to_torch(line, left):
    assert build_mmcv.let_torch_choose_standard(line) == left


def test_no_torch_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(build_mmcv, "TORCH", "raise ImportError")
    assert build_mmcv.main([]) == 1
    assert capsys.readouterr().err == (
        "error: torch cannot be imported; install it first: pip install torch torchvision\n"
    )


def test_folder_that_cannot_be_written_is_one_sentence(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MMMETAFORMER_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(build_mmcv, "WORKS", "raise ImportError")
    monkeypatch.setattr(build_mmcv, "TORCH", 'print(\'["2.11.0", "cpu"]\')')
    assert build_mmcv.main([]) == 1
    assert "cannot be written; set MMMETAFORMER_CACHE to another folder" in capsys.readouterr().err
