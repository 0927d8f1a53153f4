"""The catalogue of built-in image and map processors; names, parameters and formulas are EMAN2's.

Importing this module imports none of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from centralslice.plugin.hookspecs import PluginDescription, hookimpl

#: Module -> (name, class, summary) of its processors.
_MODULES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "lowpass": (
        ("filter.lowpass.gauss", "LowpassGauss", "Gaussian low-pass filter, 1/e at the cutoff frequency."),
        (
            "filter.highpass.gauss",
            "HighpassGauss",
            "Gaussian high-pass filter, 1 − 1/e at the cutoff frequency.",
        ),
        ("filter.lowpass.tophat", "LowpassTophat", "Sharp low-pass filter: keeps f ≤ cutoff."),
        ("filter.highpass.tophat", "HighpassTophat", "Sharp high-pass filter: keeps f > cutoff."),
        (
            "filter.lowpass.tanh",
            "LowpassTanh",
            "Low-pass filter with a hyperbolic tangent edge, ½ at the cutoff frequency.",
        ),
        (
            "filter.highpass.tanh",
            "HighpassTanh",
            "High-pass filter with a hyperbolic tangent edge: 1 − the low-pass filter.",
        ),
        (
            "filter.lowpass.butterworth",
            "LowpassButterworth",
            "Butterworth low-pass filter, 0.75 at the end of the pass band.",
        ),
        (
            "filter.highpass.butterworth",
            "HighpassButterworth",
            "Butterworth high-pass filter: 1 − the low-pass filter.",
        ),
        (
            "filter.lowpass.randomphase",
            "LowpassRandomphase",
            "Random phases at and beyond the cutoff frequency, amplitudes kept.",
        ),
    ),
    "bandpass": (
        (
            "filter.bandpass.gauss",
            "BandpassGauss",
            "Gaussian band-pass filter about a centre frequency; the cutoff is its standard deviation.",
        ),
        ("filter.bandpass.tophat", "BandpassTophat", "Sharp band-pass filter: keeps low ≤ f < high."),
        (
            "filter.bandpass.tanh",
            "BandpassTanh",
            "Band-pass filter with hyperbolic tangent edges: the difference of two low-pass filters.",
        ),
        (
            "filter.homomorphic.gauss",
            "HomomorphicGauss",
            "Homomorphic filter ``1 − (1 − v0) exp(−f²/(2c²))``: damps low frequencies down to v0.",
        ),
        (
            "filter.gaussinverse",
            "GaussInverse",
            "Inverse Gaussian ``exp(+f²/(2c²))``: undoes a Gaussian blur.",
        ),
        (
            "filter.shift",
            "FourierShift",
            "Shift by any number of pixels as a phase ramp; what leaves on one side enters on the other.",
        ),
        (
            "filter.radialtable",
            "RadialTable",
            "Filter given as a table, one value a Fourier pixel, linear in between and zero beyond its end.",
        ),
        (
            "filter.ctfcorr.simple",
            "CtfCorrSimple",
            "Rough CTF correction of one radial curve: 1/CTF up to its first maximum, constant beyond.",
        ),
    ),
    "radial_curves": (
        (
            "filter.setstrucfac",
            "SetStrucFac",
            "Gives the map the radial power spectrum of a structure factor file.",
        ),
        ("filter.matchto", "MatchTo", "Gives the data the radial power spectrum of another map or image."),
        (
            "filter.lowpass.autob",
            "LowpassAutoB",
            "Flattens the power spectrum's fall-off (B-factor) and low-pass filters.",
        ),
        (
            "math.sub.optimal",
            "SubOptimal",
            "Subtracts a reference with the best gain in each ring, ``g = Re⟨F F_ref*⟩ / ⟨|F_ref|²⟩``.",
        ),
    ),
    "normalize": (
        ("normalize", "NormalizeStd", "Mean 0 and standard deviation 1."),
        ("normalize.edgemean", "NormalizeEdgemean", "Mean of the edges 0 and standard deviation 1."),
        (
            "normalize.circlemean",
            "NormalizeCirclemean",
            "Mean in a ring (in 3D a shell) 0 and standard deviation 1.",
        ),
        (
            "normalize.lredge",
            "NormalizeLredge",
            "Mean of the two outermost columns on the left and right 0, standard deviation 1.",
        ),
        ("normalize.unitlen", "NormalizeUnitlen", "Root of the sum of squares 1."),
        ("normalize.unitsum", "NormalizeUnitsum", "Sum 1."),
        ("normalize.maxmin", "NormalizeMaxmin", "Smallest value −1, largest 1."),
        (
            "normalize.mask",
            "NormalizeMask",
            "Mean 0 and standard deviation (divisor n) 1 where a mask is not 0.",
        ),
        (
            "normalize.bymass",
            "NormalizeBymass",
            "Scales a map so that the threshold ``thr`` encloses a molecular mass.",
        ),
        (
            "normalize.toimage",
            "NormalizeToimage",
            "Linear least-squares fit ``a v + b`` to another map or image.",
        ),
        ("filter.ramp", "Ramp", "Subtracts the least-squares plane of an image."),
        (
            "normalize.ramp.normvar",
            "NormalizeRampNormvar",
            "Subtracts the least-squares plane, then mean 0 and sigma 1 inside a disc of radius nx/2 − 2.",
        ),
    ),
    "masks": (
        ("mask.sharp", "SharpMask", "Replaces what is outside inner_radius ≤ r < outer_radius by a value."),
        ("mask.soft", "SoftMask", "Spherical mask with a Gaussian edge."),
        ("mask.gaussian", "GaussianMask", "Multiplies by ``exp(−(r/outer)^exponent)``."),
        (
            "mask.ringmean",
            "RingmeanMask",
            "As mask.sharp, with the mean of a ring about outer_radius as the value outside.",
        ),
        (
            "mask.cylinder",
            "CylinderMask",
            "Multiplies a map by a cylinder sector about z, with optional linear edges.",
        ),
        ("mask.fromfile", "MaskFromFile", "Multiplies by a mask file, or keeps one level of it."),
        ("mask.zeroedge2d", "ZeroEdge2d", "Zeroes margins of an image."),
        ("mask.zeroedge3d", "ZeroEdge3d", "Zeroes margins of a map."),
        (
            "mask.decayedge2d",
            "DecayEdge2d",
            "Multiplies an image by a linear ramp that rises from 0 at its edges over a width.",
        ),
    ),
    "auto_masks": (
        (
            "mask.auto3d",
            "AutoMask3d",
            "Masks a map by the density above a threshold that is connected to seeds.",
        ),
        (
            "mask.auto3d.thresh",
            "AutoMask3dThresh",
            "Masks a map by density above a low threshold that is connected to density above a high one.",
        ),
        ("mask.dust3d", "Dust3d", "Removes small separate pieces of density."),
    ),
    "threshold": (
        ("threshold.belowtozero", "BelowToZero", "Values below minval become 0."),
        ("threshold.abovetozero", "AboveToZero", "Values above maxval become 0."),
        ("threshold.belowtozero_cut", "BelowToZeroCut", "Subtracts minval; what falls below 0 becomes 0."),
        (
            "threshold.belowtominval",
            "BelowToMinval",
            "Values below minval become minval, or newval where that is given.",
        ),
        ("threshold.binary", "Binary", "1 where the value reaches a threshold, 0 elsewhere."),
        ("threshold.binaryrange", "BinaryRange", "1 where low ≤ value ≤ high, 0 elsewhere."),
        ("threshold.rangetozero", "RangeToZero", "Values with minval ≤ value ≤ maxval become 0."),
        ("threshold.notzero", "NotZero", "1 where the value is not 0."),
        (
            "threshold.clampminmax",
            "ClampMinMax",
            "Values beyond minval and maxval become the nearer of them, the mean or 0.",
        ),
        (
            "threshold.clampminmax.nsigma",
            "ClampNsigma",
            "Values further than nsigma·σ from the mean become that bound, the mean or 0.",
        ),
        (
            "threshold.compress",
            "Compress",
            "Soft threshold: shrinks values towards `value` by `range`; closer ones become `value`.",
        ),
    ),
    "math_ops": (
        ("math.linear", "Linear", "Linear function ``v · scale + shift``."),
        ("math.reciprocal", "Reciprocal", "``1 / v``; 0 becomes zero_to."),
        ("math.absvalue", "AbsValue", "Absolute value."),
        ("math.squared", "Squared", "Square."),
        ("math.sqrt", "SquareRoot", "Square root; values below 0, which have none, become 0."),
        ("math.log", "Logarithm", "Decimal logarithm; values not above 0, which have none, become 0."),
        ("math.floor", "Floor", "Largest whole number not above the value."),
        ("math.finite", "Finite", "Values that are not finite become `to`, or the mean of the finite ones."),
        ("tomo.tiltangleweight", "TiltAngleWeight", "Multiplies by 1/cos of the tilt angle."),
        (
            "math.multamplitude",
            "MultAmplitude",
            "Multiplies the Fourier transform by a real field from a file.",
        ),
        (
            "math.rotationalaverage",
            "RotationalAverage",
            "Each value becomes the mean at its radius about the centre.",
        ),
        (
            "math.rotationalsubtract",
            "RotationalSubtract",
            "Subtracts the mean at each radius about the centre.",
        ),
    ),
    "kernel_fix": (
        (
            "math.gausskernelfix",
            "GaussKernelFix",
            "Multiplies a map by ``exp(G Σ (x/n)²)``, which undoes a Gaussian interpolation kernel.",
        ),
        (
            "math.gridkernelfix",
            "GridKernelFix",
            "Divides a map by the transform of the kernel of a gridding mode.",
        ),
    ),
    "resample": (
        ("math.medianshrink", "MedianShrink", "Reduces the size n-fold by the median of each block."),
        ("math.maxshrink", "MaxShrink", "Reduces the size n-fold by the largest value of each block."),
        ("math.minshrink", "MinShrink", "Reduces the size n-fold by the smallest value of each block."),
        (
            "math.meanshrink",
            "MeanShrink",
            "Reduces the size n-fold by the mean of each block; images also 1.5-fold.",
        ),
        (
            "math.fft.resample",
            "FftResample",
            "Fourier resampling to n times the voxel size; n < 1 makes the grid finer.",
        ),
    ),
    "xform": (
        (
            "xform",
            "Xform",
            "Rotates, scales and shifts by a Transform, ``dest(x) = src(T⁻¹ x)`` about n // 2.",
        ),
        (
            "xform.scale",
            "Scale",
            "Enlarges about the centre by linear interpolation and clips to `clip` voxels a side.",
        ),
        (
            "xform.applysym",
            "ApplySym",
            "Mean over all rotations of a symmetry, linearly interpolated; images take Cn only.",
        ),
        ("xform.flip", "Flip", "Mirrors about n // 2 along an axis; changes the hand."),
        (
            "xform.reverse",
            "Reverse",
            "Mirrors about n // 2 along an axis; plane 0 of even sizes stays where it is.",
        ),
        (
            "xform.mirror",
            "Mirror",
            "Reverses the order of pixels along an axis; for even sizes this moves the centre by one pixel.",
        ),
        ("math.rotate.180", "Rotate180", "Turns an image by 180° about n // 2."),
        ("xform.transpose", "Transpose", "Exchanges x and y of an image."),
        ("xform.translate.int", "TranslateInt", "Shift by whole pixels, 0 where nothing comes from."),
        ("xform.centerofmass", "CenterOfMass", "Moves the centre of mass to n // 2."),
        (
            "xform.phaseorigin.tocorner",
            "PhaseoriginTocorner",
            "Moves the centre n // 2 to pixel 0, cyclically.",
        ),
        (
            "xform.phaseorigin.tocenter",
            "PhaseoriginTocenter",
            "Moves pixel 0 to the centre n // 2, cyclically.",
        ),
    ),
}

DESCRIPTIONS: tuple[PluginDescription, ...] = tuple(
    PluginDescription(name, summary, f"{__name__}.{module}:{target}")
    for module, processors in _MODULES.items()
    for name, target, summary in processors
)


@hookimpl
def centralslice_processors() -> Iterable[PluginDescription]:
    """All built-in processors."""
    return DESCRIPTIONS
