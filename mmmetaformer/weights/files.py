"""Reading checkpoint files from elsewhere, safely."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import zipfile
from functools import cache
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, get_local_rank

from .catalogue import sha256_prefix
from .mmengine_files import allow_mmengine_checkpoints

_TRUST = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


class WeightsError(ValueError):
    """Weights that cannot be used; the message is one sentence that says why."""


def is_local(source: str) -> bool:
    """Whether a source is a path and not an address such as ``https://`` or ``s3://``."""
    return "://" not in source


def read_checkpoint(source: str | Path) -> Any:
    """Read a checkpoint from a file or an http(s) address, without executing anything in it unless
    the environment variable ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD`` is 1.

    Args:
        source: Path of a ``.pth``, ``.pt``, ``.bin``, ``.tar`` or ``.safetensors`` file, or an
            address of one, which is downloaded once into the folder that the environment variable
            ``MMMETAFORMER_WEIGHTS`` names, or torch's hub cache. A file whose name tells its
            SHA-256, as OpenMMLab's do, is checked against it.

    Raises:
        WeightsError: If the file is missing, cannot be downloaded, is no checkpoint or holds
            objects beyond tensors and plain containers.
    """
    source = str(source)
    if not is_local(source):
        scheme = urlparse(source).scheme
        if scheme in ("http", "https"):
            return _download(source)
        raise WeightsError(
            f"cannot read {source!r}: expected a path or an http(s) address, got {scheme}://"
        )
    path = Path(source).expanduser()
    if not path.is_file():
        raise WeightsError(f"checkpoint {source!r} does not exist (looked in {Path.cwd()})")
    return _read(path)


def _download(url: str) -> Any:
    name = Path(urlparse(url).path).name
    own = os.environ.get("MMMETAFORMER_WEIGHTS")
    folder = Path(own).expanduser() if own else Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / name
    digits = sha256_prefix(url)
    try:
        # One process of each machine downloads, to a temporary name that is renamed when complete.
        if not path.is_file() and get_local_rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digits)
    except (URLError, OSError, RuntimeError) as error:  # the last one is about the hash
        raise WeightsError(
            f"cannot download {url} ({error}): without network, put the file at {path}"
        ) from error
    finally:
        barrier()
    if not path.is_file():
        raise WeightsError(f"{path} was not downloaded by the first process of this machine")
    if digits is not None and not _sha256(path).startswith(digits):
        raise WeightsError(
            f"{path} is not the file of {url}: its SHA-256 does not begin with {digits}; delete "
            "it, and it is downloaded again"
        )
    return _read(path)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


_allow_mmengine_checkpoints = cache(allow_mmengine_checkpoints)


def _read(path: Path) -> Any:
    mistaken = _no_checkpoint(path)
    if mistaken:
        raise WeightsError(f"{path} cannot be read as a checkpoint: {mistaken}")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except Exception as error:  # of a damaged file, nearly any
            raise WeightsError(f"{path} is not a safetensors file: {error}") from error
    _allow_mmengine_checkpoints()
    # torch's own switch, which whatever else loads the file obeys, too.
    trusted = os.environ.get(_TRUST, "0").lower() in ("1", "y", "yes", "true")
    try:
        return torch.load(path, map_location="cpu", weights_only=not trusted)
    except Exception as error:  # of a damaged file, nearly any
        refused = re.search(r"(?:Unsupported (?:global|class)|GLOBAL) [^.]*\S+", str(error))
        if isinstance(error, pickle.UnpicklingError) and refused:
            raise WeightsError(
                f"{path} is no plain checkpoint of tensors, so it was not loaded: "
                f"{refused.group()} ({_TRUST}=1 in the environment loads files that you trust, and "
                "runs the code in them)"
            ) from error
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, pickle.UnpicklingError):
            # torch explains at length; what was wrong comes behind that.
            reason = "it is none" + reason.partition("WeightsUnpickler error")[2]
        reason = reason.strip().split("\n")[0]
        raise WeightsError(f"{path} cannot be read as a checkpoint: {reason}") from error


def _no_checkpoint(path: Path) -> str | None:
    """What a file is that is often saved in place of a checkpoint."""
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if not start:
        return "it is empty"
    if start.startswith(b"<"):
        return "it is a web page, not the file that the page is about"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of git-lfs; `git lfs pull` fetches the file itself"
    if not start.startswith(b"PK"):
        return None
    if not zipfile.is_zipfile(path):
        return "it is cut off: download it again"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("data.pkl") for name in names):
        return None
    return f"it is an archive of {names[:3]}: unpack it first"
