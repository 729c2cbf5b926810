"""``lamina image migrate``: from archives, layouts, podman, containerd and Docker; one by one, verified, resumable."""

import gzip
import json
import os
import shutil
import signal
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import unquote

import pytest

from lamina.errors import NoSpace, OciError
from lamina.oci.inspecting import SOURCE
from lamina.oci.migrate.folders import Folder
from lamina.oci.migrate.layouts import LayoutDirectory
from lamina.oci.migrate.migrating import FAILED, MIGRATED, THERE, How, Migration, Result
from lamina.oci.migrate.units import Part, Unit
from lamina.pool import Pool
from tests.oci import programs
from tests.oci.building import (
    OCI_INDEX,
    OCI_MANIFEST,
    BuiltImage,
    descriptor,
    directory,
    docker_archive,
    file,
    layer,
    write_layout,
)
from tests.oci.outgoing import area, call, podman_store

CHANCE = Random(5)
BASE = layer(directory("etc"), file("etc/base", CHANCE.randbytes(200_000)))
ONE = layer(file("app", CHANCE.randbytes(100_000)))
TWO = layer(file("app", CHANCE.randbytes(110_000)))
A, B, C = BuiltImage([BASE, ONE]), BuiltImage([BASE, TWO]), BuiltImage([BASE])


@pytest.fixture
def tank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    monkeypatch.setenv("LAMINA_POOLS", str(tmp_path / "pools"))
    with Pool.create("tank", tmp_path / "pool") as pool:
        yield pool


def migrate(capsys: pytest.CaptureFixture[str], *words: object, status: int = 0) -> dict[str, dict[str, Any]]:
    """Migrate; what ``--json`` says, by image."""
    capsys.readouterr()
    assert call("image", "migrate", "-j", *words) == status, capsys.readouterr().err
    return {one["image"]: one for one in json.loads(capsys.readouterr().out)["images"]}


def ids(tank: Pool, root: str = "tank") -> dict[str, str]:
    """The image IDs below a dataset, by name."""
    found = {}
    for entry in tank.images(root):
        row = tank.image(entry.name)
        assert row is not None
        found[entry.name] = row.config
    return found


# -- archives -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "folder"
    found.mkdir()
    (found / "both.tar").write_bytes(docker_archive({"team/a:1": A, "team/b:2": B}))
    (found / "old.tar").write_bytes(docker_archive({"registry.example/c:3": C}, old=True))
    (found / "packed.tar.gz").write_bytes(gzip.compress(docker_archive({"team/a:again": A, "team/b:again": B})))
    (found / "notes.txt").write_text("nothing of the kind")
    (found / "cut.tar").write_bytes(docker_archive({"team/d:1": A})[:150_000])
    return found


