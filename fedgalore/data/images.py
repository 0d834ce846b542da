"""Image files of a site: found and checked when a data set is read, decoded when a batch is made."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError

from fedgalore.data.pixels import MODES, as_seen

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # Pillow reads more, some by starting other programs
_MARKS = {  # that a file of a format begins with
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"RIFF": "WEBP",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
LITTER = {  # what operating systems and clouds leave in folders, in small letters
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin"),
    "system volume information",
}


class ImageError(ValueError):
    """An image file that cannot be used; the message names it and says why and what to do."""


def by_class(folder: Path) -> Iterator[tuple[str, str]]:
    """Of a folder with one sub-folder for each class: class and `class/file`, in order.

    Hidden files are left out, and what operating systems leave in folders (`LITTER`).

    Raises:
        ImageError: a file lies beside the sub-folders, or a folder in one of them.
        OSError: the folder cannot be listed.
    """
    for entry in sorted(folder.iterdir()):
        if is_litter(entry.name):
            continue
        if not entry.is_dir():
            raise ImageError(
                f"{entry.name!r} is no folder of a class; move images into sub-folders named as their class, "
                "and other files elsewhere"
            )
        for file in sorted(entry.iterdir()):
            if is_litter(file.name):
                continue
            name = f"{entry.name}/{file.name}"
            if file.is_dir():
                raise ImageError(f"{name!r} is a folder inside of a class; move its images into {entry.name!r} itself")
            yield entry.name, name


def is_litter(name: str) -> bool:
    """Whether an entry of a folder is none of its data."""
    return name.startswith(".") or name.casefold() in LITTER


def checked(folder: Path, name: str, follow_links: bool = False) -> Path:
    """The image of a relative name in or below `folder`: its absolute path, with links followed.

    Its header and checksums are looked at; nothing is decoded.

    Args:
        follow_links: links may lead out of the folder; names still may not.

    Raises:
        ImageError: there is no such file, the name or a link leads out of the folder, it is no image of a known kind,
            larger than Pillow finds safe, of an unknown kind of pixels, or damaged as far as this shows.
    """
    path = _inside(folder, name, follow_links)
    with _opened(path, name) as image:
        image.verify()
    return path


def decode(path: Path) -> Image.Image:
    """The image in RGB as people see it; the first frame if it has many.

    Raises:
        ImageError: as `checked`, or a part of the file is missing or damaged.
    """
    with _opened(path, str(path)) as image:
        return as_seen(image)


def _inside(folder: Path, name: str, follow_links: bool) -> Path:
    try:
        name.encode()
        root = folder.resolve()
        forms = (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))  # macOS writes NFD
        path = (root / next((form for form in forms if (root / form).exists()), name)).resolve()
        there = path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a name that no file can have
        raise ImageError(f"image {name!r} cannot be found ({error}); correct the name") from error
    named = Path(name)
    follows = follow_links and ".." not in named.parts
    if named.is_absolute() or not (follows or path.is_relative_to(root)):
        raise ImageError(
            f"image {name!r} leads out of {folder}; copy the image into it, and name it relative to it "
            "(follow_links: true lets links lead elsewhere)"
        )
    if not there:
        raise ImageError(f"image {name!r} is not a file in {folder}; correct the name or remove it")
    return path


def _unidentified(path: Path) -> str:
    """What is wrong with a file that Pillow takes for no image."""
    with path.open("rb") as file:
        beginning = file.read(4)
    if not beginning:
        return "is an empty file; copy the image again, or remove it"
    kind = next((kind for mark, kind in _MARKS.items() if beginning.startswith(mark)), None)
    if kind is None:
        return f"is no image of a known kind ({', '.join(FORMATS)}); convert or remove it"
    return (
        f"begins as {kind} and cannot be read: it is damaged, or of a kind of {kind} that is not read; save it in RGB"
    )


@contextmanager
def _opened(path: Path, name: str) -> Iterator[ImageFile.ImageFile]:
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
            if image.mode not in MODES:
                raise ImageError(f"image {name!r} has pixels of mode {image.mode}; save it in RGB")
            yield image
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{name!r} {_unidentified(path)}") from error
    except Image.DecompressionBombError as error:
        most = f"{2 * (Image.MAX_IMAGE_PIXELS or 0):,}"
        raise ImageError(f"image {name!r} has more than {most} pixels, which is not safe; make it smaller") from error
    except Exception as error:  # a decoder of a damaged file raises whatever it comes upon
        raise ImageError(
            f"image {name!r} is damaged or cannot be read ({error}); copy it again or remove it"
        ) from error
