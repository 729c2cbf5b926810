"""Two versions of a container image from a registry: ``lamina image pull`` beside ``skopeo copy`` and ``umoci unpack``;
from an archive: ``lamina image import`` beside ``ctr image import``.

The images share their lower layers, as ``benchmarks.layered`` builds them. Each contestant begins with nothing, takes
the first version and then the second; what is measured is the time until the root file system can be used, and the
bytes that the disk has lost by then. The registry and containerd run on this machine, on private ports and sockets.
"""

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import options
from benchmarks.contestants import LaminaPool
from benchmarks.layered import REPOSITORY
from benchmarks.measure import Cost, allocated_bytes, drop_caches, run
from benchmarks.report import Report

FROM_REGISTRY = "from a registry"
FROM_ARCHIVE = "from an archive"
_START_SECONDS = 60.0


def main() -> None:
    """Parse the arguments and run."""
    parser = options.parser(__doc__)
    parser.add_argument("--layered", type=Path, required=True, metavar="DIR", help="what benchmarks.layered has made")
    parser.add_argument("--images", default="2.5.1,2.6.0", metavar="TAG,TAG", help="tags to use (default: %(default)s)")
    arguments = parser.parse_args()
    options.need(["skopeo", "umoci", "containerd", "ctr", "docker-registry"], root=True)
    tags = arguments.images.split(",")
    os.environ["LAMINA_BACKGROUND"] = "off"  # what is measured is the command
    named = {"images": tags, "runs": arguments.runs}
    with (
        options.scratch_directory(arguments.scratch) as scratch,
        Report("images", named, ["skopeo", "umoci", "containerd"], out=arguments.out) as report,
    ):
        layout = arguments.layered / "layout"
        options.need_space(scratch, 4 * allocated_bytes(layout))
        report.facts["layout_bytes"] = allocated_bytes(layout)
        with _registry(scratch, arguments.layered / "registry") as host:
            for _ in range(arguments.runs):
                _lamina_pull(report, scratch, host, tags)
                _skopeo_umoci(report, scratch, host, tags)
        for _ in range(arguments.runs):
            _lamina_import(report, scratch, layout, tags)
            _containerd(report, scratch, layout, tags)
        _targets(report)


def _task(number: int, source: str) -> str:
    return f"image {('one', 'two')[number] if number < 2 else number + 1}, {source}"


def _measured(report: Report, who: str, source: str, tags: list[str], place: Path, take: Callable[[str], Cost]) -> None:
    """Take all versions in, one after the other, and note what each cost and added to the disk."""
    before = allocated_bytes(place) if place.exists() else 0
    for number, tag in enumerate(tags):
        drop_caches()
        cost = take(tag)
        after = allocated_bytes(place)
        report.series(_task(number, source), who).add(cost, stored_bytes=after - before)
        print(f"{who} {tag}: {cost.seconds:.1f} s, {(after - before) / 1e6:,.0f} MB", flush=True)
        before = after


# -- from a registry ------------------------------------------------------------------------------------------------


def _lamina_pull(report: Report, scratch: Path, host: str, tags: list[str]) -> None:
    pool = LaminaPool("benchimages", scratch / "pool")
    pool.create()

    def take(tag: str) -> Cost:
        name = f"{pool.name}/images/{REPOSITORY}@{tag}"
        return pool.call("image", "pull", "-q", "--plain-http", f"{host}/{REPOSITORY}:{tag}", name)

    _measured(report, "lamina", FROM_REGISTRY, tags, pool.path, take)
    pool.delete()


def _skopeo_umoci(report: Report, scratch: Path, host: str, tags: list[str]) -> None:
    place = scratch / "umoci"
    place.mkdir()

    def take(tag: str) -> Cost:
        layout = f"{place / 'layout'}:{tag}"
        copied = run(
            ["skopeo", "copy", "--src-tls-verify=false", f"docker://{host}/{REPOSITORY}:{tag}", f"oci:{layout}"]
        )
        return _both(copied, run(["umoci", "unpack", "--image", layout, place / f"bundle-{tag}"]))

    _measured(report, "skopeo + umoci", FROM_REGISTRY, tags, place, take)
    options.remove(place)


