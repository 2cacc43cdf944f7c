"""Engines and images in a real registry: stored once, picked by GPU, checked, and whole whatever is killed.

Runs where TESTBED_REGISTRY names a registry that takes plain HTTP. What looks into its storage needs that beside the
socket of DOCKER_HOST.
"""

import base64
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import httpx
import pytest

from runtime.engine import manifest as manifests
from runtime.registry import artifact, oci
from runtime.registry.client import Registry
from runtime.registry.oci import Descriptor, ImageManifest
from runtime.registry.reference import Reference
from tests.command import TRTPACK, interruptible, serving, trtpack
from tests.conftest import TinyEngine
from tests.plans import make_engine, record, write
from tests.testbed import docker, remove
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.xdist_group("registry")]

KILLS = 20
# What a push sends and a pull fetches: eight files, one of them in two pieces. Long enough for a kill in the middle.
LARGE = artifact.PIECE + 8 * 2**20
SMALL = 8 * 2**20
# "open sesame", as htpasswd -B writes it.
HTPASSWD = "me:$2b$05$8qIOkSYfJ9gJDfBu6HSIxuHQjp2v1M0XlfcF/LPbvxsVndFcmmH3q"


@pytest.fixture(scope="module")
def host() -> str:
    found = os.environ.get("TESTBED_REGISTRY")
    if not found:
        pytest.skip("TESTBED_REGISTRY names no registry")
    return found


@pytest.fixture(scope="module")
def storage(host: str) -> Path:
    """The registry's own files."""
    socket = Path(os.environ.get("DOCKER_HOST", "").removeprefix("unix://"))
    folder = socket.parent / "registry" / "data" / "docker" / "registry" / "v2"
    if not folder.is_dir():
        pytest.skip("the registry's storage is not on this machine")
    return folder