def test_a_folder_of_archives(tank: Pool, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    plan = migrate(capsys, "-n", folder, status=1)
    assert {name: one["state"] for name, one in plan.items()} == {
        **dict.fromkeys(("both.tar", "old.tar", "packed.tar.gz"), "migrated"),
        "cut.tar": "failed",
        "notes.txt": "skipped",
    }
    assert tank.images() == []
    done = migrate(capsys, folder, status=1)
    assert done["both.tar"]["names"] == ["tank/images/team/a@1", "tank/images/team/b@2"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, "nothing is removed unasked"
    want = {"team/a@1": A, "team/a@again": A, "team/b@2": B, "team/b@again": B, "c@3": C}
    assert ids(tank) == {f"tank/images/{name}": image.image_id for name, image in want.items()}
    assert sum(one["stored"] or 0 for one in done.values()) < 500_000, "what they share is stored once"
    again = migrate(capsys, "--delete-source", folder, status=1)
    assert {name: (one["state"], one["removed"]) for name, one in again.items()} == {
        **dict.fromkeys(("both.tar", "old.tar", "packed.tar.gz"), ("there", True)),
        "cut.tar": ("failed", False),
        "notes.txt": ("skipped", False),
    }
    assert {path.name for path in folder.iterdir()} == {"cut.tar", "notes.txt"}
    assert tank.check().problems == []


def test_a_file_alone(tank: Pool, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = migrate(capsys, "--delete-source", folder / "old.tar", "tank/attic")
    assert done["old.tar"]["removed"] and not (folder / "old.tar").exists()
    assert ids(tank) == {"tank/attic/c@3": C.image_id}
    source = tank.get("tank/attic/c@3", [SOURCE])[SOURCE].value
    assert source == "registry.example/c:3", "a pull knows where it is from"


def test_a_file_stays_until_all_its_images_are_in(
    tank: Pool, folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    put = tmp_path / "other.tar"
    put.write_bytes(docker_archive({"team/b:2": C}))
    assert call("image", "import", put, "tank/images/team/b@2") == 0
    done = migrate(capsys, "--delete-source", folder / "both.tar", status=1)
    assert "'tank/images/team/b@2' is another image already" in done["both.tar"]["why"]
    assert (folder / "both.tar").exists()
    assert ids(tank)["tank/images/team/b@2"] == C.image_id


def test_damage_after_the_import_keeps_the_original(
    tank: Pool, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lamina.oci.incoming import importing

    real = importing.import_images

    def damaging(pool: Pool, *arguments: Any, **more: Any) -> Any:
        report = real(pool, *arguments, **more)
        tree = pool.tree(report.name)
        app = tree.lookup(1, b"etc")
        assert app is not None
        base = tree.lookup(app.ino, b"base")
        assert base is not None
        location = pool.store.locate([tree.extents(base.ino)[0].key])[tree.extents(base.ino)[0].key]
        (pack,) = [path for path in (pool.path / "packs").iterdir() if int(path.stem) == location.pack]
        with pack.open("r+b") as raw:
            raw.seek(location.offset)
            byte = raw.read(1)[0]
            raw.seek(location.offset)
            raw.write(bytes([byte ^ 1]))
        return report

    monkeypatch.setattr("lamina.oci.migrate.migrating.import_images", damaging)
    done = migrate(capsys, "--delete-source", folder / "old.tar", status=1)
    assert done["old.tar"]["state"] == "failed" and "is damaged" in done["old.tar"]["why"]
    assert (folder / "old.tar").exists()


# -- layouts --------------------------------------------------------------------------------------------------------


def test_a_layout_is_emptied_entry_by_entry(tank: Pool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = write_layout(tmp_path / "app", {"v1": A, "v2": B, "v3": C})
    stray = layout / "blobs/sha256" / ("0" * 64)
    stray.write_bytes(b"whose is it?")
    (tmp_path / "b.tar").write_bytes(docker_archive({"x/y:1": A}))
    assert call("image", "import", tmp_path / "b.tar", "tank/images/app@v2") == 0
    done = migrate(capsys, "--delete-source", layout, status=1)
    assert {name: (one["state"], one["removed"]) for name, one in done.items()} == {
        "app:v1": ("there", True),
        "app:v2": ("failed", False),
        "app:v3": ("migrated", True),
    }
    assert ids(tank) == {
        "tank/images/app@v1": A.image_id,
        "tank/images/app@v2": A.image_id,
        "tank/images/app@v3": C.image_id,
    }
    index = json.loads((layout / "index.json").read_text())
    assert [one["annotations"]["org.opencontainers.image.ref.name"] for one in index["manifests"]] == ["v2"]
    left = {path.name for path in (layout / "blobs/sha256").iterdir()}
    assert left == {digest[7:] for digest in B.blobs()} | {stray.name}, "what B needs stays, and what is nobody's"
    assert call("image", "rm", "tank/images/app@v2") == 0
    done = migrate(capsys, "--delete-source", layout)
    assert done["app:v2"]["removed"]
    assert ids(tank)["tank/images/app@v2"] == B.image_id
    assert {path.name for path in (layout / "blobs/sha256").iterdir()} == {stray.name}
    assert area(tank, "tank/images/app@v1").config() == A.config


def test_names_of_one_image(tank: Pool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = write_layout(tmp_path / "app", {"v1": A, "latest": A})
    done = migrate(capsys, "--delete-source", layout)
    assert [one["names"] for one in done.values()] == [["tank/images/app@v1", "tank/images/app@latest"]]
    assert set(ids(tank).values()) == {A.image_id} and len(ids(tank)) == 2
    assert list((layout / "blobs/sha256").iterdir()) == []


def test_images_for_several_platforms_are_never_removed(
    tank: Pool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = BuiltImage([TWO], architecture="s390x")
    layout = write_layout(tmp_path / "app", {"x": A, "y": other})
    entries = [descriptor(OCI_MANIFEST, image.manifest, platform=image.platform) for image in (A, other)]
    inner = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    entry = descriptor(OCI_INDEX, inner, annotations={"org.opencontainers.image.ref.name": "multi"})
    (layout / "blobs/sha256" / entry["digest"][7:]).write_bytes(inner)
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}))
    done = migrate(capsys, "--delete-source", "--platform", "linux/amd64", layout)
    assert done["app:multi"]["state"] == "left" and "several platforms" in done["app:multi"]["why"]
    assert ids(tank) == {"tank/images/app@multi": A.image_id}
    assert len(list((layout / "blobs/sha256").iterdir())) == 8


def test_an_interrupt_leaves_both_sides_whole(
    tank: Pool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = write_layout(tmp_path / "app", {"v1": A, "v2": B, "v3": C})
    real = LayoutDirectory.remove

    def interrupted(self: LayoutDirectory, unit: Unit) -> None:
        if "v2" in unit.parts[0].names[0]:
            raise KeyboardInterrupt
        real(self, unit)

    monkeypatch.setattr(LayoutDirectory, "remove", interrupted)
    assert call("image", "migrate", "--delete-source", layout) == 130
    seen = capsys.readouterr()
    assert "app:v1" in seen.out and "migrated, removed" in seen.out, "what is done is told"
    assert set(ids(tank)) == {"tank/images/app@v1", "tank/images/app@v2"}
    monkeypatch.setattr(LayoutDirectory, "remove", real)
    done = migrate(capsys, "--delete-source", layout)
    assert {name: one["state"] for name, one in done.items()} == {"app:v2": "there", "app:v3": "migrated"}
    assert list((layout / "blobs/sha256").iterdir()) == []


def test_a_removal_is_not_broken_off(
    tank: Pool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = write_layout(tmp_path / "app", {"v1": A, "v2": C})
    real = LayoutDirectory._replace

    def interrupted(self: LayoutDirectory, index: bytes) -> None:
        real(self, index)
        signal.raise_signal(signal.SIGINT)  # the entry is gone, its blobs are still there

    monkeypatch.setattr(LayoutDirectory, "_replace", interrupted)
    assert call("image", "migrate", "--delete-source", layout) == 130
    assert "migrated, removed" in capsys.readouterr().out
    assert {path.name for path in (layout / "blobs/sha256").iterdir()} == {digest[7:] for digest in C.blobs()}
    assert ids(tank) == {"tank/images/app@v1": A.image_id}


# -- where there is little room -------------------------------------------------------------------------------------


@dataclass
class Rationed:
    """A source on a disk that is nearly full: each removal gives back room."""

    what: str = "a test"
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    room: int = 0
    taken: list[str] = field(default_factory=list)

    def units(self) -> list[Unit]:
        return [
            Unit(name, (Part((f"x/{name}:1",), (f"sha256:{name}",)),), need, frees)
            for name, (need, frees) in self.sizes.items()
        ]

    def open(self, unit: Unit, part: Part) -> Any:
        raise AssertionError("not in this test")

    def remove(self, unit: Unit) -> None:
        self.room += unit.frees


def test_what_frees_most_comes_first_where_room_is_short(tank: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Rationed(sizes={"big": (50, 90), "small": (5, 6), "good": (8, 80), "huge": (500, 500)}, room=10)

    def take(self: Migration, part: Part, result: Result) -> Result:
        if result.unit.size > source.room:
            raise NoSpace("no room")
        source.room -= result.unit.size
        source.taken.append(result.unit.label)
        return Result(result.unit, MIGRATED, stored=result.unit.size)

    monkeypatch.setattr(Migration, "_take", take)
    monkeypatch.setattr(Migration, "_known", lambda self, part: None)
    monkeypatch.setattr(Pool, "_free", lambda self: source.room)
    results = list(Migration(tank, source, How("tank/images", delete_source=True)).run(source.units()))
    assert source.taken == ["good", "big", "small"]
    assert [(one.unit.label, one.state) for one in results][-1] == ("huge", FAILED)
    assert results[-1].why == "no room"


def test_what_found_no_room_is_tried_again(tank: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    # All sizes are estimates: what looked as if it fitted did not.
    source = Rationed(sizes={"first": (1, 1), "second": (2, 50)}, room=10)

    def take(self: Migration, part: Part, result: Result) -> Result:
        if result.unit.label == "first" and source.room < 40:
            raise NoSpace("no room")
        source.taken.append(result.unit.label)
        return Result(result.unit, THERE)

    monkeypatch.setattr(Migration, "_take", take)
    monkeypatch.setattr(Pool, "_free", lambda self: source.room)
    results = list(Migration(tank, source, How("tank/images", delete_source=True)).run(source.units()))
    assert source.taken == ["second", "first"]
    assert {one.state for one in results} == {THERE}


def test_a_disk_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Pool and archives on one small disk: with the originals removed in turn all fit, and not otherwise."""
    programs.need("mount")
    disk = tmp_path / "disk"
    disk.mkdir()
    monkeypatch.setenv("LAMINA_POOLS", str(tmp_path / "pools"))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("cannot mount a tmpfs")
    try:
        with Pool.create("tank", disk / "pool") as pool:
            chance = Random(3)
            base = layer(file("base", chance.randbytes(1 << 20)))
            folder = disk / "folder"
            folder.mkdir()
            for number in range(5):
                image = BuiltImage([base, layer(file("own", chance.randbytes(200_000)))])
                (folder / f"{number}.tar").write_bytes(docker_archive({f"x/y:{number}": image}))
            used = os.statvfs(disk)
            # Room for one more image and what the pool keeps free, not for five.
            ballast = used.f_bavail * used.f_frsize - (3 << 20)
            (disk / "ballast").write_bytes(b"\1" * max(ballast, 0))
            done = migrate(capsys, "--delete-source", folder)
            assert [one["removed"] for one in done.values()] == [True] * 5
            assert len(pool.images()) == 5 and list(folder.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# -- engines --------------------------------------------------------------------------------------------------------


def test_podman(tank: Pool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    programs.need("podman")
    (tmp_path / "a.tar").write_bytes(docker_archive({"docker.io/team/a:1": A}))
    (tmp_path / "b.tar").write_bytes(docker_archive({"docker.io/team/b:1": B}))
    with podman_store() as (root, runroot):
        podman = ["podman", "--root", root, "--runroot", runroot, "--storage-driver", "vfs"]
        store = f"containers-storage:[vfs@{root}+{runroot}]"
        for name in ("a", "b"):
            programs.run(*podman, "load", "-i", tmp_path / f"{name}.tar")
        programs.run(*podman, "tag", "docker.io/team/a:1", "docker.io/team/a:latest")
        programs.run(*podman, "create", "--name", "worker", "--network", "none", "docker.io/team/b:1", "/x")
        done = migrate(capsys, store)
        assert {one["state"] for one in done.values()} == {"migrated"}
        assert ids(tank) == {
            "tank/images/team/a@1": A.image_id,
            "tank/images/team/a@latest": A.image_id,
            "tank/images/team/b@1": B.image_id,
        }
        again = migrate(capsys, "--delete-source", store)
        states = {one["names"][0] if one["names"] else "b": (one["state"], one["removed"]) for one in again.values()}
        assert set(states.values()) == {("there", True), ("skipped", False)}
        assert "worker" in next(one["why"] for one in again.values() if one["state"] == "skipped")
        left = json.loads(programs.run(*podman, "images", "--format", "json"))
        assert [one["Names"] for one in left] == [["docker.io/team/b:1"]]
        programs.run(*podman, "rm", "worker")
        last = migrate(capsys, "--delete-source", store)
        assert [(one["state"], one["removed"]) for one in last.values()] == [("there", True)]
        assert json.loads(programs.run(*podman, "images", "--format", "json")) == []


def test_containerd(
    tank: Pool,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    programs.need("containerd", "ctr")
    folder = tmp_path_factory.mktemp("c")
    (tmp_path / "all.tar").write_bytes(docker_archive({"docker.io/team/a:1": A, "docker.io/team/b:1": B}))
    with programs.containerd(folder, sweeps=True) as engine:
        monkeypatch.setenv("CONTAINERD_ADDRESS", str(folder / "c.sock"))
        engine.load(tmp_path / "all.tar")
        assert len(engine.names()) == 2
        done = migrate(capsys, "containerd://tests")
        assert {one["state"] for one in done.values()} == {"migrated"}
        assert ids(tank) == {"tank/images/team/a@1": A.image_id, "tank/images/team/b@1": B.image_id}
        again = migrate(capsys, "--delete-source", "containerd://tests")
        assert {(one["state"], one["removed"]) for one in again.values()} == {("there", True)}
        assert engine.names() == []
        assert engine.ctr("content", "ls", "-q").split() == []


@dataclass
class Daemon:
    """What a Docker daemon knows."""

    images: dict[str, tuple[list[str], BuiltImage]] = field(default_factory=dict)
    containers: list[dict[str, Any]] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def add(self, image: BuiltImage, *names: str) -> None:
        self.images[image.image_id] = (list(names), image)

    def answer(self, method: str, path: str) -> tuple[int, bytes]:
        self.asked.append(f"{method} {path}")
        if path == "/images/json":
            listed = [{"Id": id_, "RepoTags": names, "Size": 3 << 20} for id_, (names, _) in self.images.items()]
            return 200, json.dumps(listed).encode()
        if path.startswith("/containers/json"):
            return 200, json.dumps(self.containers).encode()
        name = path.removeprefix("/images/").removesuffix("/get")
        for id_, (names, image) in list(self.images.items()):
            if name in (id_, *names):
                if method == "GET":
                    return 200, docker_archive({names[0] if names else "none:none": image})
                if name in self.refused:
                    return 409, json.dumps({"message": f"conflict: unable to remove {name}"}).encode()
                names[:] = [one for one in names if one != name]
                if not names:
                    del self.images[id_]
                return 200, b"[]"
        return 404, json.dumps({"message": "no such image"}).encode()


@contextmanager
def docker_daemon(socket: Path) -> Iterator[Daemon]:
    """A socket that answers as Docker's does."""
    daemon = Daemon()

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            status, body = daemon.answer(self.command, unquote(self.path))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_DELETE = _any

        def address_string(self) -> str:
            return "socket"

        def log_message(self, *_: Any) -> None:
            pass

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

    with Server(str(socket), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield daemon
        finally:
            server.shutdown()
            thread.join()


def test_docker(
    tank: Pool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/d.sock")
    with docker_daemon(tmp_path / "d.sock") as docker:
        docker.add(A, "team/a:1", "team/a:latest")
        docker.add(B, "team/b:1")
        docker.add(C)
        docker.containers.append({"Id": "f" * 64, "Names": ["/web"], "ImageID": B.image_id})
        plan = migrate(capsys, "-n", "--delete-source", "docker-daemon:")
        assert {one["state"] for one in plan.values()} == {"migrated", "skipped"}
        assert not any(line.startswith("DELETE") or line.endswith("/get") for line in docker.asked)
        done = migrate(capsys, "--delete-source", "docker-daemon:")
        assert done["team/a:1"]["removed"]
        assert done["team/b:1"]["why"] == "containers use it: web"
        assert "it has no name; --all takes such images too" in done[C.image_id]["why"]
        assert ids(tank) == {"tank/images/team/a@1": A.image_id, "tank/images/team/a@latest": A.image_id}
        assert set(docker.images) == {B.image_id, C.image_id}
        # What the daemon refuses to remove is told, and the others go on.
        docker.containers.clear()
        docker.refused.add("team/b:1")
        docker.asked.clear()
        done = migrate(capsys, "--all", "--delete-source", "docker-daemon:", status=1)
        assert done["team/b:1"]["state"] == "left" and "conflict" in done["team/b:1"]["why"]
        assert done[C.image_id]["removed"]
        assert ids(tank)[f"tank/images/untagged@{C.image_id[7:19]}"] == C.image_id
        # It is in the pool by now: the next time it is not read again.
        docker.refused.clear()
        docker.asked.clear()
        done = migrate(capsys, "--delete-source", "docker-daemon:")
        assert (done["team/b:1"]["state"], done["team/b:1"]["removed"]) == ("there", True)
        assert not any(line.endswith("/get") for line in docker.asked)
        assert docker.images == {}


def test_an_id_that_the_pool_does_not_know(
    tank: Pool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker with containerd's store calls images by their manifest or index: the import tells if it is the same."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/d.sock")
    with docker_daemon(tmp_path / "d.sock") as docker:
        docker.images["sha256:" + "7" * 64] = (["team/a:1"], A)
        assert [one["state"] for one in migrate(capsys, "docker-daemon:").values()] == ["migrated"]
        done = migrate(capsys, "--delete-source", "docker-daemon:")
        assert [(one["stored"] < 10_000, one["removed"]) for one in done.values()] == [(True, True)]
        assert ids(tank) == {"tank/images/team/a@1": A.image_id}
        docker.images["sha256:" + "8" * 64] = (["team/a:1"], B)
        done = migrate(capsys, "--delete-source", "docker-daemon:", status=1)
        assert [one["why"].partition(";")[0] for one in done.values()] == [
            "'tank/images/team/a@1' is another image already"
        ]
        assert ids(tank) == {"tank/images/team/a@1": A.image_id}
        assert docker.images


def test_no_daemon(tank: Pool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    assert call("image", "migrate", "docker-daemon:") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "Docker does not answer" in line


# -- what is shown and refused --------------------------------------------------------------------------------------


def test_the_table(tank: Pool, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert call("image", "migrate", "--delete-source", folder) == 1
    seen = capsys.readouterr()
    header, *rows = seen.out.splitlines()
    assert header.split() == ["IMAGE", "SIZE", "STORED", "SAVED", "RESULT"]
    assert [row.split()[0] for row in rows] == [
        *("cut.tar", "notes.txt", "both.tar", "old.tar", "packed.tar.gz", "total"),
    ]
    assert rows[-1].endswith("3 of 5")
    assert [line.partition(":")[0] for line in seen.err.splitlines()] == ["cut.tar", "notes.txt"]
    capsys.readouterr()
    (folder / "cut.tar").unlink()
    assert call("image", "migrate", "-Hp", folder) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.split("\t")[0] == "notes.txt" and line.split("\t")[-1] == "skipped"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 2, "missing source argument"),
        (["{tmp}/none"], 1, "no such file or directory"),
        (["docker-daemon:debian:12"], 2, "is one image: 'lamina image import' takes it"),
        (["{tmp}", "tank//bad"], 1, "cannot migrate"),
        (["{tmp}", "other/images"], 1, "no such pool"),
        (["--pool", "other", "{tmp}", "tank/images"], 2, "leave out --pool"),
        (["{tmp}", "tank/images", "x"], 2, "too many arguments"),
    ],
)
def test_what_is_refused(
    tank: Pool, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], status: int, said: str
) -> None:
    assert call("image", "migrate", *(word.format(tmp=tmp_path) for word in words)) == status
    assert said in capsys.readouterr().err.splitlines()[0]


def test_a_folder_that_is_not_there_any_more(tmp_path: Path, folder: Path) -> None:
    source = Folder(folder)
    (unit,) = [unit for unit in source.units() if unit.label == "old.tar"]
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(OciError, match=r"has no 'old\.tar' any more"):
        source.remove(unit)
