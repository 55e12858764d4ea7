"""Notices damage within a JPEG that decoders swallow: they go on, and half the photo is grey or shifted.

Pillow asks libjpeg for no more than its fatal errors. simplejpeg runs the same libjpeg-turbo at the same scale, to
the same pixels in the same time, and raises at what libjpeg only warns of. So it decodes first, and Pillow where it
can't: strictness costs nothing for a sound photo, and a second decoding for a damaged one.
"""

from PIL import Image, ImageFile

from daemon.develop import thumbnails

_COLOURS = {"RGB": "RGB", "L": "GRAY"}
# Of libjpeg's warnings (jerror.h) those about coded data. It also calls "extraneous bytes" what some cameras leave
# at the end of a sound photo: about one photo of a hundred, so the words stay careful.
_DAMAGE = ("Corrupt JPEG data", "Premature end of JPEG", "Inconsistent progression")
_MOST_BYTES = 256 << 20


def load(picture: Image.Image) -> str | None:
    """Decode an opened picture as `thumbnails.load` does; return a warning for people where damage was swallowed."""
    swallowed = None
    if isinstance(picture, ImageFile.ImageFile) and picture.format in ("JPEG", "MPO") and picture.mode in _COLOURS:
        picture.draft(None, thumbnails.fit(picture.size, thumbnails.MEDIUM))
        swallowed = _strictly(picture)
    thumbnails.load(picture)
    return swallowed


def _strictly(picture: ImageFile.ImageFile) -> str | None:
    """Decode a JPEG, drafted to its scale, unless it is damaged; tell how it is."""
    # Here, not above: it brings numpy along, which a worker without JPEGs does not need.
    import simplejpeg  # type: ignore[import-untyped]

    if picture.fp is None:
        return None
    picture.fp.seek(0)
    content = picture.fp.read(_MOST_BYTES)
    width, height = picture.size
    try:
        pixels = simplejpeg.decode_jpeg(content, _COLOURS[picture.mode], min_height=height, min_width=width)
    except ValueError as error:
        if str(error).startswith(_DAMAGE):
            return f"its image data may be damaged: {str(error).partition(': ')[2] or error}"
        return None  # of a kind that simplejpeg does not know
    if pixels.shape[:2] == (height, width):
        # What Pillow's own `load` does when its decoder is done.
        picture.im = Image.frombuffer(picture.mode, picture.size, pixels, "raw", picture.mode, 0, 1).im
        picture.tile = []
    return None
