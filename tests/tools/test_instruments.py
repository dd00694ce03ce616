"""The three instruments from the command line, on two small images."""

from __future__ import annotations

import csv
import json
import runpy
import subprocess
import sys

import mmcv
import numpy as np
import pytest
import torch

from mmmetaformer import create_backbone
from mmmetaformer.engine.errors import UserError
from mmmetaformer.weights import WeightsError

TOOLS = ("effective_receptive_field", "coefficient_maps", "activation_sparsity")


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, seed in (("a.png", 0), ("b.jpg", 1)):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 56, 3), np.uint8)
        mmcv.imwrite(pixels, str(folder / name))
    return folder


@pytest.fixture
def tool(root, monkeypatch, images, tmp_path):
    """Run the main function of a tool in this process; returns the folder of its results."""

    def run(name: str, *args: str):
        out = tmp_path / "results" / name
        line = [name, "--device", "cpu", *args, "--images", str(images), "--out", str(out)]
        monkeypatch.setattr(sys, "argv", line)
        runpy.run_path(str(root / "tools" / f"{name}.py"))["main"]()
        return out

    return run


def read_json(path):
    return json.loads(path.read_text())


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def colours(path):
    """Size of a picture, and how many colours it has."""
    pixels = mmcv.imread(path)
    return pixels.shape[:2], len(np.unique(pixels.reshape(-1, 3), axis=0))


def test_effective_receptive_field(tool, capsys):
    out = tool(TOOLS[0], "poolformer_s12", "other=identityformer_s12", "--size", "64x96",
               "--stages", "0", "2", "--shares", "0.5", "0.9")  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == [
        f"{TOOLS[0]}.{suffix}" for suffix in ("csv", "json", "png")
    ]
    printed = capsys.readouterr().out
    assert "poolformer_s12: RANDOM weights (seed 0)" in printed
    table = [line for line in printed.splitlines() if line.startswith("| ")]
    models = [line.split("|")[1].strip() for line in (table[0], *table[2:])]
    assert models == ["model", *["poolformer_s12"] * 2, *["other"] * 2]
    rows = read_csv(out / f"{TOOLS[0]}.csv")
    expected = [
        (model, stage, stride, share)
        for model in ("poolformer_s12", "other")
        for stage, stride in (("0", "4"), ("2", "16"))
        for share in ("0.5", "0.9")
    ]
    found = [(row["model"], row["stage"], row["stride"], row["share"]) for row in rows]
    assert found == expected
    for row in rows:
        area = int(row["rows"]) * int(row["columns"])
        assert float(row["area_ratio"]) == pytest.approx(area / (64 * 96))
        assert 0 < float(row["area_ratio"]) <= float(row["area_ratio_of_log"]) <= 1
    report = read_json(out / f"{TOOLS[0]}.json")
    assert report["size"] == [64, 96] and len(report["images"]) == 2
    assert [model["weights"] for model in report["models"]] == [None, None]
    assert report["models"][1]["areas"][0]["area_ratio"] == float(rows[4]["area_ratio"])
    (height, width), count = colours(out / f"{TOOLS[0]}.png")
    assert 400 < height < 1200 and 400 < width < 1200 and count > 200


def test_coefficient_maps(tool, capsys):
    out = tool(TOOLS[1], "poolformer_s12", "ffnet_1", "--size", "64x64", "--top", "3",
               "--blocks", "0.0", "2.-1")  # fmt: skip
    pictures = sorted(path.name for path in out.glob("*.png"))
    assert pictures == [
        "ffnet_1_0_a_channel.png", "ffnet_1_0_a_token.png",
        "ffnet_1_1_b_channel.png", "ffnet_1_1_b_token.png",
        "poolformer_s12_0_a_channel.png", "poolformer_s12_1_b_channel.png",
    ]  # fmt: skip
    for name in pictures:
        (height, width), count = colours(out / name)
        assert 400 < height < 900 and 800 < width < 1300 and count > 1000
    assert "poolformer_s12, token mixer of block 2.5: Pooling is not" in capsys.readouterr().out
    poolformer, ffnet = read_json(out / f"{TOOLS[1]}.json")["models"]
    token, channel = poolformer["images"][0]["mixers"][:2]
    assert not token["has_coefficients"] and token["mixer"] == "Pooling"
    assert token["why_not"].startswith("Pooling is not a MetaMixer") and "keys" not in token
    assert channel["has_coefficients"] and channel["num_keys"] == 256
    assert [len(image["mixers"]) for image in ffnet["images"]] == [4, 4]
    for mixer in ffnet["images"][1]["mixers"]:
        side = dict({0: 16, 2: 4})[mixer["stage"]]
        assert mixer["map_size"] == [side, side] and len(mixer["keys"]) == 3
        means = [key["mean_activity"] for key in mixer["keys"]]
        assert means == sorted(means, reverse=True) and means[2] > 0
        for key in mixer["keys"]:
            row, column = key["position"]
            assert key["pixel"] == [int((row + 0.5) * 64 / side), int((column + 0.5) * 64 / side)]
            assert 0 <= key["key"] < mixer["num_keys"] and key["mean"] <= key["max"]


def test_the_old_name_of_the_branches(tool, capsys):
    out = tool(TOOLS[1], "poolformer_s12", "--size", "32x32", "--max-images", "1", "--blocks",
               "0.0", "--halves", "channel")  # fmt: skip
    assert "warning: --halves is called --branches now\n" in capsys.readouterr().err
    (model,) = read_json(out / f"{TOOLS[1]}.json")["models"]
    assert [mixer["branch"] for mixer in model["images"][0]["mixers"]] == ["channel"]


