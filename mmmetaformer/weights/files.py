"""Reading checkpoint files from elsewhere, safely."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import uuid
import zipfile
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import torch

from ..compat import load_plain
from .catalogue import TRAINED, by_url, sha256_prefix
from .mmengine_files import mmengine_globals

_TRUST = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


class WeightsError(ValueError):
    """Weights that cannot be used; the message is one sentence that says why."""


def is_local(source: str) -> bool:
    """Whether a source is a path and not an address such as ``https://`` or ``s3://``."""
    return "://" not in source


def read_checkpoint(source: str | Path) -> Any:
    """Read a checkpoint safely: nothing in it is executed unless the environment variable
    ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD`` is 1.

    Args:
        source: Path of a ``.pth``, ``.pt``, ``.bin``, ``.tar`` or ``.safetensors`` file, or an
            http(s) address of one, which is downloaded once; see :func:`cached_path`. A name that
            ends in digits of the file's SHA-256, as OpenMMLab's do, is checked.

    Returns:
        What is in the file, its tensors on the CPU.

    Raises:
        WeightsError: If the file is missing, cannot be downloaded, is not the one that its name
            says, is no checkpoint or holds objects beyond tensors and plain containers.
    """
    source = str(source)
    try:
        return _read_file(source) if is_local(source) else _read_address(source)
    except OSError as error:  # no permission, a disk that fails
        raise WeightsError(f"{source} cannot be read: {error}") from error


def _read_file(source: str) -> Any:
    path = Path(source).expanduser()
    if not path.is_file():
        raise WeightsError(f"checkpoint {source!r} does not exist (looked in {Path.cwd()})")
    remedy = "get it again, or take these digits out of its name if it was changed on purpose"
    _check_digits(path, path.name, remedy)
    return _read(path)


def cached_path(url: str) -> Path:
    """Where the file of an address is kept, or can be put by hand.

    The folder is that of the environment variable ``MMMETAFORMER_WEIGHTS``, or torch's hub cache.
    Files of the catalogue and those with SHA-256 digits in their names lie in the folder itself,
    others in a folder for their address. timm's, all ``model.safetensors`` on the hub, are named as
    in ``caformer_s18.sail_in1k.safetensors``.

    Raises:
        WeightsError: If the address is not one of http(s), or ends in no file name.
    """
    parsed = urlparse(url)
    if parsed.scheme not in ("http", "https"):
        raise WeightsError(
            f"cannot read {url!r}: expected a path or an http(s) address, got {parsed.scheme}://"
        )
    name = Path(unquote(parsed.path)).name
    if name in ("", ".", ".."):
        raise WeightsError(f"cannot read {url!r}: expected the address of a file")
    own = os.environ.get("MMMETAFORMER_WEIGHTS")
    folder = Path(own).expanduser() if own else Path(torch.hub.get_dir()) / "checkpoints"
    known = by_url(url)
    is_unique = known is not None or url in {trained.url for trained in TRAINED}
    if not is_unique and sha256_prefix(url) is None:
        folder /= hashlib.sha256(url.encode()).hexdigest()[:12]
    return folder / (known.file_name if known else name)


def _read_address(url: str) -> Any:
    path = cached_path(url)
    try:
        # One process of each machine downloads; without LOCAL_RANK several do, without harm.
        # (mmengine's get_local_rank needs a group that its runner does not make.)
        if not path.is_file() and os.environ.get("LOCAL_RANK", "0") == "0":
            return _download(url, path)
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
    if not path.is_file():
        raise WeightsError(f"{path} was not downloaded by the first process of this machine")
    again = "delete it, and it is downloaded again"
    _check_digits(path, url, again)
    try:
        return _read(path)
    except WeightsError as error:
        raise WeightsError(f"{error} (kept for {url}: {again})") from error


def _download(url: str, path: Path) -> Any:
    """Download a file and read it; a file that cannot be read is not kept."""
    # The suffix stays, which tells the format.
    partial = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(partial))
        _check_digits(partial, url, "try again")
        content = _read(partial)
        os.replace(partial, path)
    except (OSError, RuntimeError, HTTPException) as error:
        raise WeightsError(
            f"cannot download {url} ({error}): without network, put the file at {path}"
        ) from error
    except WeightsError as error:
        reason = str(error).replace(str(partial), "what came")
        raise WeightsError(
            f"{url}: {reason}; nothing of it was kept. The file itself can be put at {path}"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return content


def _check_digits(path: Path, name: str, remedy: str) -> None:
    """Raise if the SHA-256 digits in a name or address are not those of the file."""
    digits = sha256_prefix(name)
    if digits is not None and not (found := sha256(path)).startswith(digits):
        raise WeightsError(
            f"{path} is damaged or another file than {name}: its SHA-256 does not begin with "
            f"{digits} but with {found[:8]}; {remedy}"
        )


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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
    # torch's own switch, which whatever else loads the file obeys, too.
    trusted = os.environ.get(_TRUST, "0").lower() in ("1", "y", "yes", "true")
    try:
        if trusted:
            return torch.load(path, map_location="cpu", weights_only=False)
        return load_plain(path, mmengine_globals())
    except Exception as error:  # of a damaged file, nearly any
        refused = re.search(r"(?:Unsupported (?:global|class)|GLOBAL) [^.]*\S+", str(error))
        if isinstance(error, pickle.UnpicklingError) and refused:
            raise WeightsError(
                f"{path} is no plain checkpoint of tensors, so it was not loaded: "
                f"{refused.group()} ({_TRUST}=1 in the environment loads files that you trust, and "
                "runs the code in them)"
            ) from error
        reason = _first_line(f"{type(error).__name__}: {error}")
        if isinstance(error, pickle.UnpicklingError):
            # torch explains at length; what was wrong comes behind that.
            wrong = _first_line(str(error).partition("WeightsUnpickler error:")[2])
            reason = "it is none that torch.save wrote" + (f" ({wrong})" if wrong else "")
        raise WeightsError(f"{path} cannot be read as a checkpoint: {reason}") from error


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


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
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # of a damaged file, errors of several kinds
        return "it is cut off or damaged: download it again"
    if any(name.endswith("data.pkl") for name in names):
        return None
    return f"it is an archive of {names[:3]}: unpack it first"
