"""tools/benchmark.py: its files, and one sentence for what is wrong."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import pytest

from benchmarking.report import Growth
from mmmetaformer.engine.launch import run_cli

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/shapes/mask-rcnn_poolformer-s12_fpn_shapes.py")


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_tool", ROOT / "tools/benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def call(tool, monkeypatch, tmp_path) -> Callable[..., None]:
    def run(*args: str) -> None:
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *args, "--device", "cpu"])
        monkeypatch.chdir(tmp_path)
        run_cli(tool.main)

    return run


def test_files(call, tmp_path, capsys):
    call("poolformer_s12", "--implementations", "timm", "plain", "fused@bfloat16", "--sizes", "32",
         "48x64", "--rounds", "2", "--runs", "1", "--profile", "--out", "out",
         "--max-exponent", "9")  # fmt: skip
    report = json.loads((tmp_path / "out/benchmark.json").read_text())
    assert report["command"].startswith("python tools/benchmark.py poolformer_s12")
    assert report["started"] <= report["finished"] and report["machine"]["device"] == "cpu"
    assert report["settings"]["rounds"] == 2
    names = ["timm@float32", "plain@float32", "fused@bfloat16"]
    keys = ["height", "width", "work"]
    assert [[case[key] for key in keys] for case in report["cases"]] == [
        [32, 32, "inference"], [32, 32, "training"], [48, 64, "inference"], [48, 64, "training"],
    ]  # fmt: skip
    for case in report["cases"]:
        assert [one["label"] for one in case["implementations"]] == names
        baseline = case["implementations"][0]["times"]
        for one in case["implementations"]:
            assert len(one["times"]) == 2
            assert one["milliseconds"]["median"] == pytest.approx(sum(one["times"]) / 2)
            ratios = [a / b for a, b in zip(baseline, one["times"], strict=True)]
            assert one["speedup"]["median"] == pytest.approx(sum(ratios) / 2)
            assert (one["saved_bytes"] is not None) == (case["work"] == "training")
    first, last = report["cases"][1]["implementations"], report["cases"][3]["implementations"]
    assert last[0]["saved_bytes"] == pytest.approx(3 * first[0]["saved_bytes"], rel=0.02)
    assert [one["label"] for one in report["exponents"]] == 2 * names
    assert cv2.imread(str(tmp_path / "out/benchmark.png")).std() > 10
    profiles = list((tmp_path / "out").glob("profile_poolformer_s12_*.txt"))
    assert len(profiles) == 12 and all("aten::" in path.read_text() for path in profiles)
    assert capsys.readouterr().out.count("| timm@float32 ") == 4


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["poolformer_s13"], "unknown network 'poolformer_s13': expected one of mmmetaformer.l"),
        (["no.py"], "config 'no.py' does not exist"),
        (["poolformer_s12", "--implementations", "tim"], "unknown implementation 'tim', expected"),
        (["poolformer_s12", "--implementations", "timm@half"], "unknown dtype 'half', expected"),
        (["ffnet_1", "--implementations", "timm"], "timm has no ffnet_1: leave timm out"),
        (["ffnet_1", "--implementations", "fused"], "fused has no ffnet_1: leave fused out"),
        (["ffnet_1", "--implementations", "deploy"], "deploy@float32 is for prediction: add"),
        (["poolformer_s12", "--implementations", "triton"], "triton@float32 needs a GPU: leave"),
        ([CONFIG, "--implementations", "timm"], ".py is a config: its backbone can be plain"),
        (["poolformer_s12", "--sizes", "16x64"], "--sizes 16x64: each side must be at least 32"),
        (["poolformer_s12", "--sizes", "64", "64x64"], "--sizes: one is named twice"),
        (["poolformer_s12", "--max-exponent", "1"], "--max-exponent needs --sizes of different"),
        (["poolformer_s12", "--sizes", "big"], "expected HEIGHTxWIDTH such as 800x1344"),
        (["poolformer_s12", "--dtype", "half"], "invalid choice: 'half'"),
        (["poolformer_s12", "--rounds", "0"], "expected a positive integer, got '0'"),
        (["poolformer_s12", "--out", "file"], "--out file: there is a file of that name"),
    ],
)  # fmt: skip
def test_one_clear_sentence(call, args, message, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stopped:
        call(*args)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_old_name_of_the_option(call, tmp_path, capsys):
    call("poolformer_s12", "--contenders", "plain", "--works", "inference", "--sizes", "32",
         "--rounds", "1", "--runs", "1", "--out", "out")  # fmt: skip
    assert "warning: --contenders is called --implementations now\n" in capsys.readouterr().err
    (case,) = json.loads((tmp_path / "out/benchmark.json").read_text())["cases"]
    assert [one["label"] for one in case["implementations"]] == ["plain@float32"]


def test_implementations_unless_given(tool, capsys):
    assert tool._usual("poolformer_s12") == ["timm", "mmpretrain", "plain", "fused"]
    assert capsys.readouterr().out == ""
    assert tool._usual("ffnet_1") == ["plain"]
    assert capsys.readouterr().out.splitlines() == [
        "timm has no ffnet_1", "mmpretrain has no ffnet_1", "fused has no ffnet_1",
    ]  # fmt: skip
    assert tool._usual("config.py") == ["plain", "fused"]


def test_largest_exponent(tool, capsys):
    def line(implementation: str, exponent: float) -> Growth:
        name = f"{implementation}@float32"
        return Growth("x", "training", name, implementation, ((32, 32),), (1.0,), exponent)

    tool._check_exponents([line("timm", 1.5), line("fused", 1.04)], 1.05)
    assert "x, training, fused@float32: pixels^1.040" in capsys.readouterr().out
    with pytest.raises(
        SystemExit, match="the time grows faster than pixels.1.05: plain@float32 in train"
    ):
        tool._check_exponents([line("plain", 1.06), line("fused", 1.04)], 1.05)
