"""The STAR tables of a simulated tomography project, in RELION 5 or RELION 4 form, and its truth as tables."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from centralslice.data.particles import OpticsGroup
from centralslice.data.tilt_series import TiltSeries
from centralslice.geometry.eulers import matrices_to_relion
from centralslice.geometry.gaussians import GaussianPhantom
from centralslice.jobs.simulate.tomo_images import Levels
from centralslice.jobs.simulate.tomo_scene import Alignment, TomoScene

Table: TypeAlias = dict[str, NDArray[Any]]
Tables: TypeAlias = dict[str, Table]

OPTIMISATION_SET, PARTICLES, TOMOGRAMS = "optimisation_set.star", "particles.star", "tomograms.star"
MOTION, TRUTH_MAP, TRUTH = "motion.star", "truth.mrc", "truth.json"


def relion_files(scene: TomoScene) -> dict[str, Tables]:
    """All tables by the name of their file in the project's folder, the optimisation set last.

    Names of files in them start from the project's folder, which is where RELION is run.
    """
    files = {TOMOGRAMS: {"global": _global(scene)}}
    for series, alignment in zip(scene.particles.series, scene.alignments, strict=True):
        if scene.settings.relion4:
            files[TOMOGRAMS][series.name] = _tilts_relion4(scene, series)
        else:
            files[f"tilt_series/{series.name}.star"] = {series.name: _tilts(scene, series, alignment)}
    if scene.particles.motion is not None:
        files[MOTION] = _motion(scene)
    files[PARTICLES] = {
        "general": {"rlnTomoSubTomosAre2DStacks": np.array(0)},
        "optics": _optics(scene),
        "particles": _particles(scene),
    }
    names = {"rlnTomoParticlesFile": np.array(PARTICLES), "rlnTomoTomogramsFile": np.array(TOMOGRAMS)}
    if MOTION in files:
        names["rlnTomoTrajectoriesFile"] = np.array(MOTION)
    files[OPTIMISATION_SET] = {"optimisation_set": names}
    return files


def stack_name(series: TiltSeries) -> str:
    """The file of a series' images, from the project's folder."""
    return f"tilt/{series.name}.mrcs"


def _microscope(groups: list[OpticsGroup]) -> Table:
    return {
        "rlnVoltage": np.array([group.voltage_kv for group in groups]),
        "rlnSphericalAberration": np.array([group.spherical_aberration_mm for group in groups]),
        "rlnAmplitudeContrast": np.array([group.amplitude_contrast for group in groups]),
        "rlnTomoTiltSeriesPixelSize": np.array([group.pixel_size_angst for group in groups]),
    }


def _global(scene: TomoScene) -> Table:
    """One row a tomogram."""
    series, optics = scene.particles.series, scene.settings.optics
    table: Table = {"rlnTomoName": np.array([one.name for one in series])}
    if scene.settings.relion4:
        table["rlnTomoTiltSeriesName"] = np.array([stack_name(one) for one in series])
        table["rlnTomoFrameCount"] = np.array([len(one) for one in series])
    else:
        table["rlnTomoTiltSeriesStarFile"] = np.array([f"tilt_series/{one.name}.star" for one in series])
    table |= _microscope([one.optics for one in series])
    table["rlnTomoHand"] = np.array([one.hand for one in series])
    table["rlnOpticsGroupName"] = np.array([one.optics.name for one in series])
    for number, axis in enumerate("XYZ"):
        table[f"rlnTomoSize{axis}"] = np.array([one.size[number] for one in series])
    table["rlnTomoImportFractionalDose"] = np.full(len(series), optics.dose_per_tilt)
    if optics.defocus_slope != 1:
        table["rlnTomoDefocusSlope"] = np.array([one.defocus_slope for one in series])
    if optics.bfactor_per_dose > 0:
        table["rlnCtfBfactorPerElectronDose"] = np.array([one.bfactor_per_dose for one in series])
    return table


def _tilts(scene: TomoScene, series: TiltSeries, alignment: Alignment) -> Table:
    """One row a tilt, RELION 5: angles and shifts, or matrices for random directions."""
    name = stack_name(series)
    table: Table = {
        "rlnMicrographName": np.array([f"{number + 1:06d}@{name}" for number in range(len(series))]),
        "rlnMicrographPreExposure": series.dose,
    }
    if scene.settings.scheme.random_directions is not None:
        table |= _matrices(series)
    else:
        table |= {
            "rlnTomoNominalStageTiltAngle": series.tilt_angles_deg,
            "rlnTomoXTilt": alignment.x_tilt_deg,
            "rlnTomoYTilt": alignment.y_tilt_deg,
            "rlnTomoZRot": alignment.z_rot_deg,
            "rlnTomoXShiftAngst": alignment.shifts_angst[:, 0],
            "rlnTomoYShiftAngst": alignment.shifts_angst[:, 1],
        }
    return table | _contrast_transfer(series)


def _tilts_relion4(scene: TomoScene, series: TiltSeries) -> Table:
    """One row a tilt, RELION 4."""
    return _matrices(series) | _contrast_transfer(series) | {"rlnMicrographPreExposure": series.dose}


def _matrices(series: TiltSeries) -> Table:
    return {f"rlnTomoProj{row}": series.projections[:, number] for number, row in enumerate("XYZW")}


def _contrast_transfer(series: TiltSeries) -> Table:
    parameters = series.ctf
    table: Table = {
        "rlnDefocusU": parameters.defocus_u_angst,
        "rlnDefocusV": parameters.defocus_v_angst,
        "rlnDefocusAngle": parameters.defocus_angle_deg,
        "rlnCtfScalefactor": parameters.scale,
    }
    if parameters.phase_shift_deg.any():
        table["rlnPhaseShift"] = parameters.phase_shift_deg
    if parameters.bfactor_angst2.any():
        table["rlnCtfBfactor"] = parameters.bfactor_angst2
    return table


def _optics(scene: TomoScene) -> Table:
    groups = list(scene.particles.optics)
    table: Table = {
        "rlnOpticsGroup": np.arange(1, len(groups) + 1),
        "rlnOpticsGroupName": np.array([group.name for group in groups]),
        **_microscope(groups),
    }
    for label, name in (("rlnEvenZernike", "even_zernike"), ("rlnOddZernike", "odd_zernike")):
        if any(getattr(group, name) for group in groups):
            table[label] = np.array([getattr(group, name) for group in groups])
    return table


def _particles(scene: TomoScene) -> Table:
    """One row a particle; ``position = coordinate − A_sub · origin / pixel``, ``rotation = A_sub · A``."""
    particles, turned = scene.particles, scene.subtomogram
    series = [particles.series[number] for number in particles.series_number.tolist()]
    pixel = np.array([one.pixel_size_angst for one in series])[:, None]
    offset = np.einsum("nij,nj->ni", turned, scene.origins_angst)
    table: Table = {
        "rlnTomoName": np.array([one.name for one in series]),
        "rlnTomoParticleName": particles.names,
    }
    if scene.settings.relion4:
        names, coordinates = "rlnCoordinate{}", particles.positions + offset / pixel
    else:
        centre = np.array([one.centre for one in series])
        names, coordinates = "rlnCenteredCoordinate{}Angst", (particles.positions - centre) * pixel + offset
    table |= {names.format(axis): coordinates[:, number] for number, axis in enumerate("XYZ")}
    if scene.settings.content.subtomogram_angles:
        table |= _angles("rlnTomoSubtomogram", turned)
    table |= _angles("rlnAngle", np.swapaxes(turned, 1, 2) @ particles.rotations)
    for number, axis in enumerate("XYZ"):
        table[f"rlnOrigin{axis}Angst"] = scene.origins_angst[:, number]
    table["rlnOpticsGroup"] = particles.optics_group + 1
    if particles.half_set.any():
        table["rlnRandomSubset"] = particles.half_set.astype(np.int64)
    if particles.visible is not None:
        table["rlnTomoVisibleFrames"] = particles.visible.reshape(len(particles), -1).astype(np.int64)
    return table


def _angles(label: str, matrices: NDArray[Any]) -> Table:
    rot, tilt, psi = matrices_to_relion(matrices)
    return {f"{label}Rot": rot, f"{label}Tilt": tilt, f"{label}Psi": psi}


def _motion(scene: TomoScene) -> Tables:
    """Trajectories: one block a particle, rows as the tilts of its series."""
    particles = scene.particles
    tables: Tables = {"general": {"rlnParticleNumber": np.array(len(particles))}}
    for row, name in enumerate(particles.names.tolist()):
        values = np.asarray(particles.motion)[particles.tilts_of(row)].astype(np.float64)
        tables[name] = {f"rlnOrigin{axis}Angst": values[:, number] for number, axis in enumerate("XYZ")}
    return tables


def truth_tables(scene: TomoScene, phantom: GaussianPhantom, levels: Levels) -> Tables:
    """What a test wants to know: the object, grey levels, true poses, hidden tilts."""
    particles, settings = scene.particles, scene.settings
    return {
        "simulation": {
            "seed": np.array(settings.seed),
            "boxSize": np.array(settings.content.box_size),
            "pixelSizeAngst": np.array(settings.content.pixel_size_angst),
            "relion4": np.array(settings.relion4),
            "ctf": np.array(settings.optics.defocus_range_angst is not None),
            "signalSigma": np.array(levels.signal),
            "noiseSigma": np.array(levels.noise),
            "storedScale": np.array(levels.scale),
            "background": np.array(settings.images.background),
            "gradient": np.array(settings.images.gradient),
        },
        "gaussians": {
            "centreAngst": phantom.centres_angst,
            "sigmaAngst": phantom.sigmas_angst,
            "height": phantom.heights,
        },
        "particles": {
            "name": particles.names,
            "positionPx": particles.positions,
            "rotation": particles.rotations.reshape(-1, 9),
        },
        "tilts": {
            "tomogram": np.repeat([one.name for one in particles.series], [len(s) for s in particles.series]),
            "projection": np.concatenate([one.projections.reshape(-1, 16) for one in particles.series]),
            "hidden": np.concatenate([one.hidden for one in scene.alignments]),
        },
    }
