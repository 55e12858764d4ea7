"""Computes sRGB from colours that no ICC profile describes: Lab, printing inks, and the light of HDR pictures.

Arrays are of floats, the channels last; sRGB comes out from 0 to 1. numpy is imported with this module, so who needs it
imports it late.
"""

from itertools import product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

# From CIE XYZ to linear sRGB: for D50, the white of ICC profiles and of TIFF's Lab, adapted by Bradford's transform.
_FROM_D50 = np.array(
    [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
)
_D50 = np.array([0.9642, 1.0, 0.8249])
# From linear RGB of these primaries (ITU-T H.273, table 2) to linear sRGB; all of them have the white D65.
_TO_SRGB = {
    9: np.array([[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]]),
    12: np.array([[1.224940, -0.224940, 0.0], [-0.042057, 1.042057, 0.0], [-0.019638, -0.078636, 1.098274]]),
}


def encoded(light: Floats) -> Floats:
    """Return sRGB as it is stored, of linear sRGB (IEC 61966-2-1)."""
    light = np.clip(light, 0.0, 1.0)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def from_lab(lab: Floats) -> Floats:
    """Return sRGB of CIE L*a*b* with the white D50."""
    return encoded(_xyz(lab) @ _FROM_D50.T)


def _xyz(lab: Floats) -> Floats:
    """Return CIE XYZ (CIE 15, 8.2.1.1)."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    xyz: Floats = np.where(f > 6 / 29, f**3, (f - 4 / 29) * 3 * (6 / 29) ** 2) * _D50
    return xyz


# -- printing inks

# Coated paper with each of the 16 overprints of full inks: without any, K, Y, YK, M, … CMYK, in Lab under D50, as
# measured for FOGRA39 (the characterisation of offset printing by ISO 12647-2 on coated paper).
_OVERPRINTS = np.array([
    (95.0, 0.0, -2.0), (16.0, -0.1, 0.0), (89.0, -5.0, 93.0), (15.7, -3.0, 11.6),
    (48.0, 74.0, -3.0), (10.4, 14.0, 1.3), (47.0, 68.0, 48.0), (11.3, 8.6, 7.3),
    (55.0, -37.0, -50.0), (10.4, -8.2, -10.3), (50.0, -65.0, 27.0), (11.3, -13.0, 3.6),
    (24.0, 22.0, -46.0), (7.9, 5.8, -6.0), (23.0, -0.1, 0.0), (8.7, -0.2, 2.0),
])  # fmt: skip
_INKS = np.array(list(product((0.0, 1.0), repeat=4)))
# Dots grow in print, and light that enters the paper beside a dot leaves it through the dot (Yule and Nielsen). With
# these two the 1,485 patches of FOGRA39 are met within a mean of 2.6 and at most 5.9 of CIE's ΔE*ab.
_GAIN, _SPREAD = 0.24, 1.5


def from_cmyk(inks: Floats) -> Floats:
    """Return sRGB of inks from 0 to 1, as printed by the standard: Neugebauer's equations, in Yule and Nielsen's form.

    Relative to the paper and to the darkest overprint, as programs show a picture for print: paper is white.
    """
    dots = inks + _GAIN * inks * (1 - inks)
    overprints = _xyz(_OVERPRINTS)
    black = overprints[-1]
    overprints = ((overprints - black) / (overprints[0] - black)).clip(0.0) ** (1 / _SPREAD)
    mixed = np.zeros((*inks.shape[:-1], 3))
    for full, overprint in zip(_INKS, overprints, strict=True):
        mixed += np.prod(np.where(full == 1.0, dots, 1 - dots), axis=-1)[..., None] * overprint
    return encoded(mixed**_SPREAD * _D50 @ _FROM_D50.T)


# -- HDR

_PQ, _HLG = 16, 18
_WHITE_NITS = 203.0
"""How bright paper is in an HDR picture (ITU-R BT.2408)."""
_KNEE = 0.8


def from_hdr(coded: Floats, primaries: int, transfer: int) -> Floats:
    """Return sRGB of a picture in PQ (H.273's transfer 16) or HLG (18) of these primaries, tone-mapped.

    Up to four fifths of paper white the light stays as it is, so skin is skin; what is brighter is pressed together
    into the rest, and paper is still white. A picture without highlights is not changed at all.
    """
    light = (_pq(coded) if transfer == _PQ else _hlg(coded)) / _WHITE_NITS
    if primaries in _TO_SRGB:
        light = light @ _TO_SRGB[primaries].T
    light = np.maximum(light, 0.0)
    brightest = light.max(axis=-1, keepdims=True)
    # Not the very brightest: a hot pixel must not decide. (`quantile` would load numpy.ma, which may be out of reach.)
    place = int(0.999 * (brightest.size - 1))
    peak = float(np.partition(brightest, place, axis=None)[place])
    if peak > 1.02:
        # All three by the brightest: else colours would change with the light.
        light = light * (_shoulder(brightest, peak) / np.maximum(brightest, 1e-6))
    return encoded(light)


def _shoulder(light: Floats, peak: float) -> Floats:
    """Return light pressed from 0 … peak into 0 … 1: straight up to the knee, from there on ever flatter."""
    room = 1.0 - _KNEE
    over = np.maximum(light - _KNEE, 0.0) / room
    most = 1.0 - np.exp(-(peak - _KNEE) / room)
    return np.where(light <= _KNEE, light, _KNEE + room * np.minimum((1.0 - np.exp(-over)) / most, 1.0))


def _pq(coded: Floats) -> Floats:
    """Return light in cd/m² (SMPTE ST 2084, equation 4.1)."""
    power = np.clip(coded, 0.0, 1.0) ** (32 / 2523)
    light: Floats = 10000.0 * (np.maximum(power - 107 / 128, 0.0) / (2413 / 128 - 2392 / 128 * power)) ** (8192 / 1305)
    return light


def _hlg(coded: Floats) -> Floats:
    """Return light in cd/m² on the reference display of 1000 cd/m² (ITU-R BT.2100, table 5)."""
    coded = np.clip(coded, 0.0, 1.0)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(coded <= 0.5, coded**2 / 3, (np.exp((coded - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593])
    light: Floats = 1000.0 * scene * luminance[..., None] ** 0.2
    return light
