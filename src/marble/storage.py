"""What is different where a path is that of an object store, such as gs://BUCKET/RUN, and not a folder."""

from pathlib import Path

from etils import epath


def is_remote(path: str) -> bool:
    """Whether the path is in an object store."""
    return "://" in path


def replace_text(path: epath.Path, text: str) -> None:
    """Writes a file that is never seen half-written; in an object store no other kind is."""
    if is_remote(str(path)):
        path.write_text(text)
        return
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text)
    temporary.replace(path)


def copy_files(source: Path, target: epath.Path) -> None:
    """Copies the files below a local folder."""
    for file in source.rglob("*"):
        if file.is_file():
            copied = target / file.relative_to(source).as_posix()
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_bytes(file.read_bytes())


class StoredText:
    """A text file of an object store, where nothing can be appended: flush writes all of it."""

    def __init__(self, path: epath.Path):
        """Goes on after what the file holds."""
        self._path, self._text = path, path.read_text()

    def write(self, text: str) -> None:
        """Adds text."""
        self._text += text

    def flush(self) -> None:
        """Stores what was added."""
        self._path.write_text(self._text)

    def close(self) -> None:
        """Everything is stored."""
