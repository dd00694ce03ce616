"""Implementations as the command line names them."""

from __future__ import annotations

import pytest
import torch

from benchmarking.implementations import Implementation, read_implementations
from mmmetaformer.engine.errors import UserError


def test_modifiers_and_dtypes():
    found = read_implementations(
        ["timm", "fused+compile@bfloat16", "plain+channels_last+compile"], "float16"
    )
    assert found == [
        Implementation("timm", dtype="float16"),
        Implementation("fused", True, False, "bfloat16"),
        Implementation("plain", True, True, "float16"),
    ]
    assert [one.label for one in found] == [
        "timm@float16", "fused+compile@bfloat16", "plain+compile+channels_last@float16",
    ]  # fmt: skip
    assert found[1].torch_dtype is torch.bfloat16
    assert read_implementations([found[2].label], "float32") == found[2:]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["tim"], "'tim': unknown implementation 'tim', expected one of plain, fused"),
        (
            ["timm+compiled"],
            "'timm.compiled': unknown modifier 'compiled', expected one of compile",
        ),
        (["timm@half"], "'timm@half': unknown dtype 'half', expected one of float32, bfloat16"),
        (["timm@"], "'timm@': unknown dtype ''"),
        (["timm", "timm@float32"], "timm@float32 is named twice"),
    ],
)
def test_unknown_names(texts, message):
    with pytest.raises(UserError, match=message):
        read_implementations(texts, "float32")