# -- from an archive ------------------------------------------------------------------------------------------------


@contextmanager
def _archive(scratch: Path, layout: Path, tag: str) -> Iterator[Path]:
    """A version as an archive, for as long as it is needed."""
    made = scratch / f"{tag}.tar"
    # ctr takes the name of the image from the archive.
    run(["skopeo", "copy", f"oci:{layout}:{tag}", f"oci-archive:{made}:localhost/{REPOSITORY}:{tag}"])
    yield made
    made.unlink()


def _lamina_import(report: Report, scratch: Path, layout: Path, tags: list[str]) -> None:
    pool = LaminaPool("benchimages", scratch / "pool")
    pool.create()

    def take(tag: str) -> Cost:
        with _archive(scratch, layout, tag) as archive:
            drop_caches()
            return pool.call("image", "import", "-q", archive, f"{pool.name}/images/{REPOSITORY}@{tag}")

    _measured(report, "lamina", FROM_ARCHIVE, tags, pool.path, take)
    pool.delete()


def _containerd(report: Report, scratch: Path, layout: Path, tags: list[str]) -> None:
    place = scratch / "containerd"
    place.mkdir()
    with _running_containerd(place) as address:

        def take(tag: str) -> Cost:
            with _archive(scratch, layout, tag) as archive:
                drop_caches()
                return run(["ctr", "-a", address, "image", "import", archive])

        _measured(report, "containerd", FROM_ARCHIVE, tags, place, take)
    options.remove(place)


def _both(first: Cost, then: Cost) -> Cost:
    """What two commands, one after the other, cost: their seconds, the larger peak of memory."""
    return Cost(
        first.seconds + then.seconds,
        first.cpu_seconds + then.cpu_seconds,
        max(first.peak_rss_bytes, then.peak_rss_bytes),
        max(first.peak_tree_bytes, then.peak_tree_bytes),
        "",
    )


# -- the servers ----------------------------------------------------------------------------------------------------


@contextmanager
def _registry(scratch: Path, storage: Path) -> Iterator[str]:
    """A registry of what lies in ``storage``, on a private port: ``host:port``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = scratch / "registry.yml"
    settings.write_text(
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {storage}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with subprocess.Popen(
        ["docker-registry", "serve", settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait_for(lambda: _answers(f"http://127.0.0.1:{port}/v2/"))
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


@contextmanager
def _running_containerd(place: Path) -> Iterator[str]:
    """A containerd with its content and snapshots below ``place``: its socket."""
    address = str(place / "containerd.sock")
    settings = place / "config.toml"
    settings.write_text(
        f"version = 2\nroot = '{place / 'root'}'\nstate = '{place / 'state'}'\n"
        "disabled_plugins = ['io.containerd.grpc.v1.cri']\n"
        f"[grpc]\n  address = '{address}'\n"
    )
    with subprocess.Popen(["containerd", "-c", settings, "-l", "error"], stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(lambda: subprocess.run(["ctr", "-a", address, "version"], capture_output=True).returncode == 0)
            yield address
        finally:
            process.terminate()


def _wait_for(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit("a server that the benchmark needs did not start")
        time.sleep(0.1)


# -- what is wanted -------------------------------------------------------------------------------------------------


def _targets(report: Report) -> None:
    for source, peer in ((FROM_REGISTRY, "skopeo + umoci"), (FROM_ARCHIVE, "containerd")):
        for number, wanted in enumerate((1.0, 5.0)):
            task = _task(number, source)
            if report.has(task, "lamina", peer):
                ratio = report.series(task, peer).median / report.series(task, "lamina").median
                report.target(f"{task}: times as fast as {peer}", ratio, wanted, at_least=True)
    peaks = [
        max(one.peak_rss_bytes)
        for source in (FROM_REGISTRY, FROM_ARCHIVE)
        for number in range(2)
        if (one := report.series(_task(number, source), "lamina")).peak_rss_bytes
    ]
    if peaks:
        report.target("peak memory, MB", max(peaks) / 1e6, 400, at_least=False)


if __name__ == "__main__":
    main()
