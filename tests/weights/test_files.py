"""Files and addresses: what is downloaded, where it is kept, and what is refused."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mmmetaformer.engine.runner import ToolRunner
from mmmetaformer.weights import WeightsError, read_checkpoint
from mmmetaformer.weights.catalogue import CATALOGUE, TRAINED, sha256_prefix
from mmmetaformer.weights.files import cached_path

PAGE = b"<!DOCTYPE html><html>Please sign in</html>"


class Server:
    """Serves bytes by path on this machine.

    Attributes:
        files: Status, content and how many bytes of it are sent, by path.
        asked: The paths that were asked for.
    """

    def __init__(self) -> None:
        self.files: dict[str, tuple[int, bytes, int]] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                status, content, sent = outer.files.get(self.path, (404, PAGE, len(PAGE)))
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[:sent])

            def log_message(self, *args: object) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)

    def put(self, path: str, content: bytes, cut: int = 0, status: int = 200) -> str:
        """Serve a file, of which the last bytes may never arrive; its address."""
        self.files[path] = (status, content, len(content) - cut)
        return f"http://127.0.0.1:{self.http.server_port}{path}"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs=dict(poll_interval=0.01))
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MMMETAFORMER_WEIGHTS", str(tmp_path / "cache"))
    return tmp_path / "cache"


def content_of(tmp_path: Path, value: float, zipped: bool = True) -> bytes:
    path = tmp_path / "content"
    weights = dict(weight=torch.full((1, 2), value), bias=torch.full((1,), value))
    torch.save(weights, path, _use_new_zipfile_serialization=zipped)
    return path.read_bytes()


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_file_is_downloaded_once(server, tmp_path, cache):
    url = server.put("/a/net.pth", content_of(tmp_path, 1))
    for _ in range(2):
        assert read_checkpoint(url)["weight"].sum() == 2
    assert server.asked == ["/a/net.pth"]
    assert files_in(cache) == [cached_path(url)] and cached_path(url).name == "net.pth"


PROCESS = """
import sys, torch
torch.distributed.init_process_group("gloo")
from mmmetaformer.weights import WeightsError, read_checkpoint
for url in sys.argv[1:]:
    try:
        print("read", sorted(read_checkpoint(url)))
    except WeightsError as error:
        print(error)
