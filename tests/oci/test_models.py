"""Manifests, indexes, configs and platforms: what is read, and what is refused in which words."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import LaminaError, OciError, UsageError
from lamina.oci.formats.documents import MAX_CONFIG, Fields, parse_json
from lamina.oci.formats.models import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Index,
    Manifest,
    check_digest,
    check_layer_count,
    choose,
    digest_of,
    parse_config,
    parse_manifest,
)
from lamina.oci.formats.platforms import Platform, local_platform, parse_platform
from tests.oci.building import BuiltImage, descriptor, file, layer

D = "sha256:" + "0" * 64
CONFIG = {"mediaType": OCI_CONFIG, "digest": D, "size": 2}


def manifest(**changes: Any) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": CONFIG,
        "layers": [{"mediaType": f"{OCI_LAYER}+gzip", "digest": D, "size": 7, "annotations": {"a": "b"}}],
        "annotations": {"x": "y"},
        **changes,
    }
    return json.dumps({key: value for key, value in document.items() if value is not ...}).encode()


def index(*entries: dict[str, Any], **more: Any) -> Index:
    found = parse_manifest(
        json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries, **more}).encode()
    )
    assert isinstance(found, Index)
    return found


def entry(platform: str | None = None, media_type: str = OCI_MANIFEST, **more: Any) -> dict[str, Any]:
    said = {}
    if platform is not None:
        parts = platform.split("/")
        said = {"platform": dict(zip(("os", "architecture", "variant"), parts, strict=False))}
    name = digest_of(repr((platform, media_type, sorted(more))).encode())
    return {"mediaType": media_type, "digest": name, "size": 5, **said, **more}


def test_a_manifest() -> None:
    raw = manifest()
    found = parse_manifest(raw, f"{OCI_MANIFEST}; charset=utf-8")
    assert isinstance(found, Manifest)
    assert (found.raw, found.media_type, found.digest) == (raw, OCI_MANIFEST, digest_of(raw))
    assert (found.config.digest, found.config.size) == (D, 2)
    assert [(one.media_type, one.size, one.annotations) for one in found.layers] == [
        (f"{OCI_LAYER}+gzip", 7, {"a": "b"})
    ]
    assert found.annotations == {"x": "y"}


@pytest.mark.parametrize("given", [None, "", "application/json", "text/plain; charset=utf-8", OCI_MANIFEST])
def test_the_media_type_may_be_left_out(given: str | None) -> None:
    found = parse_manifest(manifest(mediaType=...), given)
    assert isinstance(found, Manifest) and found.media_type == OCI_MANIFEST
    assert isinstance(
        parse_manifest(b'{"schemaVersion":2,"manifests":[]}', given if given != OCI_MANIFEST else ""), Index
    )


def test_built_images_are_read() -> None:
    for docker in (False, True):
        for compression in ("gzip", "zstd", "none"):
            image = BuiltImage([layer(file("a", b"x")), layer(file("b"))], compression=compression, docker=docker)
            found = parse_manifest(image.manifest)
            assert isinstance(found, Manifest)
            config = parse_config(image.config)
            assert list(config.diff_ids) == image.diff_ids and config.digest == found.config.digest
            assert (str(config.platform), config.labels, config.cmd) == ("linux/amd64", {"a": "b"}, ("/bin/sh",))
            assert [one.created_by for one in config.history] == ["layer 0", "layer 1"]
            check_layer_count(len(found.layers), config)


COSIGN = {"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "digest": D, "size": 1}


@pytest.mark.parametrize(
    ("raw", "media_type", "message"),
    [
        (b"", None, "the manifest is no usable JSON: Expecting value"),
        (b"[]", None, "the manifest is not a JSON object"),
        (b"\xff{}", None, "no usable JSON: it is not UTF-8"),
        (b'{"schemaVersion":2,"schemaVersion":2}', None, "the member 'schemaVersion' twice"),
        (b'{"a":NaN}', None, "NaN is no JSON"),
        (b'{"a":"\\ud800"}', None, "no usable JSON: it is not UTF-8"),
        (b"[" * 100_000, None, "nested too deeply"),
        (b"[" * 90 + b"]" * 90, None, "nested more than 64 levels deep"),
        (b'{"a":' + b"1" * 5000 + b"}", None, "no usable JSON"),
        (b" " * (5 << 20), None, "is larger than 4 MiB"),
        (manifest(schemaVersion=1), None, "schema 1, which was given up in 2019"),
        (b'{"schemaVersion":2,"fsLayers":[]}', None, "schema 1"),
        (b"{}", "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1"),
        (manifest(schemaVersion=3), None, "no schemaVersion 2"),
        (manifest(schemaVersion="2"), None, "no schemaVersion 2"),
        (manifest(), DOCKER_MANIFEST, f"says it is {OCI_MANIFEST}, but came as {DOCKER_MANIFEST}"),
        (manifest(manifests=[]), None, "it could be read in two ways"),
        (manifest(mediaType=OCI_INDEX), None, "is an index and has config too"),
        (manifest(mediaType="application/x\x1b"), None, "the unknown media type application/x\\x1b"),
        (manifest(config=...), None, "the manifest has no config"),
        (manifest(config=[]), None, "config is not a JSON object"),
        (manifest(layers={}), None, "layers is not a list"),
        (manifest(Layers=[]), None, "a member 'Layers' that may be meant as 'layers'"),
        (manifest(config={**CONFIG, "size": -1}), None, "size is no number of bytes"),
        (manifest(config={**CONFIG, "size": 1.0}), None, "size is no number of bytes"),
        (manifest(config={**CONFIG, "size": True}), None, "size is no number of bytes"),
        (manifest(config={**CONFIG, "size": 1 << 64}), None, "size is no number of bytes"),
        (manifest(config={**CONFIG, "size": MAX_CONFIG + 1}), None, "has a config of"),
        (manifest(config={**CONFIG, "digest": "sha256:abc"}), None, "'sha256:abc' is no digest: sha256: and 64"),
        (manifest(config={**CONFIG, "digest": "sha512:" + "a" * 128}), None, "is of another kind than sha256"),
        (manifest(config={**CONFIG, "digest": "../../etc/passwd"}), None, "is no digest"),
        (manifest(config={**CONFIG, "digest": D + "\n"}), None, "is no digest"),
        (manifest(annotations={"a": 1}), None, "annotations is not an object of strings"),
        (manifest(layers=[{}]), None, "layers 1 has no mediaType"),
        (manifest(layers=[CONFIG] * 1001), None, "has more than 1000 layers"),
        (
            manifest(config={**CONFIG, "mediaType": "application/vnd.cncf.helm.config.v1+json"}),
            None,
            "is a Helm chart, not a container image",
        ),
        (manifest(layers=[COSIGN]), None, "is a cosign signature, not a container image"),
        (
            manifest(config={**CONFIG, "mediaType": "application/vnd.oci.empty.v1+json"}, artifactType="text/x"),
            None,
            "an artifact of type text/x",
        ),
        (
            manifest(layers=[{**CONFIG, "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}]),
            None,
            "layer 1 of the manifest is not distributable",
        ),
        (
            manifest(layers=[{**CONFIG, "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"}]),
            None,
            "is not distributable",
        ),
        (manifest(layers=[{**CONFIG, "mediaType": f"{OCI_LAYER}+gzip+encrypted"}]), None, "is encrypted"),
        (
            manifest(layers=[{**CONFIG, "mediaType": "application/x-lzma"}]),
            None,
            "unknown media type 'application/x-lzma'",
        ),
        (
            b'{"schemaVersion":2,"manifests":[' + b",".join([b"{}"] * 10_001) + b"]}",
            None,
            "manifests 1 has no mediaType",
        ),
    ],
)
def test_manifests_that_are_refused(raw: bytes, media_type: str | None, message: str) -> None:
    with pytest.raises(OciError) as caught:
        parse_manifest(raw, media_type)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_more_manifests_than_an_index_may_have() -> None:
    one = json.dumps({"mediaType": OCI_MANIFEST, "digest": D, "size": 1}).encode()
    with pytest.raises(OciError, match="lists more than 10000 manifests"):
        parse_manifest(b'{"schemaVersion":2,"manifests":[' + b",".join([one] * 10_001) + b"]}")


def config(**changes: Any) -> bytes:
    document = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [D]}, **changes}
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"{}", "has no rootfs"),
        (config(rootfs={"type": "layers+base", "diff_ids": []}), "a rootfs of the unknown type 'layers+base'"),
        (config(rootfs={"type": "layers", "diff_ids": "x"}), "diff_ids is not a list of strings"),
        (config(rootfs={"type": "layers", "diff_ids": ["x"]}), "diff ID 1 of the config 'x' is no digest"),
        (config(rootfs={"type": "layers", "diff_ids": [D] * 1001}), "more than 1000 layers"),
        (config(os=1), "os is not a string"),
        (config(history=[{"empty_layer": 1}]), "history 1: empty_layer is neither true nor false"),
        (config(config={"Env": "A=b"}), "Env is not a list of strings"),
        (config(config={"Labels": {"a": 1}}), "Labels is not an object of strings"),
        (config(config={"Volumes": []}), "Volumes is not an object"),
    ],
)
def test_configs_that_are_refused(raw: bytes, message: str) -> None:
    with pytest.raises(OciError) as caught:
        parse_config(raw)
    assert message in str(caught.value)


def test_a_config_with_all_there_is() -> None:
    found = parse_config(
        config(
            **{"variant": "v2", "os.version": "10", "created": "2024-01-01T00:00:00Z", "author": "me"},
            config={
                **{"User": "1:2", "ExposedPorts": {"80/tcp": {}}, "Env": ["A=b"], "Entrypoint": ["/e"], "Cmd": None},
                **{"Volumes": {"/v": {}}, "WorkingDir": "/w", "Labels": None, "StopSignal": "SIGINT"},
            },
            history=[{"created_by": "RUN", "empty_layer": True, "comment": "c", "author": "a"}],
        )
    )
    assert found.platform == Platform("linux", "amd64", "v2", "10")
    assert (found.created, found.author, found.user) == ("2024-01-01T00:00:00Z", "me", "1:2")
    assert (found.exposed_ports, found.env, found.entrypoint, found.cmd) == (("80/tcp",), ("A=b",), ("/e",), ())
    assert (found.volumes, found.working_dir, found.labels, found.stop_signal) == (("/v",), "/w", {}, "SIGINT")
    assert found.history[0].empty_layer and found.history[0].comment == "c"


def test_as_many_layers_as_diff_ids() -> None:
    with pytest.raises(OciError, match="has 2 layers, but its config names 1"):
        check_layer_count(2, parse_config(config()))


# -- platforms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("linux/amd64", Platform("linux", "amd64")),
        ("linux/x86_64", Platform("linux", "amd64")),
        ("Linux/AMD64/v1", Platform("linux", "amd64")),
        ("linux/amd64/v3", Platform("linux", "amd64", "v3")),
        ("aarch64", Platform("linux", "arm64")),
        ("linux/arm64/v8", Platform("linux", "arm64")),
        ("linux/arm64/v9", Platform("linux", "arm64", "v9")),
        ("linux/arm", Platform("linux", "arm", "v7")),
        ("linux/armel", Platform("linux", "arm", "v6")),
        ("linux/arm/6", Platform("linux", "arm", "v6")),
        ("macos/arm64", Platform("darwin", "arm64")),
    ],
)
def test_platforms(text: str, platform: Platform) -> None:
    assert parse_platform(text) == platform


@pytest.mark.parametrize("text", ["", "/", "linux/", "linux", "a/b/c/d", "linux/amd 64", "linux/\x1b"])
def test_no_platforms(text: str) -> None:
    with pytest.raises(UsageError, match="os/architecture is expected"):
        parse_platform(text)


def test_the_platform_is_chosen() -> None:
    attestation = entry("unknown/unknown", annotations={"vnd.docker.reference.type": "attestation-manifest"})
    many = index(
        attestation,
        entry("windows/amd64"),
        entry("linux/arm/v6"),
        entry("linux/arm64/v8"),
        entry("linux/amd64/v3"),
        entry("linux/amd64"),
        entry("linux/amd64", annotations={"second": "x"}),
    )
    for wanted, number in (("linux/amd64", 5), ("linux/amd64/v3", 4), ("linux/arm64", 3), ("linux/arm/v7", 2)):
        assert choose(many, parse_platform(wanted)) == many.manifests[number]
    assert choose(many, Platform("linux", "aarch64")) == many.manifests[3]
    assert local_platform().rank(choose(index(entry(str(local_platform())))).platform or Platform("", "")) == 0
    with pytest.raises(OciError) as caught:
        choose(many, parse_platform("linux/arm/v5"))
    assert str(caught.value) == (
        "the image is not there for linux/arm/v5, but for windows/amd64, linux/arm/v6, linux/arm64/v8, linux/amd64/v3, "
        "linux/amd64; choose one with --platform"
    )


def test_an_index_that_says_no_platform() -> None:
    only = index(entry(), entry("unknown/unknown"))
    assert choose(only, parse_platform("linux/s390x")) == only.manifests[0]
    with pytest.raises(OciError, match=r"but for \(none said\), linux/arm64"):
        choose(index(entry(), entry("linux/arm64")), parse_platform("linux/s390x"))
    with pytest.raises(OciError, match="without a container image"):
        choose(index(entry("unknown/unknown"), entry("linux/amd64", "application/x")))


def test_a_long_list_of_platforms_is_cut_and_names_are_printable() -> None:
    many = index(*(entry(f"os{number}\x1b/amd64", annotations={"n": str(number)}) for number in range(3000)))
    with pytest.raises(OciError) as caught:
        choose(many)
    assert "os0\\x1b/amd64" in str(caught.value) and "and 2992 more" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_an_index_or_a_list() -> None:
    assert index(entry()).media_type == OCI_INDEX
    found = parse_manifest(json.dumps({"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": []}).encode())
    assert isinstance(found, Index)


# -- whatever comes -------------------------------------------------------------------------------------------------


def test_digests() -> None:
    assert check_digest(D) == D
    for text in (D.upper(), D[:-1], D + "0", "md5:" + "0" * 32, "", ":"):
        with pytest.raises(OciError):
            check_digest(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            st.sampled_from(["schemaVersion", "mediaType", "config", "layers", "manifests", "digest", "size", "x"]),
            below,
            max_size=6,
        )
    ),
)


@given(JSON, st.sampled_from([None, OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, "x"]))
def test_any_json_is_read_or_refused(document: object, media_type: str | None) -> None:
    raw = json.dumps(document).encode()
    for read in (lambda: parse_manifest(raw, media_type), lambda: parse_config(raw)):
        try:
            read()
        except LaminaError as error:
            assert "\n" not in str(error)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        Fields(parse_json(raw, "it"), "it").text("x")
    except OciError:
        pass


def test_descriptors_of_built_images_have_what_is_said() -> None:
    found = parse_manifest(manifest(layers=[descriptor(OCI_LAYER, b"abc", urls=["http://elsewhere/"])]))
    assert isinstance(found, Manifest)
    assert (found.layers[0].size, found.layers[0].urls) == (3, ("http://elsewhere/",))
