"""What an image file holds, as RGB in 8 bits: upright, on white, in its full range of greys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageFile, ImageOps

_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # greys of more than 8 bits
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", *_DEEP)
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # of TIFF
_WHITE_IS_ZERO, _UNSIGNED, _SIGNED = 0, (1,), (2,)
# of a PNG's transparent colour, which Pillow leaves as the file has it, by how the pixels are packed
_IN_8_BITS: dict[str, Callable[[Any], Any]] = {
    "L;2": lambda grey: grey * 85,
    "L;4": lambda grey: grey * 17,
    "RGB;16B": lambda colour: tuple(channel >> 8 for channel in colour),
}


def as_seen(image: ImageFile.ImageFile) -> Image.Image:
    """An open image of one of `MODES` as viewers show it, in RGB.

    - turned as its EXIF orientation says
    - transparent parts on white; so is what the first frame leaves out
    - greys of 16 bits from black to white; greys with a sign or of 32 bits, which have no fixed white, from the darkest
      to the lightest pixel
    - CMYK with the inks inverted where Adobe's mark says so

    Raises:
        Exception: whatever the decoder of a damaged file comes upon.
    """
    _, drawn, _, packed = image.tile[0] if image.tile else (None, None, None, None)
    image.load()
    if isinstance(packed, str) and packed in _IN_8_BITS and "transparency" in image.info:
        image.info["transparency"] = _IN_8_BITS[packed](image.info["transparency"])
    flat = _on_white(_eight_bits(image))
    if image.format == "GIF" and drawn is not None:
        whole = Image.new("RGB", flat.size, "white")
        whole.paste(flat.crop(drawn), drawn[:2])
        flat = whole
    flat.info = image.info  # the orientation is in it
    try:
        return ImageOps.exif_transpose(flat)
    except Exception:  # viewers too show an image whose EXIF data is damaged
        return flat


def _on_white(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow takes every JPEG for Adobe's
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    tags = getattr(image, "tag_v2", {})
    signs = tags.get(_SAMPLE_FORMAT, _UNSIGNED)
    if image.mode not in _DEEP and not (image.mode == "L" and signs == _SIGNED):
        return image
    pixels = np.asarray(image)
    if image.mode == "L":
        pixels = pixels.view(np.int8)
    elif image.mode == "I" and tags.get(_BITS) == (32,) and signs == _UNSIGNED:
        pixels = pixels.view(np.uint32)
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM"):
        low, high = 0.0, 2.0 ** tags.get(_BITS, (16,))[0] - 1
    else:
        finite = pixels[np.isfinite(pixels)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    shares = (np.nan_to_num(pixels.astype(np.float64), nan=low, posinf=high, neginf=low) - low) / ((high - low) or 1.0)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO and image.mode != "L":  # Pillow inverts those of 8 bits itself
        shares = 1 - shares
    greys = Image.fromarray(np.rint(shares.clip(0, 1) * 255).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        greys.putalpha(Image.fromarray(np.where(pixels == transparent, 0, 255).astype(np.uint8)))
    return greys