"""


def test_of_several_processes_one_downloads(server, tmp_path, cache):
    """The others wait for it, and know when it failed."""
    urls = [server.put("/net.pth", content_of(tmp_path, 1)), server.put("/page.pth", PAGE)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-W", "ignore", "-c", PROCESS, *urls]
    processes = []
    for rank in "01":
        env = dict(os.environ, RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", MASTER_PORT=port,
                   MASTER_ADDR="127.0.0.1")  # fmt: skip
        processes.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
    first, second = (process.communicate()[0].splitlines() for process in processes)
    assert server.asked == ["/net.pth", "/page.pth"]
    assert first[0] == second[0] == "read ['bias', 'weight']"
    assert "it is a web page" in first[1]
    assert "was not downloaded by the first process" in second[1]
    assert files_in(cache) == [cached_path(urls[0])]


def test_files_of_the_same_name(server, tmp_path):
    """From two addresses, which differ in the folder or in the query."""
    for value, path in enumerate(("/a/net.pth", "/b/net.pth", "/b/net.pth?download=1")):
        url = server.put(path, content_of(tmp_path, value))
        assert read_checkpoint(url)["bias"].item() == value
        assert cached_path(url).name == "net.pth"
    assert len(server.asked) == 3


def test_the_tools_read_addresses_from_the_same_cache(server, tmp_path, cache):
    """As ``load_from``, ``--resume`` and the checkpoint of ``tools/test.py``."""
    url = server.put("/a/net.pth", content_of(tmp_path, 3))
    for run in range(2):
        model = nn.Linear(2, 1)
        runner = ToolRunner(model, str(tmp_path / "work"), experiment_name=f"cache {run}")
        assert runner.load_checkpoint(url)["meta"] == {}
        assert model.weight.tolist() == [[3, 3]]
    assert len(server.asked) == 1 and len(files_in(cache)) == 1


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("cut", [1, 40, 300])
def test_half_of_a_file_is_not_kept(cut, zipped, server, tmp_path, cache):
    url = server.put("/net.pth", content_of(tmp_path, 1, zipped), cut)
    with pytest.raises(WeightsError, match=r"/net\.pth") as error:
        read_checkpoint(url)
    assert "\n" not in str(error.value)
    assert files_in(cache) == []
    # The rest comes with the next try.
    server.put("/net.pth", content_of(tmp_path, 1, zipped))
    assert read_checkpoint(url)["weight"].sum() == 2


@pytest.mark.parametrize("content", [PAGE, b"", b"version https://git-lfs.github.com/spec/v1"])
def test_what_is_no_checkpoint_is_not_kept(content, server, cache):
    url = server.put("/net.pth", content)
    with pytest.raises(WeightsError, match="what came cannot be read.*nothing of it was kept"):
        read_checkpoint(url)
    assert files_in(cache) == []


def test_half_of_a_safetensors_file(server, tmp_path, cache):
    save_file(dict(a=torch.ones(100)), tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    url = server.put("/a.safetensors", content, cut=10)
    with pytest.raises(WeightsError, match="not a safetensors file.*nothing of it was kept"):
        read_checkpoint(url)
    assert files_in(cache) == []
    server.put("/a.safetensors", content)
    assert read_checkpoint(url)["a"].sum() == 100


def test_an_answer_that_is_an_error(server, cache):
    url = server.put("/net.pth", PAGE, status=503)
    with pytest.raises(WeightsError, match="cannot download .*503.* put the file at"):
        read_checkpoint(url)
    assert files_in(cache) == []


def test_a_file_that_was_put_into_the_cache_is_left_there(server, cache):
    url = server.put("/net.pth", PAGE)
    cached_path(url).parent.mkdir(parents=True)
    cached_path(url).write_bytes(PAGE)
    with pytest.raises(WeightsError, match="is a web page.*delete it, and it is downloaded again"):
        read_checkpoint(url)
    assert cached_path(url).read_bytes() == PAGE and server.asked == []


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "https://127.0.0.1/a/..", "ftp://a/b.pth"])
def test_addresses_of_no_file(url):
    with pytest.raises(WeightsError, match="cannot read"):
        read_checkpoint(url)


# ---------------------------------------------------------------- SHA-256 in names


@pytest.fixture(params=["local", "address"])
def named(request, server, tmp_path) -> Callable[[str], tuple[str, str, str]]:
    """Puts a checkpoint under a name with some digits, or its own for None: the source, what its
    SHA-256 begins with, and what is said to do about other digits."""

    def put(digits: str | None) -> tuple[str, str, str]:
        contents = {hashlib.sha256(c).hexdigest()[:8]: c
                    for c in (content_of(tmp_path, value) for value in range(5))}  # fmt: skip
        # Digits without a letter are taken for a date.
        found, content = next((d, c) for d, c in contents.items() if not d.isdecimal())
        name = f"net-{digits or found}.pth"
        if request.param == "address":
            return server.put(f"/{name}", content), found, "try again"
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name), found, "take these digits out of its name"

    return put


def test_right_digits_in_a_name(named, cache):
    source, _, _ = named(None)
    assert set(read_checkpoint(source)) == {"weight", "bias"}


def test_wrong_digits_in_a_name(named, cache):
    source, found, remedy = named("abcdef12")
    message = f"SHA-256 does not begin with abcdef12 but with {found}; .*{remedy}"
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(source)
    assert files_in(cache) == []


@pytest.mark.parametrize(
    ("name", "digits"),
    [
        ("net_20220414-f8d83051.pth", "f8d83051"),
        ("https://example.org/net-f8d83051.pth?download=1", "f8d83051"),
        ("https://download.openmmlab.com/x/net_20220414-93780151.pth", "93780151"),
        ("https://download.openmmlab.com/x/net_93780151.pth", "93780151"),
        ("net-20220414.pth", None),
        ("iter-00160000.pth", None),
        ("net_abcdef12.pth", None),
        ("net-abcdef123.pth", None),
        ("net-abcdef12.pth.tar", None),
        ("net-ABCDEF12.pth", None),
    ],
)
def test_which_names_tell_digits(name, digits):
    assert sha256_prefix(name) == digits


def test_files_of_the_catalogue_lie_in_the_folder_under_names_of_their_own(cache):
    urls = [checkpoint.url for checkpoint in (*CATALOGUE, *TRAINED) if checkpoint.url]
    paths = {cached_path(url) for url in urls}
    assert len(paths) == len(urls) > 80
    assert {path.parent for path in paths} == {cache}
