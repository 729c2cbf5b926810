"""Taking trees in: from a directory or a tar, through chunking and the store's writer, to a new root."""

from lamina.ingest.content import ContentWriter
from lamina.ingest.directory import import_directory
from lamina.ingest.progress import Problem, Progress, Tally
from lamina.ingest.tarsource import import_tar

__all__ = ["ContentWriter", "Problem", "Progress", "Tally", "import_directory", "import_tar"]
