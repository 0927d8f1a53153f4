"""Tilt slices of the relion flavour, gathered into a volume as RELION does, against its own sums."""

from __future__ import annotations

from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest
import scipy.fft

from centralslice.data.particles import ContrastTransfer, OpticsGroup
from centralslice.data.tilt_series import TiltSeries
from centralslice.fourier.tilt_slices import TiltSettings, prepare_tilt_slices, prepare_tilts, tilt_ctf
from centralslice.fourier.windows import cut_windows, window_corners
from centralslice.geometry.eulers import relion_to_matrices
from centralslice.geometry.tilt_geometry import (
    depth_defocus,
    image_positions,
    inside_images,
    projection_matrices,
)
from centralslice.optics.whitening import whitening_curve

DOUBLE = np.dtype(np.float64)


def table(block: gemmi.cif.Block) -> dict[str, np.ndarray]:
    loop = next(item.loop for item in block if item.loop is not None)
    rows = np.array([[loop[i, j] for j in range(loop.width())] for i in range(loop.length())])
    return {tag: rows[:, number] for number, tag in enumerate(loop.tags)}


def columns(rows: dict[str, np.ndarray], *names: str) -> np.ndarray:
    return np.stack([rows[f"_rln{name}"].astype(float) for name in names], -1)


def read_series(folder: Path, name: str, size: tuple[int, int, int], hand: float):
    rows = table(gemmi.cif.read(str(folder / f"tilt_series/{name}.star")).sole_block())
    with mrcfile.mmap(folder / f"tilt/{name}.mrcs") as stack:
        images = np.array(stack.data)
    count, image_size = len(images), (images.shape[2], images.shape[1])
    x, y, z = columns(rows, "TomoXTilt", "TomoYTilt", "TomoZRot").T
    shifts = columns(rows, "TomoXShiftAngst", "TomoYShiftAngst") / 4.0
    u, v, angle, scale, dose = columns(
        rows, "DefocusU", "DefocusV", "DefocusAngle", "CtfScalefactor", "MicrographPreExposure"
    ).T
    nothing, whole = np.zeros(count), np.arange(count)
    series = TiltSeries(
        name, folder, (), whole, whole, image_size, 4.0, size,
        projection_matrices(x, y, z, shifts, image_size, size), nothing, hand, 1.0,
        ContrastTransfer(u, v, angle, nothing, nothing, scale), dose, 0.0, OpticsGroup("one", 4.0, 0, 300.0, 2.7, 0.1),
    )  # fmt: skip
    return series, images


