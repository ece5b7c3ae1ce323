"""Weights: files that fit and do not fit, and downloads from a server on loopback."""

import hashlib
import io
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from sktransfer import FeatureExtractorTransformer
from sktransfer._images.preprocessing import Preprocessing
from sktransfer.backbones._backbone import open_backbone
from sktransfer.backbones._weights import download
from sktransfer.exceptions import WeightsDownloadError, WeightsMismatchError

NAME = "squeezenet1_1"


def seeded_network(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return models.squeezenet1_1(weights=None)


def opened(weights, random_state=None, name=NAME):
    return open_backbone(name, weights, 64, "auto", random_state)


def has_weights_of(backbone, network):
    stored = network.state_dict()
    loaded = backbone.trunk.state_dict()
    return bool(loaded) and all(torch.equal(loaded[n], stored[n]) for n in loaded)


@pytest.fixture(scope="module")
def network():
    return seeded_network(11)


@pytest.mark.parametrize("kind", ["safetensors", "pth", "pt", "nested pth", "half"])
def test_weights_come_from_a_file(network, tmp_path, kind):
    path = tmp_path / f"base.{kind.split()[-1]}"
    state = network.state_dict()
    if kind in ("safetensors", "half"):
        path = path.with_suffix(".safetensors")
        half = {n: t.half() for n, t in state.items()}
        save_file(half if kind == "half" else state, path)
    else:
        nested = {"state_dict": state, "epoch": 3}
        torch.save(nested if kind.startswith("nested") else state, path)
    for weights in (path, str(path)):
        backbone = opened(weights)
        if kind != "half":
            assert has_weights_of(backbone, network)
        tensor = backbone.trunk.state_dict()["features.0.weight"]
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(
            tensor, state["features.0.weight"], rtol=1e-3, atol=1e-5
        )


def test_classifier_of_any_number_of_classes_is_not_looked_at(network, tmp_path):
    state = {**network.state_dict(), "classifier.1.weight": torch.zeros(3, 512, 1, 1)}
    torch.save(state, tmp_path / "three.pth")
    assert has_weights_of(opened(tmp_path / "three.pth"), network)


def test_files_of_densenets_have_the_names_of_torchvisions_first_versions(tmp_path):
    network = models.densenet121(weights=None)
    first = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name): tensor
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in first
    torch.save(first, tmp_path / "densenet121.pth")
    loaded = opened(tmp_path / "densenet121.pth", name="densenet121").trunk.state_dict()
    stored = network.state_dict()
    names = [name for name in stored if "classifier" not in name]
    assert names == [name for name in names if torch.equal(loaded[name], stored[name])]


def test_weights_of_a_deeper_network_of_the_family_are_refused(tmp_path):
    torch.save(models.resnet34(weights=None).state_dict(), tmp_path / "34.pth")
    with pytest.raises(WeightsMismatchError, match=r"layer1\.2\.\S+ has no place"):
        opened(tmp_path / "34.pth", name="resnet18")


@pytest.mark.parametrize("name", ["fc.0.weight", "fc.3.bias", "head.weight", "n"])
def test_another_head_than_the_networks_own_is_not_looked_at(tmp_path, name):
    network = models.resnet18(weights=None)
    state = {n: t for n, t in network.state_dict().items() if not n.startswith("fc.")}
    torch.save({**state, name: torch.zeros(5)}, tmp_path / "own.pth")
    assert has_weights_of(opened(tmp_path / "own.pth", name="resnet18"), network)


def test_none_is_the_same_initial_network_everywhere():
    assert opened(None).digest == opened(None, random_state=0).digest
    assert opened(None).digest != opened(None, random_state=11).digest
    assert has_weights_of(opened(None, random_state=11), seeded_network(11))


