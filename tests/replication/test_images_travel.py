"""Images with their layers, between machines: sent, synced and synced from, over a real ssh; layers stay exact."""

import io
import json
import os
import subprocess
from collections.abc import Callable

import pytest

from lamina.pool import Pool
from lamina.pool.importing.imageindex import image_area
from lamina.pool.importing.layered import LayeredImport
from tests.oci.building import BuiltImage, digest_of, directory, file, hard_link, layer, whiteout
from tests.replication.machines import Edge
from tests.replication.sync.kit import sync

NOISE = [bytes([number]) + os.urandom(400_000) for number in range(3)]
BASE = layer(directory("usr"), file("usr/lib", NOISE[0]), file("usr/gone", NOISE[1]), hard_link("usr/lib.1", "usr/lib"))
TOP = layer(whiteout("usr/gone"), file("usr/new", NOISE[2]))
OTHER = layer(file("opt/x", b"x" * 5000))

Lamina = Callable[..., str]


def put(pool: Pool, name: str, *tars: bytes) -> BuiltImage:
    """An image of these layers."""
    image = BuiltImage(list(tars))
    with LayeredImport(pool, name.partition("@")[0]) as session:
        for tar in tars:
            if not session.has(digest_of(tar)):
                session.add(io.BytesIO(tar), digest_of(tar), "of the test")
        session.commit(name, image.config, image.manifest, image.diff_ids)
    return image


def is_whole(pool: Pool, name: str, image: BuiltImage) -> None:
    """The image has its config, manifest, and each layer bit for bit; the pool is sound."""
    area = image_area(pool, name)
    assert (area.config(), area.manifest()) == (image.config, image.manifest)
    for tar in image.layers:
        with area.open_layer(digest_of(tar)) as stream:
            assert stream.read() == tar
    row = pool.image(name)
    assert row is not None and [one.diff_id for one in row.layers] == image.diff_ids
    assert pool.check().problems == []


@pytest.fixture
def lamina(shell: Callable[[str], "subprocess.CompletedProcess[str]"]) -> Lamina:
    """A command line here, which has to succeed, with ``edge`` in the configuration of ssh."""

    def typed(line: str) -> str:
        done = shell(line)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return typed


def test_send_and_receive(tank: Pool, there: Edge, lamina: Lamina) -> None:
    one = put(tank, "tank/i@1", BASE, TOP)
    two = put(tank, "tank/i@2", BASE, OTHER)
    lamina("lamina send tank/i@1 | ssh edge lamina receive backup/i")
    lamina("lamina send -i @1 tank/i@2 | ssh edge lamina receive backup/i")
    with Pool.open(there.place / "backup") as backup:
        is_whole(backup, "backup/i@1", one)
        is_whole(backup, "backup/i@2", two)


def test_sync_there_and_back(tank: Pool, there: Edge, lamina: Lamina) -> None:
    one = put(tank, "tank/i@1", BASE, TOP)
    lamina("lamina sync -q tank/i edge:backup/i")
    two = put(tank, "tank/other@2", BASE, OTHER)
    figures = json.loads(lamina("lamina sync --json tank/other edge:backup/other"))
    assert figures["sync"]["stream_bytes"] < 100_000, "the base layer was there, in another dataset"
    with Pool.open(there.place / "backup") as backup:
        is_whole(backup, "backup/i@1", one)
        is_whole(backup, "backup/other@2", two)
    lamina("lamina sync -q edge:backup/other tank/back")
    is_whole(tank, "tank/back@2", two)


def test_a_layer_that_was_synced_need_not_come_again(tank: Pool, back: Pool) -> None:
    """What came by a stream serves as well as what was pulled."""
    put(tank, "tank/i@1", BASE, TOP)
    sync("tank/i", "back/i")
    with LayeredImport(back, "back/j") as session:
        assert session.has(digest_of(BASE))
        assert not session.has(digest_of(OTHER))
