"""What an image file holds, as RGB in 8 bits: upright, on white, in its full range of greys."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops, ImageOps

_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # greys of more than 8 bits
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", *_DEEP)
_BITS, _SAMPLE_FORMAT, _UNSIGNED = 258, 339, (1,)  # of TIFF


def as_seen(image: Image.Image) -> Image.Image:
    """An open image of one of `MODES` as viewers show it, in RGB.

    - turned as its EXIF orientation says
    - transparent parts on white
    - greys of 16 bits from black to white; of 32, which have no fixed white, from the darkest to the lightest pixel
    - CMYK with the inks inverted where Adobe's mark says so

    Raises:
        Exception: whatever the decoder of a damaged file comes upon.
    """
    image.load()
    flat = _on_white(_eight_bits(image))
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
    if image.mode not in _DEEP:
        return image
    pixels = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode == "I" and tags.get(_BITS) == (32,) and tags.get(_SAMPLE_FORMAT, _UNSIGNED) == _UNSIGNED:
        pixels = pixels.view(np.uint32)
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM"):
        low, high = 0.0, 2.0 ** tags.get(_BITS, (16,))[0] - 1
    else:
        finite = pixels[np.isfinite(pixels)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    shares = (np.nan_to_num(pixels.astype(np.float64), nan=low, posinf=high, neginf=low) - low) / ((high - low) or 1.0)
    return Image.fromarray(np.rint(shares.clip(0, 1) * 255).astype(np.uint8))
