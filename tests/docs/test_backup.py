"""Every command of docs/backup.md runs, in the order of the page, with real gpg and age; what was there comes back."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.pool import Pool
from tests.pool.trees import Library, make_library
from tests.replication.kit import contents, same_datasets, send, sound
from tests.replication.machines import edge, make_programs, sshd_missing

PAGE = Path(__file__).resolve().parents[2] / "docs" / "backup.md"
NEEDED = {"gpg": "gpg", "age": "age", "age-keygen": "age"}


def sections() -> dict[str, list[str]]:
    """The command lines of each section."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        title, _, text = part.partition("\n")
        found[title] = [line[4:] for line in text.splitlines() if line.startswith("    ")]
    return found


class Session:
    """A shell in which the page's directories lie in a temporary one."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.environment = {**os.environ, "PATH": f"{make_programs(place)}:{os.environ['PATH']}"}
        for name in ("backup", "root", "data"):
            (place / name).mkdir()
        self._home = Path(os.path.realpath(place / "gnupg"))

    def __call__(self, *lines: str, status: int = 0) -> str:
        """Run lines together; what they printed."""
        text = "\n".join(["set -o pipefail -e", *lines])
        text = re.sub(r"(?<![\w.])/(backup|root|data)/", rf"{self.place}/\1/", text)
        done = subprocess.run(
            ["bash", "-c", text],
            env=self.environment | {"GNUPGHOME": str(self._home)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == status, f"{text}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def file(self, name: str) -> Path:
        return self.place / "backup" / name


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    for program, package in NEEDED.items():
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here: apt-get install {package}")
    monkeypatch.setenv("LAMINA_POOLS", str(tmp_path / "known"))
    made = Session(tmp_path)
    # A socket's path has at most 108 bytes (unix(7)); gpg-agent has one in its home.
    made._home = Path(subprocess.run(["mktemp", "-d"], check=True, capture_output=True, text=True).stdout.strip())
    try:
        (tmp_path / "root" / "passphrase").write_text("correct horse battery staple\n")
        key = "gpg --batch --passphrase '' --quick-generate-key backup@example.com"
        made(f"{key} 2>{tmp_path}/said || (cat {tmp_path}/said; false)")
        yield made
    finally:
        subprocess.run(["gpgconf", "--homedir", made._home, "--kill", "all"], capture_output=True)
        shutil.rmtree(made._home, ignore_errors=True)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return make_library(tmp_path_factory.mktemp("library"))


def test_the_page_from_the_first_line_to_the_last(session: Session, library: Library) -> None:
    page = sections()
    with Pool.create("tank", session.place / "tank") as tank:
        tank.create_dataset("tank/images", {"compression": "lz4"})
        tank.import_image(library[2].path, "tank/images/pytorch@2.7.1")
        tank.import_image(library[3].path, "tank/images/pytorch@2.8.0")
        tank.clone("tank/images/pytorch@2.7.1", "tank/images/mine")
        ran = 0

        def section(title: str) -> list[str]:
            nonlocal ran
            ran += len(page[title])
            return page[title]

        first = section("1. The first")
        said = session(*first[:2])
        session(first[2])
        whole = session.file("images-monday.lamina")
        assert f"({whole.stat().st_size})" in said or "total estimated size is" in said
        size = int(session("lamina send -nPR tank/images@monday").split()[-1])
        assert whole.stat().st_size == size
        session(*first[3:])
        assert whole.stat().st_size == size and not session.file("new").exists()

        (verify,) = section("2. Is it whole?")
        assert session(verify).count("would receive full stream") == 2
        data = bytearray(whole.read_bytes())
        data[len(data) // 2] ^= 1
        whole.with_suffix(".bad").write_bytes(data)
        assert "at byte" in session(verify.replace("monday.lamina", "monday.bad"), status=1)
        whole.with_suffix(".bad").write_bytes(data[: len(data) * 2 // 3])
        assert "incomplete stream" in session(verify.replace("monday.lamina", "monday.bad"), status=1)

        tank.import_image(library[4].path, "tank/images/pytorch@2.9.0")
        session(*section("3. Only what changed"))

        restore = section("4. Restore")
        session(*restore[:4])
        with Pool.open("fresh") as fresh:
            same_datasets(tank, "tank/images", fresh, "fresh/images", properties=True)
            sound(fresh)
        session(restore[4])
        monday = contents(tank, "tank/images/pytorch@monday")
        assert contents(tank, "tank/restored/pytorch@monday") == monday
        assert "destination 'tank/restored' exists" in session(restore[4], status=1)
        session(restore[5])
        assert not tank.exists("tank/restored")

        encrypted = section("5. Encrypted")
        assert len(encrypted) == 8
        for writing, reading in (encrypted[:2], encrypted[2:4], [encrypted[6], encrypted[7]]):
            if "| age " in writing:
                session(*encrypted[4:6])
            session(writing)
            target = session.place / "backup" / writing.rpartition("/")[2]
            data = bytearray(target.read_bytes())
            assert b"LAMINAZS" not in data and abs(len(data) - size) < size / 20 + 5000
            assert session(reading).count("would receive full stream") == 2
            data[len(data) // 2] ^= 1
            target.write_bytes(data)
            assert session(f"! ({reading})")

        parts = section("6. In parts")
        session(parts[0].replace("4G", "100K"))
        some = sorted(session.file("").glob("images-monday.part-*"))
        assert len(some) > 2
        assert b"".join(one.read_bytes() for one in some) == send(tank, "tank/images@monday", recursive=True)
        assert session(parts[1]).count("would receive full stream") == 2
        left = sum(map(len, page.values())) - ran
        assert left == len(page["7. Over a network"]) == 1


def test_over_a_network(session: Session, library: Library) -> None:
    if (reason := sshd_missing()) is not None:
        pytest.skip(reason)
    (line,) = sections()["7. Over a network"]
    with Pool.create("tank", session.place / "tank") as tank, edge(session.place / "edge") as host:
        tank.create_dataset("tank/images")
        tank.import_image(library[2].path, "tank/images/pytorch@1")
        tank.snapshot(["tank/images@monday"], recursive=True)
        assert host.run("lamina", "pool", "create", "backup", host.place / "backup").returncode == 0
        session.environment["PATH"] = f"{host.programs}:{session.environment['PATH']}"
        session(line)
        with Pool.open(host.place / "backup") as backup:
            same_datasets(tank, "tank/images", backup, "backup/images", properties=True)
