from __future__ import annotations

import importlib

import pytest
import torch

triton = pytest.importorskip("triton")
kernels = pytest.importorskip("triton_kernels")


def test_a_map_on_the_cpu_is_refused() -> None:
    x = torch.zeros(1, 2, 3, 3)
    assert not kernels.available(x)
    with pytest.raises(ValueError, match="on cpu and not on a GPU .* use fused='auto'"):
        kernels.require(x)
    with pytest.raises(ValueError, match="on cpu and not on a GPU"):
        kernels.pool_residual(x, x[:, :, 0, 0], None, 3, x.dtype)


def test_the_reason_is_none_where_the_kernels_run(monkeypatch) -> None:
    x = torch.zeros(1, 2, 3, 3)
    monkeypatch.setattr(kernels.capability, "INTERPRETED", True)
    assert kernels.unavailable_reason(x) is None
    assert kernels.unavailable_reason(x.double()) is not None


@pytest.mark.parametrize("version", ["2.1.0", "3.5.1"])
def test_an_old_triton_is_refused(version, monkeypatch) -> None:
    monkeypatch.setattr(triton, "__version__", version)
    with pytest.raises(ImportError, match=f"triton is {version}, and 3.6 or later is needed"):
        importlib.reload(kernels.capability)


def test_importing_the_package_does_not_import_triton() -> None:
    """It takes longer than all of the package."""
    import subprocess
    import sys

    code = "import sys, mmmetaformer.fused; sys.exit('triton_kernels' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