def spoilt(state, kind, path):
    """Write a file that does not fit."""
    if kind == "missing tensor":
        torch.save({n: t for n, t in state.items() if n != "features.0.weight"}, path)
    elif kind == "other shape":
        torch.save({**state, "features.0.bias": torch.zeros(7)}, path)
    elif kind == "deeper":
        deeper = {f"features.13.{n}": torch.zeros(1) for n in ("weight", "bias")}
        torch.save({**state, **deeper}, path)
    elif kind == "not a state dict":
        torch.save([1, 2, 3], path)
    elif kind == "not readable":
        path.write_bytes(b"not a file of weights")
    elif kind == "truncated":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:1000])
    elif kind == "whole module":
        torch.save(seeded_network(0), path)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("missing tensor", r"1 are missing.*features\.0\.weight is missing"),
        ("other shape", r"1 are others than it has.*\(7,\) instead of \(64,\)"),
        ("deeper", r"2 are others than it has.*features\.13\.bias has no place"),
        ("not a state dict", "holds list, not a state dict"),
        ("not readable", "cannot be read"),
        ("truncated", "cannot be read"),
        ("whole module", "cannot be read"),
        ("absent", "there is no file"),
    ],
)
def test_file_that_does_not_fit_says_what_is_wrong(network, tmp_path, kind, found):
    path = tmp_path / "wrong.pth"
    spoilt(network.state_dict(), kind, path)
    with pytest.raises(WeightsMismatchError, match=rf"(?s)wrong\.pth.*{NAME}.*{found}"):
        opened(path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, None], ids=["0", "40", "no"])
def test_broken_safetensors_file_is_a_mismatch_too(tmp_path, content):
    path = tmp_path / "broken.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsMismatchError, match=r"broken\.safetensors"):
        opened(path)


class RunsWhenLoaded:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_pickled_code_in_a_file_is_never_run(network, tmp_path):
    trap = tmp_path / "it ran"
    state = {**network.state_dict(), "extra": RunsWhenLoaded(str(trap))}
    torch.save(state, tmp_path / "trap.pth")
    with pytest.raises(WeightsMismatchError, match="cannot be read"):
        opened(tmp_path / "trap.pth")
    assert not trap.exists()
    with open(tmp_path / "plain.pth", "wb") as file:
        pickle.dump(state, file)
    with pytest.raises(WeightsMismatchError, match="cannot be read"):
        opened(tmp_path / "plain.pth")
    assert not trap.exists()


def test_name_of_weights_wins_over_a_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default").write_text("notes")
    backbone = open_backbone("mini", "default", None, "auto", None)
    assert backbone._source.kind == "shipped"


def test_saved_trunk_is_the_base_of_another_task(colour_images, tmp_path):
    X, _ = colour_images
    path = tmp_path / "mine.safetensors"
    first = FeatureExtractorTransformer(
        NAME, weights=None, random_state=4, image_size=48, resize="squash"
    ).fit(X)
    first.backbone_.save(path)
    again = FeatureExtractorTransformer(NAME, weights=path, cache=None).fit(X)
    assert again.backbone_.preprocessing == Preprocessing(48, 55, resize="squash")
    assert again.backbone_.digest == first.backbone_.digest
    np.testing.assert_array_equal(again.transform(X), first.transform(X))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.safetensors"]


def test_file_written_anew_is_read_anew(network, tmp_path):
    path = tmp_path / "base.pth"
    torch.save(network.state_dict(), path)
    first = opened(path)
    other = seeded_network(12)
    torch.save(other.state_dict(), path)
    os.utime(path, ns=(1, 1))
    assert has_weights_of(opened(path), other)
    assert has_weights_of(first, network)


def test_file_of_the_same_age_and_size_in_its_place_is_read_anew(network, tmp_path):
    other = seeded_network(12)
    for name, of_file in (("a.pth", network), ("b.pth", other)):
        torch.save(of_file.state_dict(), tmp_path / name)
        os.utime(tmp_path / name, ns=(10**18, 10**18))
    path = tmp_path / "base.pth"
    shutil.copy2(tmp_path / "a.pth", path)
    assert has_weights_of(opened(path), network)
    shutil.copy2(tmp_path / "b.pth", path)
    assert has_weights_of(opened(path), other)
    path.unlink()
    for name, of_file in (("a.pth", network), ("b.pth", other)):
        path.unlink(missing_ok=True)
        path.symlink_to(tmp_path / name)
        assert has_weights_of(opened(path), of_file)


class Server(ThreadingHTTPServer):
    """Serves one content; the first answers may be scripted to fail."""

    daemon_threads = True

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.failures, self.n_requests, self.seconds = content, [], 0, 0

    def url(self, digest=None):
        digest = digest or hashlib.sha256(self.content).hexdigest()[:8]
        return f"http://127.0.0.1:{self.server_port}/models/net-{digest}.pth"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.n_requests += 1
        time.sleep(server.seconds)
        failure = server.failures.pop(0) if server.failures else None
        if failure == "garbage":
            self.wfile.write(b"no HTTP at all\r\n\r\n")
        elif isinstance(failure, int):
            self.send_error(failure)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(server.content)))
            self.end_headers()
            n = len(server.content) // 2 if failure == "half" else None
            self.wfile.write(server.content[:n])

    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture
