"""Repair from every kind of source: what comes is proved, what is kept is right, what is left is named."""

import gzip
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.errors import LaminaError, SourceError
from lamina.fs.view import path_of
from lamina.mount import umount
from lamina.pool import Pool
from lamina.pool.scrubbing.sources import GREETING, KEY, HostSource, PoolSource
from lamina.store.record import RECORD_HEADER, Kind, parse_record_header, record_header
from tests.mount.conftest import fuse_missing
from tests.pool.damaging import (
    Spot,
    check_places,
    chunk_of,
    damage,
    flip,
    forget,
    make_source,
    node_of,
    pack_path,
    scrubbed,
    spots,
)
from tests.pool.trees import Source, blob, write_tree

SOURCE = str(Path(__file__).resolve().parents[2] / "src")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Source]:
    """A pool with one image in several packs, another pool with the same files and more, and the files."""
    parent = tmp_path_factory.mktemp("repair")
    source = make_source(parent / "source")
    for _ in range(2):  # looking at a directory sets its access time, once
        time.sleep(0.02)
        list(os.walk(source.path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAMINA_POOLS", str(parent / "known"))
        patch.setattr("lamina.store.writer.PACK_TARGET", 200_000)
        with Pool.create("tank", parent / "tank") as pool:
            pool.import_image(source.path, "tank/i@1")
        with Pool.create("vault", parent / "vault", properties={"compression": "lz4"}) as vault:
            vault.import_image(write_tree(parent / "more", {"x": blob(77, 60_000)}).path, "vault/other@1")
            vault.import_image(source.path, "vault/copy@1")
    return parent / "tank", parent / "vault", source


@pytest.fixture
def source(made: tuple[Path, Path, Source]) -> Source:
    return made[2]


@pytest.fixture
def files(source: Source, tmp_path: Path) -> Path:
    """The files once more, to be changed; times as they were."""
    shutil.copytree(source.path, tmp_path / "files", symlinks=True)
    return tmp_path / "files"


@pytest.fixture
def image(place: Path, made: tuple[Path, Path, Source]) -> Iterator[Pool]:
    """The pool, to be damaged; the other one is known as ``vault``."""
    shutil.copytree(made[0], place / "tank")
    (place / "known").mkdir()
    os.symlink(made[1], place / "known" / "vault")
    with Pool.open(place / "tank", write=True) as pool:
        yield pool


def hurt(pool: Pool) -> int:
    """Damage data and both copies of a leaf, lose a pack; how many objects that hits."""
    for spot in node_of(pool, "many/0700"):
        flip(pool, spot, 17)
    flip(pool, chunk_of(pool, "dir/f3"))
    flip(pool, chunk_of(pool, "many/0007"))
    pack_path(pool, chunk_of(pool, "dir/f5").pack).unlink()
    return scrubbed(pool).errors


def healthy(pool: Pool, source: Source) -> None:
    """Nothing is wrong any more, and every byte is right."""
    status = pool.status()
    assert (status.state, status.errors, status.read_errors, status.checksum_errors) == ("ONLINE", 0, 0, 0)
    assert damage(pool) == set()
    again = scrubbed(pool)
    assert (again.errors, again.repaired) == (0, 0)
    with Pool.open(pool.path) as fresh:
        assert not fresh.verify("tank/i@1", source.path)
    check_places(pool)


@pytest.mark.parametrize("by_name", [True, False])
def test_from_another_pool(image: Pool, source: Source, made: tuple[Path, Path, Source], by_name: bool) -> None:
    wrong = hurt(image)
    assert wrong >= 4 and image.status().state == "DEGRADED"
    before = image.get("tank/i@1", ["logicalreferenced"])
    steps: list[tuple[int, int]] = []
    report = image.repair("vault" if by_name else str(made[1]), progress=lambda *step: steps.append(step))
    assert (report.repaired, report.left) == (wrong, 0)
    assert steps == [(number, wrong) for number in range(1, wrong + 1)]
    healthy(image, source)
    assert image.get("tank/i@1", ["logicalreferenced"]) == before
    # The other pool compresses otherwise: what came is stored as it came, and accounting knows its size.
    rows = image.store.database.query("SELECT sum(stored) FROM object WHERE kind != 4")
    assert image.get("tank", ["used"])["used"].value == rows[0][0]


def test_damage_that_no_scrub_has_seen_yet(image: Pool, source: Source) -> None:
    """A lost pack is seen at a glance; other damage by the scrub that a repair begins with."""
    pack_path(image, chunk_of(image, "dir/f5").pack).unlink()
    assert image.status().errors == 0
    assert image.repair("vault").left == 0
    healthy(image, source)
    flip(image, chunk_of(image, "dir/f3"))
    report = image.repair("vault")
    assert (report.repaired, report.left) == (1, 0)
    healthy(image, source)
    report = image.repair("vault")
    assert (report.repaired, report.stored, report.left) == (0, 0, 0)


def test_everything_but_the_catalogue(image: Pool, source: Source) -> None:
    """All packs are lost: trees, data, and the names, which the catalogue still has."""
    for path in (image.path / "packs").iterdir():
        path.unlink()
    report = image.repair("vault")
    assert report.left == 0
    healthy(image, source)


def test_what_the_index_has_lost(image: Pool, source: Source) -> None:
    """A node without a row hides what else is missing below it: found once the node is back."""
    used = image.get("tank/i", ["used", "referenced"])
    forget(image, chunk_of(image, "dir/f3"), *node_of(image, "many/0700")[:1], chunk_of(image, "many/0700"))
    with Pool.open(image.path, write=True) as again:
        report = again.repair("vault")
        assert report.left == 0 and report.repaired >= 3
        healthy(again, source)
        again.gc()
        healthy(again, source)
        bitmap_rows = again.store.database.query("SELECT count(*) FROM object WHERE kind IN (1, 2, 3)")[0][0]
        assert bitmap_rows == sum(len(spots(again, kind)) for kind in (Kind.CHUNK, Kind.NODE, Kind.ROOT))
        assert set(used) == set(again.get("tank/i", ["used", "referenced"]))


def test_a_pool_that_is_damaged_itself(image: Pool, source: Source, made: tuple[Path, Path, Source]) -> None:
    """What the source cannot prove does not come; its own copies are used."""
    spoilt = image.path.parent / "spoilt"
    shutil.copytree(made[0], spoilt)
    with Pool.open(spoilt, write=True) as other:
        flip(other, chunk_of(other, "dir/f3"))
        flip(other, node_of(other, "many/0700")[0], 17)
    wrong = hurt(image)
    report = image.repair(str(spoilt))
    assert (report.repaired, report.left) == (wrong - 1, 1)
    assert damage(image) == {"tank/i:/dir/f3", "tank/i@1:/dir/f3"}
    assert image.status().state == "DEGRADED"
    assert image.repair("vault").left == 0
    healthy(image, source)


# -- from files ----------------------------------------------------------------------------------------------------


def test_from_a_directory(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data by ranges, the leaf by importing once more, since nobody has touched the files' times."""
    monkeypatch.setattr("lamina.store.writer.PACK_TARGET", 200_000)
    source = make_source(tmp_path / "source")
    for _ in range(2):
        time.sleep(0.02)
        list(os.walk(source.path))
    pool.import_image(source.path, "tank/i@1")
    wrong = hurt(pool)
    report = pool.repair(str(source.path))
    assert (report.repaired, report.left) == (wrong, 0)
    healthy(pool, source)
    assert [entry.name for entry in pool.images()] == ["tank/i@1"]


def test_data_from_a_copy_of_the_directory(image: Pool, source: Source, files: Path) -> None:
    """Ranges need no more than the same bytes under the same paths."""
    flip(image, chunk_of(image, "dir/f3"))
    flip(image, chunk_of(image, "many/0007"))
    flip(image, chunk_of(image, "dir/f1"))
    os.unlink(files / "dir/f1")  # it has another name, "again"
    report = image.repair(str(files))
    assert (report.repaired, report.left) == (3, 0)
    healthy(image, source)


def test_files_that_have_changed(image: Pool, files: Path) -> None:
    """What is not the same any more is not kept: one file of a group is enough."""
    flip(image, chunk_of(image, "dir/f3"))
    flip(image, chunk_of(image, "many/0007"))
    flip(image, chunk_of(image, "dir/f2"))
    flip(image, chunk_of(image, "dir/f4"))
    (files / "dir/f3").write_bytes(b"?" + blob(3 * 2, 150_000)[1:])
    (files / "many/0008").write_bytes(b"other")
    os.unlink(files / "dir/f2")
    os.symlink("f1", files / "dir/f2")
    report = image.repair(str(files))
    assert (report.repaired, report.left) == (1, 3)
    named = damage(image)
    assert {"tank/i:/dir/f3", "tank/i@1:/dir/f2", "tank/i@1:/many/0007"} < named
    assert not any(one.endswith("/dir/f4") for one in named)


def test_the_same_bytes_under_another_name(image: Pool, source: Source, files: Path, tmp_path: Path) -> None:
    """A chunk that several files hold comes from whichever is still the same."""
    shutil.copytree(source.path / "dir", tmp_path / "twice/one")
    shutil.copytree(source.path / "dir", tmp_path / "twice/two")
    image.import_image(tmp_path / "twice", "tank/twice@1")
    flip(image, chunk_of(image, "one/f4", "tank/twice@1"))
    scrubbed(image)
    assert len(damage(image)) == 2 + 4
    shutil.rmtree(files)
    (files / "two").mkdir(parents=True)
    (files / "one").mkdir(parents=True)
    shutil.copy(source.path / "dir/f4", files / "two/f4")
    (files / "one/f4").write_bytes(bytes(150_000))
    assert image.repair(str(files)).left == 0
    healthy(image, source)


def test_devices_and_links_in_the_source_are_not_followed(image: Pool, files: Path) -> None:
    """A FIFO where a file was must not hang the repair. What lies elsewhere now is found by importing once more."""
    flip(image, chunk_of(image, "dir/f3"))
    flip(image, chunk_of(image, "dir/f4"))
    os.unlink(files / "dir/f3")
    os.mkfifo(files / "dir/f3")
    (files / "dir").rename(files / "real")
    os.symlink("real", files / "dir")
    report = image.repair(str(files))
    assert (report.repaired, report.left) == (1, 1)
    assert damage(image) == {"tank/i:/dir/f3", "tank/i@1:/dir/f3"}


def make_tar(source: Path, archive: Path, mode: str) -> Path:
    with tarfile.open(archive, mode, format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        tar.add(source, arcname=".")
    return archive


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_from_an_archive(pool: Pool, source: Source, tmp_path: Path, mode: str) -> None:
    """Of a tar that was imported everything comes back, tree nodes too."""
    archive = make_tar(source.path, tmp_path / "image.tar", mode)
    pool.import_image(archive, "tank/i@1")
    for spot in node_of(pool, "many/0700"):
        flip(pool, spot, 17)
    flip(pool, chunk_of(pool, "dir/f3"))
    flip(pool, chunk_of(pool, "dir/f1"))
    flip(pool, chunk_of(pool, "many/0007"))
    assert scrubbed(pool).errors == 4
    report = pool.repair(str(archive))
    assert (report.repaired, report.left) == (4, 0)
    assert scrubbed(pool).errors == 0
    assert not [one for one in pool.verify("tank/i@1", source.path) if "time" not in one.what]
    check_places(pool)


def test_data_from_an_archive_of_files_imported_otherwise(image: Pool, source: Source, tmp_path: Path) -> None:
    """The hard link comes first under its other name; the file that holds the bytes may be any of them."""
    archive = tmp_path / "image.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("dir", "again", "many"):
            tar.add(source.path / name, arcname=name)
    flip(image, chunk_of(image, "dir/f1"))
    flip(image, chunk_of(image, "dir/f5"))
    report = image.repair(str(archive))
    assert (report.repaired, report.left) == (2, 0)
    healthy(image, source)


def test_sparse_files(pool: Pool, tmp_path: Path) -> None:
    """Holes are no chunks; in a sparse tar, zeros between the segments are."""
    tree = tmp_path / "sparse"
    tree.mkdir()
    with (tree / "file").open("wb") as file:
        file.truncate(4 << 20)
        file.seek(1 << 20)
        file.write(blob(2, 100_000) + bytes(9000) + blob(4, 200_000))
    pool.import_image(tree, "tank/s@1")
    subprocess.run(["tar", "-C", tree, "-cSf", tmp_path / "sparse.tar", "."], check=True)
    for where in (tree, tmp_path / "sparse.tar"):
        for some in spots(pool, Kind.CHUNK):
            flip(pool, some[0])
        assert scrubbed(pool).errors == len(spots(pool, Kind.CHUNK)) >= 1
        assert pool.repair(str(where)).left == 0
        assert not pool.verify("tank/s@1", tree)


def test_a_damaged_archive(image: Pool, source: Source, tmp_path: Path) -> None:
    archive = make_tar(source.path, tmp_path / "image.tar", "w")
    packed = gzip.compress(archive.read_bytes(), 1)
    (tmp_path / "image.tgz").write_bytes(packed[: len(packed) // 3])
    flip(image, chunk_of(image, "many/0700"))
    with pytest.raises(SourceError):
        image.repair(str(tmp_path / "image.tgz"))
    assert scrubbed(image).errors == 1
    (tmp_path / "text").write_text("this is no archive\n" * 1000)
    with pytest.raises(SourceError):
        image.repair(str(tmp_path / "text"))


def test_copies_are_made_again(pool: Pool, tmp_path: Path) -> None:
    """Data that was kept twice is kept twice after its repair."""
    source = make_source(tmp_path / "source")
    pool.create_dataset("tank/i", {"copies": "2"})
    pool.import_image(source.path, "tank/i@1")
    kept = [some for some in spots(pool, Kind.CHUNK) if some[0].location.key == chunk_of(pool, "dir/f3").location.key]
    assert len(kept[0]) == 2
    flip(pool, kept[0][1])
    assert (scrubbed(pool).errors, damage(pool)) == (0, set())  # from the other one
    for some in spots(pool, Kind.CHUNK):
        if some[0].location.key == kept[0][0].location.key:
            for spot in some:
                flip(pool, spot)
    assert pool.repair(str(source.path)).left == 0
    assert all(len(some) == 2 for some in spots(pool, Kind.CHUNK))
    check_places(pool)


# -- from another host ---------------------------------------------------------------------------------------------


@pytest.fixture
def fake_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What sshd does with a command line: a shell runs it. The arguments are written down."""
    script = tmp_path / "ssh"
    script.write_text(
        f"#!/bin/sh\nprintf '%s\\n' \"$@\" >> '{tmp_path}/asked'\n"
        'while [ "${1#-}" != "$1" ]; do shift; done\nshift\nexec sh -c "$*"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("LAMINA_SSH", str(script))
    monkeypatch.setenv("LAMINA_REMOTE", f"{sys.executable} -m lamina")
    monkeypatch.setenv("PYTHONPATH", SOURCE)
    return script


@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.usefixtures("fake_ssh")
def test_over_ssh(image: Pool, source: Source, made: tuple[Path, Path, Source], tmp_path: Path, by_name: bool) -> None:
    wrong = hurt(image)
    report = image.repair(f"backup@nas:{'vault' if by_name else made[1]}")
    assert (report.repaired, report.left) == (wrong, 0)
    healthy(image, source)
    assert (tmp_path / "asked").read_text().splitlines()[0] == "backup@nas"


def test_the_ssh_command_can_be_chosen(image: Pool, source: Source, fake_ssh: Path, tmp_path: Path) -> None:
    flip(image, chunk_of(image, "dir/f3"))
    os.environ["LAMINA_SSH"] = "/no/such/ssh"
    with pytest.raises(SourceError, match="cannot run '/no/such/ssh': No such file or directory"):
        image.repair("nas:vault")
    assert image.repair("nas:vault", ssh=f"{fake_ssh} -p -v").left == 0
    assert (tmp_path / "asked").read_text().splitlines()[:3] == ["-p", "-v", "nas"]
    healthy(image, source)


@pytest.mark.usefixtures("fake_ssh")
def test_no_word_reaches_a_shell_unquoted(image: Pool, made: tuple[Path, Path, Source], tmp_path: Path) -> None:
    strange = tmp_path / "it's; touch INJECTED; $(touch INJECTED) `touch INJECTED` \"& | >x"
    shutil.copytree(made[1], strange)
    flip(image, chunk_of(image, "dir/f3"))
    assert image.repair(f"nas:{strange}").left == 0
    assert not list(tmp_path.rglob("INJECTED")) and not Path("INJECTED").exists()
    for host in ("-oProxyCommand=touch INJECTED", "", "--"):
        with pytest.raises(SourceError, match=r"\[user@\]host:pool is expected"):
            image.repair(f"{host}:vault")
    assert not list(tmp_path.rglob("INJECTED"))


def answering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A host that answers with what Python code writes; ``keys`` reads what is asked."""
    program = tmp_path / "host.py"
    program.write_text(
        "import os, sys\n"
        "out = sys.stdout.buffer\n"
        f"sys.path.insert(0, {SOURCE!r})\n"
        "from lamina.store.record import record_header\n"
        "import xxhash\n"
        "def keys():\n    data = os.read(0, 1 << 20)\n    return [data[n:n + 32] for n in range(0, len(data), 32)]\n"
        "def send(key, data, kind=1, codec=0, decoded=None, total=None):\n"
        "    out.write(record_header(kind, codec, len(data), len(data) if decoded is None else decoded,\n"
        "        xxhash.xxh3_64_intdigest(data), key) + data)\n    out.flush()\n"
        f"hello = {GREETING!r}\n" + body
    )
    monkeypatch.setenv("LAMINA_SSH", f"{sys.executable} {program}")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "the other side is no lamina that gives objects$"),
        ("print('Welcome to nas!', flush=True)", "the other side is no lamina that gives objects$"),
        ("sys.exit('lamina: command not found')", "gives objects: lamina: command not found$"),
        ("sys.exit('a\\x1b[2Jb')", r"gives objects: a\\x1b\[2Jb$"),
        ("out.write(hello); out.flush(); keys()", "the connection ended$"),
        ("out.write(hello); out.write(b'x' * 100); out.flush(); keys()", "what it sent is no record: record header"),
        ("out.write(hello); keys(); send(b'k' * 32, b'data')", "it sent what was not asked for$"),
        (
            "out.write(hello)\nfor key in keys(): out.write(record_header(1, 0, 1 << 31, 1 << 31, 0, key)); break",
            "it sent what was not asked for$",
        ),
    ],
)
def test_a_host_that_speaks_otherwise(
    image: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    flip(image, chunk_of(image, "dir/f3"))
    scrubbed(image)
    answering(tmp_path, monkeypatch, body)
    with pytest.raises(SourceError, match=message) as caught:
        image.repair("nas:vault")
    assert "\n" not in str(caught.value)
    assert image.status().errors == 1


@pytest.mark.parametrize(
    "send",
    [
        "send(key, b'something else entirely')",  # not what the key is of
        "send(key, b'x', codec=1, decoded=1 << 19)",  # does not decode
        "send(key, b'x', codec=99)",
        "out.write(record_header(1, 0, 4, 4, 0, key) + b'data')",  # nor what its checksum says
        "out.write(record_header(0, 0, 0, 0, 0, key))",  # not there
    ],
)
def test_a_host_that_lies(
    image: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Source, send: str
) -> None:
    """Nothing of it is kept."""
    flip(image, chunk_of(image, "dir/f3"))
    scrubbed(image)
    answering(tmp_path, monkeypatch, f"out.write(hello); out.flush()\nfor key in keys(): {send}\nout.flush(); keys()")
    report = image.repair("nas:vault")
    assert (report.repaired, report.left) == (0, 1)
    assert damage(image) == {"tank/i:/dir/f3", "tank/i@1:/dir/f3"}
    assert image.repair(str(source.path)).left == 0
    healthy(image, source)


def test_what_is_served(made: tuple[Path, Path, Source]) -> None:
    """The other side alone: greeting, records in any order, a header of kind 0 for what it does not have."""
    with Pool.open(made[1]) as vault:
        known = [some[0].location.key for some in spots(vault, Kind.CHUNK)[:600]]
        wanted = {record.key: (record, payload) for record, payload in PoolSource(vault).fetch(known)}
        assert wanted.keys() == set(known)
    process = subprocess.Popen(
        [sys.executable, "-m", "lamina", "__objects", str(made[1])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": SOURCE},
    )
    unknown = [bytes([n]) * KEY for n in range(3)]
    asked = b"".join(known[:1] + unknown + known[1:])
    assert process.stdin is not None and process.stdout is not None
    answers: list[bytes] = []
    reader = threading.Thread(target=lambda: answers.append(process.stdout.read()))  # type: ignore[union-attr]
    reader.start()
    for at in range(0, len(asked), 77):  # keys come in pieces
        process.stdin.write(asked[at : at + 77])
        process.stdin.flush()
    process.stdin.close()
    reader.join()
    assert process.wait() == 0
    data = answers[0]
    assert data.startswith(GREETING)
    position = len(GREETING)
    absent = set()
    while position < len(data):
        record = parse_record_header(data[position : position + RECORD_HEADER], position)
        if record.kind:
            told, payload = wanted.pop(record.key)
            assert data[record.offset : record.offset + record.stored] == payload
            assert (record.kind, record.codec, record.decoded) == (told.kind, told.codec, told.decoded)
        else:
            absent.add(record.key)
        position = record.offset + record.stored
    assert (wanted, absent) == ({}, set(unknown))


def test_a_header_is_a_header() -> None:
    """The answer for what is not there parses like any other record."""
    assert parse_record_header(record_header(0, 0, 0, 0, 0, b"k" * KEY), 0).kind == 0


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A real server on a port of its own, and keys for it; ssh options to reach it."""
    server = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if server is None or shutil.which("ssh") is None or os.geteuid() != 0:
        pytest.skip("no sshd here, or not root")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    shutil.copy(tmp_path / "user.pub", tmp_path / "authorized")
    os.makedirs("/run/sshd", exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = tmp_path / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/authorized\n"
        "PasswordAuthentication no\nPermitRootLogin yes\nStrictModes no\nPidFile none\n"
    )
    process = subprocess.Popen([server, "-D", "-e", "-f", config], stderr=subprocess.DEVNULL)
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        if process.poll() is not None:
            pytest.skip("sshd does not start here")
        time.sleep(0.02)
    monkeypatch.setenv("LAMINA_REMOTE", f"env PYTHONPATH={SOURCE} "
                       f"{sys.executable} -m lamina")  # fmt: skip
    yield (
        f"ssh -p {port} -i {tmp_path}/user -o BatchMode=yes -o StrictHostKeyChecking=no "
        f"-o UserKnownHostsFile={tmp_path}/known_hosts -o LogLevel=ERROR -F /dev/null"
    )
    process.terminate()
    process.wait()


def test_over_a_real_ssh(image: Pool, source: Source, made: tuple[Path, Path, Source], sshd: str) -> None:
    wrong = hurt(image)
    report = image.repair(f"root@127.0.0.1:{made[1]}", ssh=sshd)
    assert (report.repaired, report.left) == (wrong, 0)
    healthy(image, source)
    with pytest.raises(SourceError, match="cannot open 'nosuch': no such pool"):
        image.repair("root@127.0.0.1:nosuch", ssh=sshd)


def test_closing_a_source_twice(fake_ssh: Path, made: tuple[Path, Path, Source]) -> None:
    source = HostSource("nas", str(made[1]), str(fake_ssh))
    assert list(source.fetch([])) == []
    source.close()
    source.close()


def test_a_reader_cannot_repair(image: Pool) -> None:
    flip(image, chunk_of(image, "dir/f3"))
    with Pool.open(image.path) as reader, pytest.raises(LaminaError):
        reader.repair("vault")


def test_a_reader_goes_on_with_what_was_repaired(image: Pool, source: Source) -> None:
    """Whoever has the pool open reads the right data as soon as it is there."""
    spot: Spot = chunk_of(image, "dir/f3")
    flip(image, spot)
    with Pool.open(image.path) as reader:
        tree = reader.tree("tank/i@1")
        ino = path_of(tree, b"dir/f3")
        wanted = (source.path / "dir/f3").read_bytes()
        with pytest.raises(LaminaError):
            tree.read(ino, 0, len(wanted))
        assert image.repair("vault").left == 0
        assert tree.read(ino, 0, len(wanted)) == wanted


def test_a_mount_goes_on_with_what_was_repaired(image: Pool, source: Source, tmp_path: Path) -> None:
    """EIO while it is damaged, through scrubs and repairs beside it, then the right bytes; no new mount."""
    if (reason := fuse_missing()) is not None:
        pytest.skip(reason)
    hurt(image)
    where = tmp_path / "mnt"
    where.mkdir()
    os.symlink(image.path, tmp_path / "known" / "tank")
    # In a process of its own: SQLite's locks do not survive the fork of one that has the pool open.
    words = [sys.executable, "-m", "lamina", "mount", "-L", str(tmp_path / "log"), "tank/i@1", str(where)]
    subprocess.run(words, env={**os.environ, "PYTHONPATH": SOURCE}, check=True)
    try:
        with pytest.raises(OSError, match="Input/output error"):
            (where / "dir/f3").read_bytes()
        assert (where / "dir/f2").read_bytes() == (source.path / "dir/f2").read_bytes()
        scrubbed(image)
        assert image.repair("vault").left == 0
        subprocess.run(["diff", "-r", "--no-dereference", source.path, where], check=True)
    finally:
        umount(where)
