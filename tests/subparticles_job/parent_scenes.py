"""Parents of any optics, exact to the last Gaussian, on disk: what the subparticles command takes apart."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from subparticle_cases import blob, soft_ball, write_mrc

from centralslice.conventions import FloatArray
from centralslice.data.particles import ContrastTransfer, OpticsGroup, Particles, make_particles
from centralslice.geometry.gaussians import GaussianPhantom
from centralslice.geometry.rotations import random_rotations
from centralslice.jobs.simulate.particles import relion_tables
from centralslice.optics.aberrations import group_phases
from centralslice.optics.ctf import ctf, slice_frequencies
from centralslice.plugin.registry import shared_registry
from centralslice_plugins.writers.star import StarWriter

#: A microscope without faults.
MICROSCOPE = {"voltage_kv": 300.0, "spherical_aberration_mm": 2.7, "amplitude_contrast": 0.1}


@dataclass(frozen=True)
class Scene:
    """What parents are of and how they are taken.

    Attributes
    ----------
    box, pixel
        Of the map.
    centre, radius, mask_radius
        Of the kept subunit in voxels, in whose ball the Gaussians lie, within which its mask is 1.
    sym
        Its copies are the object.
    count, snr
        Parents; variance of noise-free images over that of the noise.
    optics
        Groups the parents are dealt to in turn; none: one of the map's pixel size.
    flipped, depth
        Images with phases flipped; each Gaussian with the defocus of its height.
    defocus
        Å; None: no CTF.
    sigmas
        Range of the Gaussians', voxels.
    """

    box: int = 48
    pixel: float = 3.0
    centre: tuple[float, float, float] = (10.0, 3.0, 6.0)
    radius: float = 3.5
    mask_radius: float = 5.0
    gaussians: int = 12
    sym: str = "d3"
    count: int = 40
    snr: float | None = None
    optics: tuple[OpticsGroup, ...] = ()
    flipped: bool = False
    depth: bool = False
    defocus: tuple[float, float] | None = (8000.0, 18000.0)
    sigmas: tuple[float, float] = (1.1, 1.6)
    seed: int = 5

    @property
    def unit(self) -> GaussianPhantom:
        """The kept subunit."""
        place = np.array(self.centre) * self.pixel
        low, high = self.sigmas
        sigmas = low * self.pixel, high * self.pixel
        return blob(place, self.radius * self.pixel, self.gaussians, sigmas, 1)

    @property
    def whole(self) -> GaussianPhantom:
        """The object."""
        return self.unit.symmetrised(shared_registry().symmetry(self.sym))

    def particles(self, folder: Path) -> Particles:
        """Poses, shifts, astigmatic CTFs and halves."""
        rng = np.random.default_rng(self.seed)
        groups = self.optics or (group(self.pixel, self.box),)
        number = np.arange(self.count)
        halves = (rng.permutation(self.count) % 2 + 1).astype(np.int8)
        return make_particles(
            folder / "p.star", ((folder / "p.mrcs",), np.zeros(self.count, np.int64), number),
            random_rotations(self.count, rng), shifts_angst=rng.uniform(-2, 2, (self.count, 2)) * self.pixel,
            optics=groups, optics_group=number % len(groups), half_set=halves,
            ctf=self._ctf(rng),
        )  # fmt: skip

    def _ctf(self, rng: np.random.Generator) -> ContrastTransfer | None:
        if self.defocus is None:
            return None
        defocus = rng.uniform(*self.defocus, self.count)
        half, zero = np.where(np.arange(self.count) % 2, 600.0, 0.0), np.zeros(self.count)
        angle = rng.uniform(0, 180, self.count)
        return ContrastTransfer(defocus + half, defocus - half, angle, zero, zero, zero + 1)

    def write(self, folder: Path) -> Particles:
        """Stack, STAR file, map, mask of the subunit."""
        folder.mkdir(exist_ok=True)
        particles = self.particles(folder)
        images = np.array([self.image(particles, row) for row in range(self.count)])
        if self.snr is not None:
            noise = np.random.default_rng(self.seed + 1).standard_normal(images.shape, np.float32)
            images += noise * np.sqrt(images.var(axis=(1, 2)).mean() / self.snr)
        write_mrc(folder / "p.mrcs", images, self.pixel)
        write_mrc(folder / "truth.mrc", self.whole.volume(self.box, self.pixel), self.pixel)
        write_mrc(folder / "keep.mrc", soft_ball(self.box, self.centre, self.mask_radius), self.pixel)
        write_table(particles)
        return particles

    def image(self, particles: Particles, row: int, what: GaussianPhantom | None = None) -> FloatArray:
        """One noise-free image."""
        what = self.whole if what is None else what
        optics = particles.optics[particles.optics_group[row]]
        box, pose = optics.box_size, particles.rotations[row]
        kx, ky = slice_frequencies(box, optics)
        gamma, theta = group_phases(optics, box)
        at = np.stack([kx, ky, 0 * kx], -1) @ pose
        one = particles.ctf.take(np.array([row])) if particles.ctf is not None else None
        total = np.zeros(kx.shape, complex)
        for part in [_one(what, g) for g in range(len(what))] if self.depth else [what]:
            spectrum = part.transform(at, optics.pixel_size_angst)
            if one is not None:
                depth = (pose @ part.centres_angst[0])[2] if self.depth else 0.0
                moved = replace(
                    one, defocus_u_angst=one.defocus_u_angst - depth, defocus_v_angst=one.defocus_v_angst - depth
                )  # fmt: skip
                found = ctf(kx, ky, optics, moved, gamma)[0]
                spectrum *= found**2 if optics.ctf_premultiplied else np.abs(found) if self.flipped else found
            total += spectrum
        if not optics.ctf_premultiplied:  # multiplying by the CTF took the phases back
            total *= np.exp(1j * theta)
        x, y = particles.shifts_angst[row] / optics.pixel_size_angst + box // 2
        across, down = np.meshgrid(np.arange(box // 2 + 1), np.fft.fftfreq(box, 1 / box))
        total *= np.exp(-2j * np.pi * (across * x + down * y) / box)
        total[box // 2] = 0
        total[:, box // 2] = 0
        result: FloatArray = np.fft.irfft2(total, s=(box, box))
        return result


def _one(phantom: GaussianPhantom, number: int) -> GaussianPhantom:
    """One Gaussian of several."""
    at = [number]
    return GaussianPhantom(phantom.centres_angst[at], phantom.sigmas_angst[at], phantom.heights[at])


def group(pixel: float, box: int, **changed: Any) -> OpticsGroup:
    """An optics group."""
    return OpticsGroup(pixel_size_angst=pixel, box_size=box, **{**MICROSCOPE, **changed})


def write_table(particles: Particles, **columns: Any) -> Path:
    """A STAR file with all that a group may have."""
    tables = relion_tables(particles)
    optics, groups = tables["optics"], particles.optics
    for number, label in enumerate(("00", "01", "10", "11")):
        optics[f"rlnMagMat{label}"] = np.array([one.magnification[number] for one in groups])
    if any(one.ctf_premultiplied for one in groups):
        optics["rlnCtfDataAreCtfPremultiplied"] = np.array([int(one.ctf_premultiplied) for one in groups])
    rows = tables["particles"]
    rows["rlnOpticsGroup"] = particles.optics_group + 1
    rows["rlnRandomSubset"] = particles.half_set.astype(np.int64)
    rows |= {label: np.asarray(column) for label, column in columns.items()}
    StarWriter().write_tables(particles.source, tables)
    return particles.source


def pairs(block: str, values: Mapping[str, Any]) -> str:
    """A STAR table of one row."""
    return "\n".join([f"data_{block}", "", *(f"_{label} {value}" for label, value in values.items()), "", ""])


def loop(block: str, columns: Mapping[str, Iterable[Any]]) -> str:
    """A STAR table of several."""
    labels = [f"_{label} #{number}" for number, label in enumerate(columns, 1)]
    rows = (" ".join(map(str, row)) for row in zip(*columns.values(), strict=True))
    return "\n".join([f"data_{block}", "", "loop_", *labels, *rows, "", ""])


#: What relion_particle_subtract must find in an optimiser, whatever it is.
_ZEROS = (
    "rlnCurrentIteration", "rlnNumberOfIterations", "rlnJoinHalvesUntilThisResolution",
    "rlnAdaptiveOversampleOrder", "rlnRandomSeed", "rlnDoZeroMask", "rlnDoSolventFlattening", "rlnCoarseImageSize",
    "rlnMaximumCoarseImageSize", "rlnHighresLimitExpectation", "rlnIncrementImageSize", "rlnDoMapEstimation",
    "rlnDoAutoRefine", "rlnAutoLocalSearchesHealpixOrder", "rlnNumberOfIterWithoutResolutionGain",
    "rlnBestResolutionThusFar", "rlnNumberOfIterWithoutChangingAssignments", "rlnDoSkipAlign",
    "rlnOverallAccuracyRotations", "rlnOverallAccuracyTranslationsAngst", "rlnChangesOptimalOrientations",
    "rlnChangesOptimalOffsets", "rlnChangesOptimalClasses", "rlnSmallestChangesOrientations",
    "rlnSmallestChangesOffsets", "rlnSmallestChangesClasses", "rlnHasConverged", "rlnHasHighFscAtResolLimit",
    "rlnHasLargeSizeIncreaseIterationsAgo", "rlnDoIgnoreCtfUntilFirstPeak", "rlnCtfDataArePhaseFlipped",
    "rlnDoOnlyFlipCtfPhases", "rlnFixSigmaNoiseEstimates", "rlnFixSigmaOffsetEstimates", "rlnFixTauEstimates",
    "rlnWidthMaskEdge",
)  # fmt: skip


@dataclass(frozen=True)
class RelionJob:
    """A refinement as RELION leaves it, of a scene in a folder.

    Attributes
    ----------
    maps
        File of each class's map in that folder; with ``split`` the two half sets' (then one class).
    padding
        RELION's of the map.
    norm, scales
        Average norm, and scale of each group; corrected for if given.
    """

    folder: Path
    scene: Scene
    maps: tuple[str, ...] = ("truth.mrc",)
    split: bool = False
    padding: int = 2
    norm: float | None = None
    scales: tuple[float, ...] | None = None

    def write(self) -> Path:
        """The optimiser."""
        name = f"{self.folder}/run_it005"
        ends = ("_half1", "_half2") if self.split else ("",)
        values: dict[str, Any] = dict.fromkeys(_ZEROS, 0) | {
            "rlnOutputRootName": "run", "rlnAdaptiveOversampleFraction": 0.999, "rlnParticleDiameter": 140,
            "rlnSolventMaskName": "None", "rlnSolventMask2Name": "None", "rlnTauSpectrumName": "None",
            "rlnRefsAreCtfCorrected": 1, "rlnMaxNumberOfPooledParticles": 1, "rlnDoCorrectCtf": 1,
            "rlnDoCorrectNorm": int(self.norm is not None), "rlnDoCorrectScale": int(self.scales is not None),
            "rlnDoSplitRandomHalves": int(self.split), "rlnModelStarFile": f"{name}{ends[0]}_model.star",
            "rlnExperimentalDataStarFile": self.folder / "p.star", "rlnOrientSamplingStarFile": f"{name}_sampling.star",
        }  # fmt: skip
        if self.split:
            values["rlnModelStarFile2"] = f"{name}{ends[-1]}_model.star"
        for number, end in enumerate(ends):
            maps = self.maps[number : number + 1] if self.split else self.maps
            Path(f"{name}{end}_model.star").write_text(self._model(maps))
        Path(f"{name}_sampling.star").write_text(
            pairs("sampling_general", {
                "rlnIs3DSampling": 1, "rlnIs3DTranslationalSampling": 0, "rlnHealpixOrder": 0, "rlnSymmetryGroup": "C1",
                "rlnTiltAngleLimit": -91, "rlnPsiStep": 10, "rlnOffsetRange": 3, "rlnOffsetStep": 1,
                "rlnSamplingPerturbInstance": 0, "rlnSamplingPerturbFactor": 0.5,
            })
        )  # fmt: skip
        path = Path(f"{name}_optimiser.star")
        path.write_text(pairs("optimiser_general", values))
        return path

    def _model(self, maps: tuple[str, ...]) -> str:
        scene, shells = self.scene, np.arange(self.scene.box // 2 + 1)
        one, names = np.ones(len(shells)), [self.folder / name for name in maps]
        scales = self.scales or (1.0,)
        text = pairs("model_general", {
            "rlnReferenceDimensionality": 3, "rlnDataDimensionality": 2, "rlnOriginalImageSize": scene.box,
            "rlnCurrentResolution": 1 / (2 * scene.pixel), "rlnCurrentImageSize": scene.box,
            "rlnPaddingFactor": self.padding, "rlnIsHelix": 0, "rlnFourierSpaceInterpolator": 1,
            "rlnMinRadiusNnInterpolation": 10, "rlnPixelSize": scene.pixel, "rlnNrClasses": len(maps), "rlnNrBodies": 1,
            "rlnNrGroups": len(scales), "rlnTau2FudgeFactor": 1, "rlnNormCorrectionAverage": self.norm or 1,
            "rlnSigmaOffsetsAngst": 3, "rlnOrientationalPriorMode": 0, "rlnSigmaPriorRotAngle": 0,
            "rlnSigmaPriorTiltAngle": 0, "rlnSigmaPriorPsiAngle": 0, "rlnLogLikelihood": 0, "rlnAveragePmax": 1,
        })  # fmt: skip
        text += loop("model_classes", {
            "rlnReferenceImage": names, "rlnClassDistribution": [1 / len(maps)] * len(maps),
            **{
                label: [1] * len(maps)
                for label in ("rlnAccuracyRotations", "rlnAccuracyTranslationsAngst", "rlnEstimatedResolution",
                              "rlnOverallFourierCompleteness")
            },
        })  # fmt: skip
        length = scene.box * scene.pixel
        shell = {
            "rlnSpectralIndex": shells, "rlnResolution": shells / length,
            "rlnAngstromResolution": length / np.maximum(shells, 0.1),
        }  # fmt: skip
        curves = ("rlnSsnrMap", "rlnGoldStandardFsc", "rlnFourierCompleteness", "rlnReferenceSigma2",
                  "rlnReferenceTau2", "rlnSpectralOrientabilityContribution")  # fmt: skip
        for number in range(len(maps)):
            text += loop(f"model_class_{number + 1}", shell | dict.fromkeys(curves, one))
            text += loop(
                f"model_pdf_orient_class_{number + 1}", {"rlnOrientationDistribution": [1 / 12] * 12}
            )
        text += loop("model_groups", {
            "rlnGroupNumber": range(1, len(scales) + 1), "rlnGroupName": [f"g{n}" for n in range(len(scales))],
            "rlnGroupNrParticles": [scene.count] * len(scales), "rlnGroupScaleCorrection": scales,
        })  # fmt: skip
        noise = shell | {"rlnSigma2Noise": one}
        return text + "".join(
            loop(f"model_{name}_{n + 1}", noise)
            for name in ("optics_group", "group")
            for n in range(len(scales))
        )


def relion(program: str, *words: str | Path) -> None:
    """Run a program of RELION."""
    done = subprocess.run(
        [program, *map(str, words)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def words(folder: Path, output: Path, *options: str | Path) -> list[str]:
    """The command on a scene's files."""
    files = [
        "--particles",
        folder / "p.star",
        "--map",
        folder / "truth.mrc",
        "--subunitmask",
        folder / "keep.mrc",
    ]
    rest = ["--output", output, "--no-adjust-defocus", "--threads", "1", "--verbose", "0", *options]
    return ["subparticles", *map(str, [*files, *rest])]
