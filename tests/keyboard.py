"""A person at a terminal."""

import io


class Keyboard(io.StringIO):
    """The standard input of a terminal, on which this text is typed."""

    def isatty(self) -> bool:
        return True
