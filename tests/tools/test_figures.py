"""tools/complexity.py and tools/step_memory.py from the command line."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest


@pytest.fixture
def tool(root):
    def run(name: str, *args: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-W", "ignore", f"tools/{name}", *args]
        return subprocess.run(command, cwd=root, capture_output=True, text=True)

    return run


def test_complexity(tool):
    result = tool("complexity.py", "poolformer_s*", "--plain", "--sizes", "224x224")
    rows = [row.split("|") for row in result.stdout.splitlines()[2:]]
    assert [row[1].strip() for row in rows] == [
        "poolformer_s12", "poolformer_s24", "poolformer_s36",
    ]  # fmt: skip
    assert rows[0][2].strip() == "11,401,152" and rows[0][3].strip() == "1.81"


def test_complexity_with_other_mixers(tool):
    args = ("complexity.py", "caformer_s18", "--sizes", "800x1344", "--token-mixers")
    macs = {
        mixer: float(tool(*args, "sepconv", "sepconv", mixer, mixer).stdout.split("|")[-2])
        for mixer in ("attention", "window_attention", "sr_attention")
    }
    assert macs["window_attention"] < macs["sr_attention"] < 0.6 * macs["attention"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("complexity.py", "resnet*"), "no arch matches 'resnet*'"),
        (("complexity.py", "--sizes", "800,1344"), "HEIGHTxWIDTH"),
        (("complexity.py", "poolformer_s12", "--token-mixers", "polling"), "unknown token mixer"),
        (("complexity.py", "poolformer_s12", "--token-mixers", "pooling", "pooling"), "list of 4"),
        (("step_memory.py", "no.py"), "'no.py' does not exist"),
    ],
)
def test_wrong_arguments(tool, args, message):
    result = tool(*args)
    assert result.returncode == 2
    assert message in result.stderr and "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        "poolformer/mask-rcnn_poolformer-s12_fpn_1x_coco",
        "poolformer/poolformer-s12_fpn_8xb4-40k_ade20k-512x512",
        "imagenet/poolformer-s12_8xb128_in1k",
    ],
)
def test_step_memory(tool, config):
    """Twice the images hold twice the bytes, but for what does not grow with them."""
    held = []
    for batch_size in ("2", "4"):
        result = tool("step_memory.py", f"configs/{config}.py", "--size", "64x96",
                      "--batch-size", batch_size)  # fmt: skip
        assert result.returncode == 0, result.stderr
        held.append(int(re.search(r"saved for backward: (\d+) MiB", result.stdout).group(1)))
    assert 1.4 < held[1] / held[0] < 2.2
