"""What a journal is written on where nothing needs a disk."""


class PaperInMemory:
    """Outlives the journals that are on it, as a file outlives a process."""

    def __init__(self) -> None:
        self.content = bytearray()

    def read(self) -> bytes:
        return bytes(self.content)

    def append(self, line: bytes) -> None:
        self.content += line

    def rewrite(self, content: bytes) -> None:
        self.content[:] = content
