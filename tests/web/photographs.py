"""Makes pictures that look like photographs: ridges in haze, seas, dunes, night skies; the same from the same seed."""

import io
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

Pixels = NDArray[np.float64]

# Top of the sky, its foot, the nearest ridge; each from a time of day.
_LIGHTS = [
    ((88, 132, 186), (214, 222, 226), (38, 56, 44)),
    ((44, 62, 110), (240, 168, 120), (28, 24, 34)),
    ((150, 170, 184), (226, 226, 220), (70, 78, 74)),
    ((12, 18, 40), (60, 74, 110), (8, 10, 16)),
    ((176, 196, 210), (246, 226, 196), (122, 92, 58)),
    ((98, 120, 134), (190, 198, 198), (30, 40, 50)),
    ((60, 110, 160), (250, 222, 170), (60, 66, 40)),
    ((120, 90, 120), (250, 190, 160), (50, 30, 44)),
]
_SIZES = [(480, 320), (480, 320), (480, 360), (320, 480), (360, 480), (480, 270), (400, 400), (640, 280)]


def photograph(seed: int, size: tuple[int, int] | None = None) -> Image.Image:
    """Return a picture; its size follows from the seed, too, where none is named."""
    chance = np.random.default_rng(seed)
    width, height = size or _SIZES[int(chance.integers(len(_SIZES)))]
    top, foot, near = (np.array(one, float) for one in _LIGHTS[int(chance.integers(len(_LIGHTS)))])
    down = np.linspace(0, 1, height)[:, None, None]
    horizon = float(chance.uniform(0.38, 0.66))
    pixels: Pixels = np.repeat(top + (foot - top) * np.clip(down / horizon, 0, 1) ** 1.4, width, axis=1)
    pixels += _clouds(chance, width, height)[:, :, None] * (255 - pixels) * np.clip(1 - down / horizon, 0, 1)
    pixels = _sun(chance, pixels, horizon)
    layers = int(chance.integers(2, 6))
    for layer in range(layers):
        depth = (layer + 1) / layers
        line = horizon + (1 - horizon) * 0.75 * depth**1.5 - _ridge(chance, width) * (0.05 + 0.16 * depth)
        edge = np.clip((np.arange(height)[:, None] - line[None, :] * height) / 1.5, 0, 1)[:, :, None]
        colour = foot + (near - foot) * depth**0.8
        texture = 1 + 0.16 * depth * _clouds(chance, width, height, 24)[:, :, None]
        pixels = pixels * (1 - edge) + colour * texture * edge
    pixels += chance.normal(0, 3.0, (height, width, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _ridge(chance: np.random.Generator, width: int) -> Pixels:
    """Return the heights of a ridge, between about 0 and 1: some waves, each half as high as the one before."""
    along = np.linspace(0, 1, width)
    heights = np.zeros(width)
    for octave in range(9):
        waves = 2**octave * float(chance.uniform(0.7, 1.4))
        heights += np.sin(along * waves * 6.3 + float(chance.uniform(0, 6.3))) / 2 ** (octave * 0.9)
    scaled: Pixels = (heights - heights.min()) / (np.ptp(heights) or 1)
    return scaled


def _clouds(chance: np.random.Generator, width: int, height: int, grain: int = 4) -> Pixels:
    """Return soft noise between 0 and 1."""
    total, weight = np.zeros((height, width)), 0.0
    for octave in range(4):
        cells = grain * 2**octave
        noise = chance.random((cells * 2, cells)).astype(np.float32)
        smooth = Image.fromarray(noise, "F").resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(smooth) / 2**octave
        weight += 1 / 2**octave
    return np.clip(total / weight - 0.35, 0, 1)


def _sun(chance: np.random.Generator, pixels: Pixels, horizon: float) -> Pixels:
    height, width, _ = pixels.shape
    x, y = float(chance.uniform(0.1, 0.9)) * width, float(chance.uniform(0.15, 1.0)) * horizon * height
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    distance = np.hypot(across - x, down - y) / max(width, height)
    glow = np.exp(-distance * 9) * float(chance.uniform(0.2, 0.8))
    warm = np.array((255, 236, 200), float)
    lit: Pixels = pixels + (warm - pixels) * glow[:, :, None]
    return lit


_CAMERAS = [("Canon", "Canon EOS R6"), ("Apple", "iPhone 14 Pro"), ("FUJIFILM", "X-T30"), ("SONY", "ILCE-7M3")]


def jpeg(seed: int, size: tuple[int, int] | None = None) -> bytes:
    """Return a picture as a camera writes it: with a date, an exposure, half of them with a place."""
    image, exif = photograph(seed, size), Image.Exif()
    chance = np.random.default_rng(seed)
    at = datetime(2026, 11, 20, 17, 40) - timedelta(hours=float(seed) ** 1.35)  # noqa: DTZ001
    make, model = _CAMERAS[int(chance.integers(len(_CAMERAS)))]
    exif[0x010F], exif[0x0110] = make, model
    camera = exif.get_ifd(0x8769)
    camera[0x9003] = at.strftime("%Y:%m:%d %H:%M:%S")
    camera[0x829A] = IFDRational(1, int(chance.choice([60, 125, 250, 500])))
    camera[0x829D] = IFDRational(int(chance.choice([18, 40, 80])), 10)
    camera[0x8827], camera[0x920A] = int(chance.choice([64, 200, 800])), IFDRational(int(chance.choice([24, 35, 50])))
    if seed % 2:
        place = exif.get_ifd(0x8825)
        place[1], place[2], place[3], place[4] = "N", (47.0, 33.0, 12.0), "E", (11.0, 2.0, 30.0)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=84, exif=exif, comment=f"photograph {seed}".encode())
    return out.getvalue()