@pytest.fixture
def reference(host: str) -> Reference:
    """A tag in a repository of its own."""
    return Reference(host, f"trtpack-test/{uuid.uuid4().hex[:12]}", "1")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRTPACK_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small ones for an L4 and a T4, of the same weights; and a large one for an L4."""
    folder = tmp_path_factory.mktemp("engines")
    made = make_engine(folder / "l4", "8.9")
    shutil.copytree(folder / "l4", folder / "large")
    make_engine(folder / "t4", "7.5")
    shutil.rmtree(folder / "t4" / "weights")
    shutil.copytree(folder / "l4" / "weights", folder / "t4" / "weights")
    record(folder / "t4", manifests.read(folder / "t4"))
    for number, size in enumerate([LARGE, *[SMALL] * 7], 1):
        write(folder / "large", f"weights/model-{number:05}.safetensors", os.urandom(size))
    record(folder / "large", made)
    return {name: folder / name for name in ("l4", "t4", "large")}


def done(*arguments: object) -> str:
    """What a command prints, once it is done."""
    result = trtpack(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def refused(*arguments: object) -> str:
    """What it is refused with: one error, without a traceback."""
    result = trtpack(*arguments)
    assert result.returncode == 1, result.stdout
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    return line.removeprefix("error: ")


def stored(reference: Reference) -> dict[str, Descriptor]:
    """Every blob of every engine under a tag, by digest; each is there, in its full size."""
    found: dict[str, Descriptor] = {}
    with Registry(reference) as registry:
        content = registry.manifest(reference.name)
        assert content is not None
        for entry in artifact.read_index(reference, content).manifests:
            text = registry.manifest(entry.digest)
            assert text is not None
            manifest = ImageManifest.model_validate_json(text)
            found |= {blob.digest: blob for blob in (manifest.config, *manifest.layers)}
    base = f"http://{reference.registry}/v2/{reference.repository}/blobs/"
    with httpx.Client() as client:
        for blob in found.values():
            assert client.head(base + blob.digest).headers.get("content-length") == str(blob.size)
    return found


def test_two_gpus_share_a_tag_and_their_weights(engines: dict[str, Path], reference: Reference, storage: Path) -> None:
    assert "pushed the engine for nvidia-l4" in done("push", "--engine", "--no-attest", engines["l4"], reference)
    assert "pushed the engine for nvidia-tesla-t4" in done("push", "--engine", "--no-attest", engines["t4"], reference)
    for name in ("l4", "t4"):
        assert f"engine for nvidia-{'tesla-' * (name == 't4')}{name}, 0.0 of" in done(
            "push", "--engine", "--no-attest", engines[name], reference
        )
    weights = manifests.sha256(engines["l4"] / "weights" / "model-00001.safetensors")
    blobs = stored(reference)
    links = {path.name for path in (storage / "repositories" / reference.repository / "_layers/sha256").iterdir()}
    assert links == {digest.removeprefix("sha256:") for digest in blobs}
    assert [blob.digest for blob in blobs.values() if blob.media_type == artifact.WEIGHTS] == [f"sha256:{weights}"]
    assert sum(blob.media_type == artifact.CONFIG for blob in blobs.values()) == 2


def test_of_two_pushes_at_the_same_time_both_are_there(engines: dict[str, Path], reference: Reference) -> None:
    for attempt in range(3):
        place = reference.tagged(str(attempt))
        pushes = [
            subprocess.Popen([*TRTPACK, "push", "--engine", engines[name], str(place)], stderr=subprocess.DEVNULL)
            for name in ("l4", "t4")
        ]
        assert [push.wait(60) for push in pushes] == [0, 0]
        assert sum(blob.media_type == artifact.CONFIG for blob in stored(place).values()) == 2


@pytest.mark.parametrize(("gpu", "name"), [("L4", "l4"), ("T4", "t4"), ("nvidia-l40s", "l4")])
def test_a_pull_picks_by_gpu(
    engines: dict[str, Path], reference: Reference, gpu: str, name: str, tmp_path: Path
) -> None:
    for engine in (engines["l4"], engines["t4"]):
        done("push", "--engine", engine, reference)
    done("pull", reference, "--gpu", gpu, "--out", tmp_path / "engine")
    pulled = manifests.read(tmp_path / "engine")
    assert pulled == manifests.read(engines[name])
    manifests.verify(tmp_path / "engine", pulled)


def test_a_gpu_without_an_engine(engines: dict[str, Path], reference: Reference) -> None:
    done("push", "--engine", engines["l4"], reference)
    assert refused("pull", reference, "--gpu", "A100") == (
        f"{reference} has engines for nvidia-l4 (8.9), and none for nvidia-a100-80gb: compile one with trtpack "
        "compile --gpu NAME, and push it to the same tag"
    )


def test_a_flipped_byte_in_the_registrys_storage_is_refused(
    engines: dict[str, Path], reference: Reference, storage: Path, tmp_path: Path
) -> None:
    done("push", "--engine", engines["large"], reference)
    largest = max(stored(reference).values(), key=lambda blob: blob.size).digest.removeprefix("sha256:")
    data = storage / "blobs" / "sha256" / largest[:2] / largest / "data"
    with flipped(data, 12345):
        assert f"{reference} is damaged: what should be sha256:" in refused(
            "pull", reference, "--out", tmp_path / "out"
        )
        assert not (tmp_path / "out").exists()
    done("pull", reference, "--out", tmp_path / "out")
    manifests.verify(tmp_path / "out", manifests.read(tmp_path / "out"))


@contextmanager
def flipped(file: Path, offset: int) -> Iterator[None]:
    def flip() -> None:
        with file.open("r+b") as opened:
            opened.seek(offset)
            byte = opened.read(1)[0] ^ 0x10
            opened.seek(offset)
            opened.write(bytes([byte]))

    flip()
    try:
        yield
    finally:
        flip()


def killed(seconds: float, *arguments: object) -> str | None:
    """What a command printed if it was done after that time; None if it was not, and is no more."""
    command = [*TRTPACK, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        out, err = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), err
    return out if process.returncode == 0 else None


def duration(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def test_a_killed_push_leaves_a_whole_artifact_and_the_next_one_goes_on(
    engines: dict[str, Path], reference: Reference
) -> None:
    """The tag has the small engine or the large one, of which the next push sends only what is not there."""
    chance = random.Random(5)
    longest = duration(lambda: done("push", "--engine", engines["large"], reference))
    blobs = [blob for blob in stored(reference).values() if blob.media_type != artifact.CONFIG]
    size, new = sum(blob.size for blob in blobs), digest_at(reference)

    def begin() -> Reference:
        """Another repository, so that nothing is there; of equal blobs the registry keeps one."""
        place = Reference(reference.registry, f"{reference.repository}-{uuid.uuid4().hex[:6]}", "1")
        done("push", "--engine", engines["l4"], place)
        return place

    place = begin()
    old = digest_at(place)
    kills = resumed = 0
    while True:
        there = present(place, blobs)
        seconds = chance.uniform(0.3, longest) if kills < KILLS else 60
        out = killed(seconds, "push", "--engine", engines["large"], place)
        stored(place)
        if out is None:
            kills += 1
            assert digest_at(place) in (old, new)
            continue
        assert digest_at(place) == new
        assert sent(out) == pytest.approx((size - there) / 1e6, abs=0.051)
        resumed += there > SMALL
        if kills == KILLS:
            break
        place = begin()
    assert resumed


def present(reference: Reference, blobs: list[Descriptor]) -> int:
    """Bytes of those that the repository has."""
    with Registry(reference) as registry:
        return sum(blob.size for blob in blobs if registry.has(blob.digest))


def digest_at(reference: Reference) -> str:
    with Registry(reference) as registry:
        content = registry.manifest(reference.name)
    assert content is not None
    return oci.digest_of(content)


def sent(out: str) -> float:
    """Megabytes, as a push reports them."""
    (megabytes,) = re.findall(r"([\d,.]+) of [\d,.]+ MB sent", out)
    return float(megabytes.replace(",", ""))


def test_a_killed_pull_leaves_a_whole_engine_and_the_next_one_goes_on(
    engines: dict[str, Path], reference: Reference, cache: Path, tmp_path: Path
) -> None:
    """DIR has the small engine or the large one; what has arrived in the cache stays as it is, and is added to."""
    chance = random.Random(7)
    small, out = reference.tagged("small"), tmp_path / "engine"
    done("push", "--engine", engines["l4"], small)
    done("push", "--engine", engines["large"], reference)
    longest = duration(lambda: done("pull", reference, "--out", out))
    versions = [manifests.read(engines[name]) for name in ("l4", "large")]

    def begin() -> None:
        shutil.rmtree(cache)
        done("pull", small, "--out", out)

    begin()
    kills = resumed = 0
    while True:
        before = arrived(cache)
        seconds = chance.uniform(0.3, longest) if kills < KILLS else 60
        whole = killed(seconds, "pull", reference, "--out", out)
        found = manifests.read(out)
        manifests.verify(out, found)
        assert found in versions
        after = arrived(cache)
        assert all(after[inode] >= size for inode, size in before.items())
        if whole is None:
            kills += 1
            continue
        assert found == versions[1]
        resumed += sum(before.values()) > SMALL
        if kills == KILLS:
            break
        begin()
    assert resumed


def arrived(cache: Path) -> dict[int, int]:
    """The size of every file that is pulled or begun, by its inode: one that were pulled anew would have another."""
    found = {}
    for path in cache.glob("blobs/sha256-*"):
        with suppress(FileNotFoundError):  # one that is complete is renamed
            status = path.stat()
            if path.suffix != ".lock":
                found[status.st_ino] = status.st_size
    return found


def test_a_server_pulls_its_engine_before_it_is_ready(
    reference: Reference, tiny_engine: TinyEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What config.yaml names; at its second start the registry is gone, and the first one's is taken."""
    monkeypatch.delenv("TRTPACK_ENGINE_SOURCE", raising=False)
    done("push", "--engine", tiny_engine(max_batch_size=4, max_model_len=256), reference)
    with Registry(reference) as registry:
        (entry,) = artifact.read_index(reference, registry.manifest("1") or b"").manifests
    package = tmp_path / "package"
    package.mkdir()
    with relay(reference.registry, 2**30) as address:
        source = f"oci://{address}/{reference.repository}"
        (package / "config.yaml").write_text(f"engine: {{source: '{source}:1'}}")
        first, lines = answered(package, tmp_path / "log")
    pulled = next(
        number for number, line in enumerate(lines) if line.startswith(f"Engine {source}@{entry.digest} lies")
    )
    assert lines[0].startswith("Serving")
    assert any(line.startswith("Pulled") and "(100%)" in line for line in lines[:pulled])
    assert lines[pulled + 1 :][-1].startswith("Handled request")
    again, lines = answered(package, tmp_path / "log")
    assert again == first
    assert any(f"Going on with {source}@{entry.digest}, which was pulled before" in line for line in lines)


