"""``lamina image inspect``."""

import sys
from typing import Any

from lamina.cli.command import Arguments, Command, Option
from lamina.cli.imageflags import holder_of, one_image
from lamina.cli.pools import Pools


def run(arguments: Arguments) -> int:
    """Print what is known of one image."""
    name = one_image(arguments)
    from lamina.oci import inspecting

    with Pools() as pools:
        pool = holder_of(pools, name)
        if arguments.has("raw"):
            raw = inspecting.raw_config(pool, name) if arguments.has("config") else inspecting.raw_manifest(pool, name)
            sys.stdout.flush()
            sys.stdout.buffer.write(raw)
            return 0
        if arguments.has("config"):
            document = inspecting.oci_config(inspecting.raw_config(pool, name))
        else:
            document = inspecting.summary(inspecting.open_image(pool, name))
    print(_indented(document))
    return 0


def _indented(document: dict[str, Any]) -> str:
    """JSON as Go prints it, with what could act on a terminal as an escape."""
    import json

    text = json.dumps(document, indent=4, ensure_ascii=False)
    for character in "&<>":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return "".join(one if one.isprintable() or one == "\n" else _escape(one) for one in text)


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


COMMAND = Command(
    name="image inspect",
    synopsis=("image inspect [--config] [--raw] <dataset>@<tag>",),
    summary="show what an image is: digest, labels, layers, environment",
    description="""
Prints what 'skopeo inspect' prints of an image in a registry, as JSON: Name (where it was pulled from, or else its
dataset), Digest (of its manifest), RepoTags (all images of its dataset), Created, DockerVersion, Labels, Architecture,
Os, Layers (digests as they lie in a registry), LayersData and Env.

Of an image that came without a manifest, from an old 'docker save', Digest is empty and Layers are diff IDs; of a
plain root file system little is known.""",
    options=(
        Option("", "config", "print the config: with the members that OCI defines; with --raw its bytes as they came"),
        Option("", "raw", "print the manifest as it came, byte for byte"),
    ),
    examples=(
        ("What is it?", "lamina image inspect tank/images/debian@12"),
        ("What would it run?", "lamina image inspect --config tank/images/debian@12"),
        (
            "The digest, from the bytes themselves",
            "lamina image inspect --raw tank/images/debian@12 | sha256sum",
        ),
    ),
    run=run,
    operands="all-images",
)
