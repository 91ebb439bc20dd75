"""Standard output and error of a command: any file name can be shown, and losing the output is an error of its own."""

import codecs
import io
import os
import sys

from trainable.errors import OutputError

_AS_GIVEN = "as-given"


def prepare() -> None:
    """Lets standard output and error show every file name, whatever the locale or PYTHONIOENCODING says, and makes a
    full disk or a reader that went away (``| head``) an `OutputError` where something is printed."""
    codecs.register_error(_AS_GIVEN, _as_given)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_AS_GIVEN)
    out = sys.stdout
    if type(out) is io.TextIOWrapper and not isinstance(out.buffer, io.BytesIO):
        out.flush()
        raw = io.FileIO(out.fileno(), "wb", closefd=False)
        sys.stdout = _Output(
            raw if out.write_through else io.BufferedWriter(raw),  # as with python -u
            encoding=out.encoding,
            errors=_AS_GIVEN,
            line_buffering=out.line_buffering,
            write_through=out.write_through,
        )


class _Output(io.TextIOWrapper):
    """Standard output that says when it is lost."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise self._lost(error) from None

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise self._lost(error) from None

    def _lost(self, error: OSError) -> OutputError:
        """The error to raise. What is still buffered goes nowhere, so that it raises no second one."""
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self.fileno())
        return OutputError(error.strerror or str(error), reader_gone=isinstance(error, BrokenPipeError))


def _as_given(error: UnicodeError) -> tuple[str | bytes, int]:
    """Writes bytes of a file name that could not be decoded as they were, and other characters as escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character, end = error.object[error.start], error.start + 1
    wide = error.encoding.startswith(("utf-16", "utf-32"))  # a single byte would shift all that follows
    if 0xDC80 <= ord(character) <= 0xDCFF and not wide:
        return bytes([ord(character) - 0xDC00]), end
    return character.encode("ascii", "backslashreplace").decode(), end