def answered(package: Path, log: Path) -> tuple[object, list[str]]:
    """What a server of the package answers, and what it logged until then."""
    with serving(package, log) as client:
        answer = client.post("/v1/models/model:predict", json={"prompt": "hello", "max_new_tokens": 8}).json()
        lines = [json.loads(line)["message"] for line in log.read_text().splitlines() if line.startswith("{")]
    return answer, [
        line for line in lines if line.startswith(("Serving", "Pull", "Engine", "Handled", "the connection"))
    ]


def test_ctrl_c_ends_a_pull_at_once(reference: Reference, engines: dict[str, Path], cache: Path) -> None:
    """From a registry that has stopped sending; what has arrived is kept."""
    done("push", "--engine", engines["large"], reference)
    with relay(reference.registry, LARGE) as address:
        stuck = f"oci://{address}/{reference.repository}:1"
        process = subprocess.Popen(
            [*TRTPACK, "pull", stuck],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=interruptible,
        )
        until(lambda: sum(arrived(cache).values()) > SMALL, timeout=30)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=5)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert sum(arrived(cache).values()) > SMALL


@contextmanager
def relay(registry: str, limit: int) -> Iterator[str]:
    """A relay to the registry that passes on so many bytes in all, and then leaves every connection hanging."""
    host, _, port = registry.rpartition(":")
    left = [limit]
    listener = socket.create_server(("127.0.0.1", 0))
    open_: list[socket.socket] = [listener]

    def pass_on(source: socket.socket, target: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(2**16):
                left[0] -= len(data) * counted
                if left[0] < 0:
                    return
                target.sendall(data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client = listener.accept()[0]
                server = socket.create_connection((host, int(port)))
                open_.extend((client, server))
                for ends in ((client, server, False), (server, client, True)):
                    Thread(target=pass_on, args=ends, daemon=True).start()

    Thread(target=accept, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        for each in open_:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # a thread may be waiting in it
            each.close()


def test_a_disk_that_is_full(reference: Reference, engines: dict[str, Path], tmp_path: Path) -> None:
    """On a small disk of its own, in a namespace of its own; what has arrived is kept for a larger one."""
    done("push", "--engine", engines["large"], reference)
    disk = tmp_path / "disk"
    disk.mkdir()
    alone = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-ec",
        'mount -t tmpfs -o size=8m none "$0"; "$@"',
        str(disk),
    ]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    result = subprocess.run(
        [*alone, *TRTPACK, "pull", str(reference)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "TRTPACK_CACHE_DIR": str(disk)},
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        f"error: the disk of {disk / 'blobs'} is full: free some space, or set TRTPACK_CACHE_DIR to a folder on a "
        "larger one; what has arrived is kept"
    )


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    """A registry of the same kind that asks for a password."""
    program = shutil.which("docker-registry") or shutil.which("registry")
    if program is None:
        pytest.skip("no docker-registry is installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    (tmp_path / "registry.yml").write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path / 'data'}}}}}\nhttp: {{addr: {address}}}\n"
        f"auth: {{htpasswd: {{realm: here, path: {tmp_path / 'htpasswd'}}}}}\n"
    )
    with (tmp_path / "registry.log").open("w") as log:
        process = subprocess.Popen([program, "serve", str(tmp_path / "registry.yml")], stdout=log, stderr=log)
        try:
            until(lambda: listens(address), timeout=20)
            yield address
        finally:
            process.kill()
            process.wait()


def listens(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/v2/").status_code == 401
    except httpx.HTTPError:
        return False


def test_a_registry_that_wants_a_password(
    guarded: str, engines: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    place = Reference(guarded, "me/engine", "1")
    assert refused("push", "--engine", engines["l4"], place) == (
        f"{guarded} does not let you read me/engine (HTTP 401): log in with docker login {guarded}, "
        "or ask its owner for the right"
    )
    for password, works in ("wrong", False), ("open sesame", True):
        auth = base64.b64encode(f"me:{password}".encode()).decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {guarded: {"auth": auth}}}))
        result = trtpack("push", "--engine", engines["l4"], place)
        assert (result.returncode == 0) is works, result.stderr
    done("pull", place)


def test_an_image_is_pushed_and_is_no_engine(reference: Reference, tmp_path: Path) -> None:
    docker("version")
    name = f"trtpack-test-{uuid.uuid4().hex[:8]}"
    (tmp_path / "config.yaml").write_text(f"model_name: {name}\n")
    target = f"{reference.registry}/{reference.repository}:1"
    assert f"there is no image {name}:latest here" in refused("push", tmp_path, target)
    pushed, content = target, io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    subprocess.run(
        ["docker", "import", "-", f"{name}:latest"], input=content.getvalue(), capture_output=True, check=True
    )
    try:
        (pushed,) = re.findall(r"(?m)^pushed (\S+)$", done("push", tmp_path, target))
        assert pushed == f"{reference.registry}/{reference.repository}@{digest_at(reference)}"
        remove(f"{name}:latest", target)
        docker("pull", pushed)
    finally:
        remove(f"{name}:latest", target, pushed)
    assert "is not an engine, but an image or something else" in refused("pull", reference)
