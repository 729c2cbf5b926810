"""Archives of images: a tar of blobs and the documents that name them, written as the blobs come."""

from lamina.oci.outgoing.outputs import Output
from lamina.oci.outgoing.tarwriting import BLOCK, Header, ending, padding


class ArchiveWriter:
    """Writes members of a tar one after the other. Owners, times and modes are the same in every archive."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._began = 0
        self._promised: int | None = None

    @property
    def patient(self) -> bool:
        """Whether name and size of a member may be said at its end."""
        return self._output.seekable

    def add(self, name: str, data: bytes) -> None:
        """A whole member."""
        self.begin(name, len(data))
        self.write(data)
        self.end()

    def begin(self, name: str = "", size: int | None = None) -> None:
        """A member whose bytes ``write`` brings; only a ``patient`` archive can do without name and size."""
        self._began = self._output.position
        self._promised = size
        self._output.write(bytes(BLOCK) if size is None else _header(name, size))

    def write(self, data: bytes) -> None:
        """The next bytes of the member."""
        self._output.write(data)

    def end(self, name: str = "") -> None:
        """The member is whole; ``name``, if it was not said before."""
        start = self._began + BLOCK
        size = self._output.position - start
        if self._promised is None:
            self._output.change(_header(name, size), self._began)
        self._output.write(padding(size))

    def finish(self) -> None:
        """The end of the archive."""
        self._output.write(ending(self._output.position))


def _header(name: str, size: int) -> bytes:
    return Header(name.encode(), mode=0o444, size=size, binary_size=True).pack()
