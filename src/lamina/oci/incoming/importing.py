"""Images from archives, layouts and engines into the pool: choosing, naming, taking, comparing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamina.errors import LaminaError, OciError, SourceError, UsageError
from lamina.oci.formats.platforms import Platform
from lamina.oci.incoming.intake import JOBS, Streams, check_image, run_together, take_layers
from lamina.oci.incoming.listing import Store, select
from lamina.oci.incoming.origins import FilesOrigin, StreamOrigin, open_store
from lamina.oci.incoming.passing import PassingArchive
from lamina.oci.incoming.source import Image
from lamina.oci.registry.reference import parse_reference
from lamina.pool.names import printable, split_snapshot

if TYPE_CHECKING:
    from lamina.ingest.progress import Progress
    from lamina.pool import ImportReport, Pool


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be taken, and how: which image of several, for which platform; layers at once; bytes of a layer."""

    image: str | None = None
    platform: Platform | None = None
    jobs: int = JOBS
    limit: int | None = None


def import_images(
    pool: "Pool",
    origin: FilesOrigin | StreamOrigin,
    name: str | Callable[[str | None], str],
    choice: Choice | None = None,
    *,
    move: bool = False,
    progress: "Callable[[Progress], None] | None" = None,
) -> "ImportReport":
    """Take an image into the pool. ``name``: ``dataset@tag``, or what gives it for the name that the image has there.

    Raises ``OciError``, ``SourceError``, ``NoSpace``, ``AlreadyExists``; then nothing of it is left.
    """
    choice = choice or Choice()
    what = origin.what if isinstance(origin, StreamOrigin) else origin.files.what
    try:
        if isinstance(origin, StreamOrigin):
            return _from_stream(pool, origin, name, choice, move, progress)
        return _from_files(pool, origin, name, choice, move, progress)
    except (OciError, SourceError) as error:
        raise named_error(error, f"'{printable(name)}'" if isinstance(name, str) else what) from error


def named_error(error: LaminaError, what: str) -> LaminaError:
    """The same error, with what could not be imported before it if that is not said yet."""
    text = str(error)
    return error if text.startswith("cannot import") else type(error)(f"cannot import {what}: {text}")


def _from_files(
    pool: "Pool",
    origin: FilesOrigin,
    name: str | Callable[[str | None], str],
    choice: Choice,
    move: bool,
    progress: "Callable[[Progress], None] | None",
) -> "ImportReport":
    from lamina.pool.importing.layered import LayeredImport

    image = _chosen(open_store(origin.files, origin.format), choice)
    config = check_image(image)
    named = name if isinstance(name, str) else name(image.name_hint)
    with LayeredImport(pool, split_snapshot(named)[0], progress=progress) as session:
        take_layers(session, image.layers, jobs=choice.jobs, limit=choice.limit)
        return session.commit(named, image.config, image.manifest, config.diff_ids, move=move)


def _from_stream(
    pool: "Pool",
    origin: StreamOrigin,
    name: str | Callable[[str | None], str],
    choice: Choice,
    move: bool,
    progress: "Callable[[Progress], None] | None",
) -> "ImportReport":
    from lamina.pool.importing.imageindex import diff_id_of
    from lamina.pool.importing.layered import LayeredImport
    from lamina.pool.importing.tags import images_dataset

    # Where the name comes with the archive, the dataset is not known while layers come; its commit looks at limits.
    dataset = split_snapshot(name)[0] if isinstance(name, str) else images_dataset(pool)
    with LayeredImport(pool, dataset, progress=progress) as session:
        archive = PassingArchive(
            origin.stream,
            session,
            origin.what,
            limit=choice.limit,
            diff_id_of=lambda digest: diff_id_of(pool, digest),
        )
        streams = Streams()
        streams.opened(origin.source)
        run_together([archive.read], 1, streams, session.check)
        image = _chosen(open_store(archive, origin.format), choice)
        config = check_image(image)
        archive.check(image)
        named = name if isinstance(name, str) else name(image.name_hint or origin.name_hint)
        take_layers(session, image.layers, jobs=choice.jobs, limit=choice.limit)
        return session.commit(named, image.config, image.manifest, config.diff_ids, move=move)


def _chosen(store: Store, choice: Choice) -> Image:
    return store.image(select(store, choice.image, choice.platform), choice.platform)


def name_for(images: str, hint: str | None, what: str) -> str:
    """The name in the pool of an image that is called ``hint`` where it lies; ``images``: the dataset for images.

    Raises ``UsageError`` where it has no name, or only a tag.
    """
    if hint is None or not ("/" in hint or ":" in hint):
        known = f" (it says only '{printable(hint)}')" if hint else ""
        raise UsageError(f"missing image name for source {what}, which does not say one{known}")
    reference = parse_reference(hint)
    return f"{images}/{reference.dataset_path}@{reference.snapshot_name}"