def gather(
    samples: np.ndarray, matrix: np.ndarray, radius: float, data: np.ndarray, weight: np.ndarray
) -> None:
    """Add one slice to every voxel within one of its plane (section 4 of the description)."""
    size = data.shape[0]
    signed = np.fft.fftfreq(size, 1 / size)
    z, y, x = np.meshgrid(signed, signed, np.arange(size // 2 + 1), indexing="ij")
    u, v, w = np.linalg.inv(matrix).T @ np.stack([x, y, z]).reshape(3, -1)
    near = (x**2 + y**2 + z**2).ravel() <= radius**2
    near &= (np.abs(w) < 1) & (np.abs(u) < size // 2 + 1) & (np.abs(v) < size // 2 + 1)
    here = np.flatnonzero(near)
    u, v, h = u[here], v[here], 1 - np.abs(w[here])
    flip = u < 0
    u, v = np.where(flip, -u, u), np.where(flip, -v, v)
    v = np.where((v < 0) & (np.abs(v) > 1e-9), v + size, v)
    x0, y0 = u.astype(int), v.astype(int)
    fx, fy = u - x0, v - y0
    x0, y0 = np.minimum(x0, size // 2), np.clip(y0, 0, size - 1)
    x1, y1 = np.where(x0 + 1 > size // 2, size // 2 - 1, x0 + 1), (y0 + 1) % size
    for channel, target in ((0, data), (2, weight)):
        plane = samples[..., 0] + 1j * samples[..., 1] if channel == 0 else samples[..., 2]
        value = (1 - fy) * ((1 - fx) * plane[y0, x0] + fx * plane[y0, x1])
        value = value + fy * ((1 - fx) * plane[y1, x0] + fx * plane[y1, x1])
        target.reshape(-1)[here] += h * (np.where(flip, np.conj(value), value))


def half_sums(folder: Path, box: int, half: int, background: str, wanted: TiltSettings, whiten: bool):
    series, images = read_series(folder, "TS_01", (250, 236, 90), -1.0)
    rows = table(gemmi.cif.read(str(folder / "particles_static.star")).find_block("particles"))
    chosen = rows["_rlnRandomSubset"].astype(int) == half
    sub = relion_to_matrices(*columns(rows, *(f"TomoSubtomogram{name}" for name in ("Rot", "Tilt", "Psi"))).T)
    own = relion_to_matrices(*columns(rows, "AngleRot", "AngleTilt", "AnglePsi").T)
    origin = columns(rows, "OriginXAngst", "OriginYAngst", "OriginZAngst") / 4.0
    positions = columns(rows, *(f"CenteredCoordinate{axis}Angst" for axis in "XYZ")) / 4.0 + series.centre
    positions -= np.einsum("nij,nj->ni", sub, origin)
    centres, depth = image_positions(series, positions), depth_defocus(series, positions)
    seen = inside_images(centres, series.image_size, box / 2)
    data, weight = np.zeros((box, box, box // 2 + 1), complex), np.zeros((box, box, box // 2 + 1))
    curves = np.stack([whitening_curve(image, box) for image in images]) if whiten else None
    preparation = prepare_tilts(series, series.optics, wanted, curves)
    for n in np.flatnonzero(chosen):
        tilt = np.flatnonzero(seen[n])
        corners, at = window_corners(centres[n, tilt], preparation.window_size)
        windows, _ = cut_windows(images, tilt, corners, preparation.window_size, background)
        samples = prepare_tilt_slices(windows, preparation, tilt, at, tilt_ctf(series, tilt, depth[n, tilt]))
        for number, f in enumerate(tilt):
            matrix = series.projections[f, :3, :3] @ sub[n] @ own[n]
            gather(samples[number], matrix, preparation.radii[f], data, weight)
    return data, weight


@pytest.mark.parametrize(
    ("name", "background", "mode", "whiten"),
    [("c1", "circle", "full", False), ("noctf", "circle", "none", False), ("nocircle", "none", "full", False),
     ("whiten", "circle", "full", True)],
)  # fmt: skip
def test_gathered_slices_are_the_sums_that_relion_writes(reference, name, background, mode, whiten):
    folder, box = reference / "relion_tomo", 48
    wanted = TiltSettings(box, 4.0, ctf_mode=mode, flavour="relion", precision=DOUBLE)
    data, weight = half_sums(folder, box, 1, background, wanted, whiten)
    with mrcfile.open(folder / f"out/{name}/weight_half1.mrc") as file:
        theirs = np.fft.ifftshift(file.data.astype(float))[:, :, : box // 2]
    inner = np.ix_(*[np.delete(np.arange(box), box // 2)] * 2)
    ours = weight[:, :, : box // 2]
    assert np.abs(ours[inner] - theirs[inner]).max() < 2e-6 * theirs.max()
    sign = (-1.0) ** np.add.outer(np.add.outer(np.arange(box), np.arange(box)), np.arange(box // 2 + 1))
    volume = scipy.fft.irfftn(data * sign, (box,) * 3, norm="ortho")
    offset = np.arange(box) - box // 2
    radius = np.sqrt(offset[:, None, None] ** 2 + offset[:, None] ** 2 + offset**2)
    volume /= np.sinc(radius / box) ** 2
    with mrcfile.open(folder / f"out/{name}/data_half1.mrc") as file:
        theirs = file.data.astype(float)
    assert np.sqrt(np.mean((volume - theirs) ** 2)) < 5e-6 * np.sqrt(np.mean(theirs**2))
