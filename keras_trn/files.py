"""Writes files that are there completely or not at all, to any path that TensorFlow can write."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf


@contextlib.contextmanager
def unfinished_file(path: str | Path) -> Iterator[str]:
    """Yields a path next to `path`, to be written and then renamed; removes what is left of it.

    Raises:
        OSError: If TensorFlow cannot write there.
    """
    folder, name = os.path.split(os.fspath(path))
    stem, ending = os.path.splitext(name)
    # Two processes, even on two machines, may write the same file.
    temporary = os.path.join(folder, f".{stem}.{uuid.uuid4().hex[:12]}.unfinished{ending}")
    try:
        yield temporary
    except tf.errors.OpError as error:
        raise OSError(f"{os.fspath(path)!r} cannot be written: {error.message}") from error
    finally:
        if tf.io.gfile.exists(temporary):
            tf.io.gfile.remove(temporary)


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file in UTF-8."""
    with unfinished_file(path) as temporary:
        with tf.io.gfile.GFile(temporary, "w") as file:
            file.write(text)
        tf.io.gfile.rename(temporary, os.fspath(path), overwrite=True)