def test_activation_sparsity(tool):
    out = tool(TOOLS[2], "poolformer_s12", "metaformer_s12_relu", "--size", "64x64",
               "--token-mixers", "--threshold", "0", "--max-images", "1")  # fmt: skip
    rows = read_csv(out / f"{TOOLS[2]}.csv")
    assert list(rows[0]) == [
        "model", "layer", "stage", "block", "branch", "mixer", "not_positive", "inactive",
    ]  # fmt: skip
    assert [row["layer"] for row in rows] == [str(i) for i in range(12) for _ in range(2)] * 2
    stages = [row["stage"] for row in rows if row["branch"] == "channel"]
    assert stages[:12] == list("001122222233")
    assert {(row["not_positive"], row["inactive"]) for row in rows if row["branch"] == "token"} == {
        ("", "")
    }
    relu = [row for row in rows[24:] if row["branch"] == "channel"]
    assert len(relu) == 12
    for row in relu:  # what is not positive is exactly zero
        assert 0.3 < float(row["not_positive"]) == float(row["inactive"]) < 0.7
    report = read_json(out / f"{TOOLS[2]}.json")
    assert len(report["images"]) == 1 and report["models"][0]["weights"] is None
    assert report["models"][0]["layers"][0]["why_not"].startswith("Pooling is not")
    assert report["models"][0]["layers"][1]["why_not"] is None
    (height, width), count = colours(out / f"{TOOLS[2]}.png")
    assert 600 < height < 1200 and 800 < width < 1300 and count > 50


def test_a_trained_checkpoint_changes_the_figures(tool, tmp_path, randomize):
    source = randomize(create_backbone("poolformer_s12"))
    weights = {f"backbone.{name}": tensor for name, tensor in source.state_dict().items()}
    torch.save(dict(state_dict=weights), tmp_path / "epoch_1.pth")
    spec = f"poolformer_s12@{tmp_path}/epoch_1.pth"
    out = tool(TOOLS[0], "poolformer_s12", spec, "--size", "64x64", "--stages", "0")
    random, trained = read_json(out / f"{TOOLS[0]}.json")["models"]
    assert (trained["model"], trained["weights"]) == (
        "poolformer_s12@epoch_1", f"{tmp_path}/epoch_1.pth",
    )  # fmt: skip
    assert trained["randomly_initialised"] == []
    ratios = [[area["area_ratio"] for area in model["areas"]] for model in (random, trained)]
    assert len(ratios[0]) == 4 and ratios[0] != ratios[1]
    # The logarithm makes what is small count for more.
    assert any(area["area_ratio"] < area["area_ratio_of_log"] for area in trained["areas"])


@pytest.mark.parametrize("name", TOOLS)
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("poolformer_s13",), "unknown network 'poolformer_s13'"),
        (("poolformer_s12", "poolformer_s12"), "two networks are called 'poolformer_s12'"),
        (("poolformer_s12", "--size", "64x31"), "--size 64x31: each side must be at least 32"),
        (("poolformer_s12", "--mean", "0", "0", "0"), "given together or not at all"),
        (("poolformer_s12", "--mean", "0", "0", "0", "--std", "1", "0", "1"), "must be positive"),
        (("poolformer_s12@no.pth",), "checkpoint 'no.pth' does not exist"),
    ],
)
def test_wrong_arguments(name, args, message, tool, tmp_path):
    with pytest.raises((UserError, WeightsError), match=message):
        tool(name, *args)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        (TOOLS[0], ("--stages", "4"), "poolformer_s12 does not emit stage 4"),
        (TOOLS[0], ("--shares", "50"), "--shares 50.0: each must be in"),
        (TOOLS[1], ("--blocks", "2.6"), "--blocks, poolformer_s12: there is no block 2.6"),
        (TOOLS[2], ("--threshold", "1"), "--threshold 1.0: expected a number from 0 to below 1"),
        (TOOLS[2], ("--device", "tpu"), "--device tpu"),
    ],
)
def test_wrong_arguments_of_one_tool(name, args, message, tool):
    with pytest.raises(UserError, match=message):
        tool(name, "poolformer_s12", *args)


def test_images_that_are_none(tool, images):
    (images / "a.png").write_text("no image")
    with pytest.raises(UserError, match="a.png cannot be read as an image"):
        tool(TOOLS[2], "poolformer_s12")
    for path in images.iterdir():
        path.unlink()
    with pytest.raises(UserError, match="no images in the folder"):
        tool(TOOLS[2], "poolformer_s12")


def test_results_that_cannot_be_written(tool, tmp_path):
    (tmp_path / "results").write_text("a file")
    with pytest.raises(UserError, match="--out"):
        tool(TOOLS[2], "poolformer_s12", "--size", "64x64")


@pytest.mark.parametrize("name", TOOLS)
def test_one_clear_sentence(name, root):
    """As started by the shell: exit status 2 and no traceback."""
    command = [sys.executable, "-W", "ignore", f"tools/{name}.py", "poolformer_s12"]
    result = subprocess.run(
        [*command, "--images", "no/such"], cwd=root, capture_output=True, text=True
    )
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert result.stderr == "error: there is no image or folder 'no/such'\n"
