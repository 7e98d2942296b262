"""Display colours: sRGB to the CIELab values of DICOM (PS3.3 C.10.7.1.1)."""

from __future__ import annotations

_SRGB_TO_XYZ_D50 = (
    (0.4360747, 0.3850649, 0.1430804),
    (0.2225045, 0.7168786, 0.0606169),
    (0.0139322, 0.0971045, 0.7141733),
)
"""sRGB primaries adapted to the D50 white of the profile connection space (Bradford)."""
_WHITE_D50 = (0.96422, 1.0, 0.82521)
_LINEAR_PART_ENDS = 0.04045


def dicom_cielab(red: int, green: int, blue: int) -> tuple[int, int, int]:
    """0 to 255 each -> L* of 0 to 100 and a*, b* of -128 to 127, each scaled to 0 to 65535."""
    linear = [_linear(channel / 255) for channel in (red, green, blue)]
    x, y, z = (
        _cube_root(sum(m * c for m, c in zip(row, linear, strict=True)) / white)
        for row, white in zip(_SRGB_TO_XYZ_D50, _WHITE_D50, strict=True)
    )
    lightness, a, b = 116 * y - 16, 500 * (x - y), 200 * (y - z)
    return (
        _scaled(lightness / 100),
        _scaled((a + 128) / 255),
        _scaled((b + 128) / 255),
    )


def _linear(channel: float) -> float:
    if channel <= _LINEAR_PART_ENDS:
        return channel / 12.92
    return float(((channel + 0.055) / 1.055) ** 2.4)


def _cube_root(ratio: float) -> float:
    epsilon = (6 / 29) ** 3
    return float(ratio ** (1 / 3)) if ratio > epsilon else ratio / (3 * (6 / 29) ** 2) + 4 / 29


def _scaled(fraction: float) -> int:
    return round(min(max(fraction, 0.0), 1.0) * 65535)