def server(network):
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    with Server(file.getvalue()) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where downloads are kept."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def files_in(folder):
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"]


def test_download_is_kept_and_not_asked_for_again(server, folder):
    path = download(server.url())
    assert path.parent == folder
    assert path.read_bytes() == server.content
    assert download(server.url()) == path
    assert server.n_requests == 1
    assert files_in(folder) == [path.name]


def test_file_put_there_by_hand_needs_no_server(folder):
    folder.mkdir(parents=True)
    (folder / "net-01234567.pth").write_bytes(b"by hand")
    path = download("http://127.0.0.1:1/models/net-01234567.pth")
    assert path.read_bytes() == b"by hand"


def test_wrong_digest_is_refused_and_leaves_nothing_behind(server, folder):
    with pytest.raises(WeightsDownloadError, match="invalid hash value"):
        download(server.url(digest="0badc0de"))
    assert server.n_requests == 3
    assert files_in(folder) == []


@pytest.mark.parametrize(
    "failures", [[503], [500, 404], ["garbage"], ["half", 502]], ids=str
)
def test_server_that_fails_twice_is_asked_three_times(server, folder, failures):
    server.failures = list(failures)
    assert download(server.url()).read_bytes() == server.content
    assert server.n_requests == len(failures) + 1


@pytest.mark.parametrize("failure", [503, "garbage", "half"])
def test_server_that_always_fails_is_given_up(server, folder, failure):
    server.failures = [failure] * 5
    with pytest.raises(WeightsDownloadError) as caught:
        download(server.url())
    assert caught.value.url == server.url()
    # The error comes back from a worker process, too.
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert server.n_requests == 3
    assert files_in(folder) == []


def test_folder_that_cannot_be_made_is_a_download_that_failed(server, tmp_path):
    (tmp_path / "plain").write_text("a file")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(tmp_path / "plain" / "home"))
        with pytest.raises(WeightsDownloadError, match="Not a directory"):
            download(server.url())
    assert server.n_requests == 0


def test_without_a_network_the_error_says_where_the_file_goes(folder, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    url = f"http://127.0.0.1:{port}/models/{NAME}-b8a52dc0.pth"
    monkeypatch.setattr(models.SqueezeNet1_1_Weights.DEFAULT.value, "url", url)
    with pytest.raises(ConnectionError) as caught:
        opened("default")
    assert isinstance(caught.value, WeightsDownloadError)
    message = str(caught.value)
    assert url in message
    assert str(folder / f"{NAME}-b8a52dc0.pth") in message
    assert "backbone='mini'" in message


def test_named_weights_are_downloaded_and_loaded(
    server, folder, network, monkeypatch, colour_images
):
    X, _ = colour_images
    member = models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    monkeypatch.setattr(member.value, "url", server.url())
    for weights in ("default", "IMAGENET1K_V1"):
        transformer = FeatureExtractorTransformer(NAME, weights=weights, image_size=64)
        features = transformer.fit_transform(X[:4])
        assert has_weights_of(transformer.backbone_, network)
    assert server.n_requests == 1
    restored = pickle.loads(pickle.dumps(transformer))
    assert len(pickle.dumps(transformer)) < 10_000  # weights by name and digest
    np.testing.assert_array_equal(restored.transform(X[:4]), features)


def test_threads_that_want_a_file_at_once_download_it_once(server, folder):
    server.seconds = 0.3
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(download, [server.url()] * 4))
    assert server.n_requests == 1
    assert paths == {folder / os.path.basename(server.url())}


def test_processes_that_want_a_file_at_once_download_it_once(server, folder, tmp_path):
    server.seconds = 1
    code = (
        "import sys, time; from pathlib import Path\n"
        "from sktransfer.backbones._weights import download\n"
        "Path(sys.argv[2], f'ready{sys.argv[3]}').touch()\n"
        "while len(list(Path(sys.argv[2]).glob('ready*'))) < 2: time.sleep(0.01)\n"
        "print(download(sys.argv[1]).read_bytes().hex()[:64])\n"
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, server.url(), str(tmp_path), str(i)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    outputs = [worker.communicate(timeout=120)[0].strip() for worker in workers]
    assert outputs == [server.content.hex()[:64]] * 2
    assert server.n_requests == 1
