"""Every registered processor keeps the laws of the contract; the catalogue and the classes agree."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import subprocess
import sys

import mrcfile
import numpy as np
import pytest

import centralslice_plugins.processors as catalogue
from centralslice.abc.parameters import parameters_of
from centralslice.abc.processor import Processor
from centralslice.errors import InputError, ParameterError, PluginError
from centralslice.plugin.registry import load_registry, shared_registry
from centralslice.testing.processor import ProcessorContract

SIDE = 12
#: Parameters to try them with; {map} is a 12³ map file, {half} a half transform, {curve} a curve.
PARAMETERS = {
    "filter.lowpass.gauss": "cutoff_freq=0.1",
    "filter.lowpass.tophat": "cutoff_abs=0.2",
    "filter.lowpass.tanh": "cutoff_abs=0.2",
    "filter.lowpass.butterworth": "cutoff_abs=0.2",
    "filter.lowpass.randomphase": "cutoff_abs=0.2",
    "filter.highpass.gauss": "cutoff_pixels=2",
    "filter.highpass.tophat": "cutoff_abs=0.2",
    "filter.highpass.tanh": "cutoff_abs=0.2",
    "filter.highpass.butterworth": "low_cutoff_frequency=0.1:high_cutoff_frequency=0.3",
    "filter.bandpass.gauss": "center=0.2:sigma=0.1",
    "filter.bandpass.tophat": "low_cutoff_frequency=0.1:high_cutoff_frequency=0.3",
    "filter.bandpass.tanh": "low_cutoff_frequency=0.1:high_cutoff_frequency=0.3",
    "filter.homomorphic.gauss": "cutoff_abs=0.2",
    "filter.gaussinverse": "cutoff_abs=0.5",
    "filter.shift": "x_shift=1.5:y_shift=-2",
    "filter.radialtable": "table=1,0.8,0.5,0.1",
    "filter.setstrucfac": "strucfac={curve}",
    "filter.matchto": "to={map}",
    "filter.lowpass.autob": "noisecutoff=0.2",
    "math.sub.optimal": "ref={map}",
    "normalize.mask": "mask={map}",
    "normalize.bymass": "mass=0.8",
    "normalize.toimage": "to={map}",
    "mask.ringmean": "outer_radius=4",
    "mask.sharp": "outer_radius=4",
    "mask.soft": "outer_radius=3",
    "mask.gaussian": "outer_radius=4",
    "mask.fromfile": "filename={map}",
    "mask.zeroedge2d": "x0=2:apodize=1",
    "mask.zeroedge3d": "x0=2:z1=1",
    "mask.auto3d": "threshold=1:nmaxseed=5:nshells=1:nshellsgauss=3",
    "mask.auto3d.thresh": "nshells=1",
    "threshold.binaryrange": "low=0:high=1",
    "threshold.rangetozero": "minval=0:maxval=1",
    "threshold.clampminmax": "minval=0:maxval=1",
    "threshold.compress": "range=0.1",
    "math.linear": "scale=2:shift=1",
    "tomo.tiltangleweight": "angle=60",
    "math.multamplitude": "amp={half}",
    "math.gausskernelfix": "gauss_width=4",
    "math.gridkernelfix": "functor=gridding_5",
    "math.medianshrink": "n=2",
    "math.maxshrink": "n=3",
    "math.minshrink": "n=2",
    "math.meanshrink": "n=2",
    "math.fft.resample": "n=1.4",
    "xform": "phi=30:tx=1.5",
    "xform.scale": "scale=1.3",
    "xform.applysym": "sym=c3",
    "xform.flip": "axis=x",
    "xform.reverse": "axis=y",
    "xform.mirror": "axis=x",
    "xform.translate.int": "trans=1,-2",
}
NAMES = tuple(description.name for description in catalogue.DESCRIPTIONS)
WITH_FILES = tuple(name for name, text in PARAMETERS.items() if "{map}" in text or "{half}" in text)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    values = np.random.default_rng(5).random((SIDE,) * 3).astype(np.float32)
    for name, data in (("map", values), ("half", values[..., : SIDE // 2 + 1])):
        with mrcfile.new(folder / f"{name}.mrc", data=np.ascontiguousarray(data)) as out:
            out.voxel_size = 2.5
    (folder / "curve.txt").write_text("0 5\n0.1 3\n0.2 1\n")
    return {"map": folder / "map.mrc", "half": folder / "half.mrc", "curve": folder / "curve.txt"}


def made(name, files):
    text = PARAMETERS.get(name, "").format(**{key: f'"{path}"' for key, path in files.items()})
    return shared_registry().create("processor", f"{name}:{text}" if text else name)


class TestEveryProcessor(ProcessorContract):
    @pytest.fixture(params=NAMES, autouse=True)
    def _chosen(self, request, files):
        self.name, self.files = request.param, files

    def make(self) -> Processor:
        return made(self.name, self.files)

    def shapes(self):
        return ((SIDE,) * 3,) if self.name in WITH_FILES else super().shapes()


@pytest.mark.parametrize("name", NAMES)
def test_data_of_wrong_dimension_or_dtype_are_refused(name, files):
    processor = made(name, files)
    for shape in [(SIDE,), (SIDE,) * 4, *[(SIDE,) * n for n in {2, 3} - processor.dimensions]]:
        with pytest.raises(InputError, match="data, got"):
            processor.apply(np.zeros(shape, np.float32), 1.0)
    good = (SIDE,) * min(processor.dimensions)
    with pytest.raises(InputError, match="float32 or float64"):
        processor.apply(np.zeros(good, np.int16), 1.0)
    with pytest.raises(ParameterError, match="voxel size"):
        processor.apply(np.zeros(good, np.float32), 0.0)


def classes_of_the_package():
    found = {}
    for info in pkgutil.iter_modules(catalogue.__path__):
        module = importlib.import_module(f"{catalogue.__name__}.{info.name}")
        for thing in vars(module).values():
            if inspect.isclass(thing) and issubclass(thing, Processor) and "plugin_name" in vars(thing):
                found[thing.plugin_name] = thing
    return found


def test_the_catalogue_has_all_classes_and_nothing_else():
    classes = classes_of_the_package()
    assert set(classes) == set(NAMES)
    assert len(NAMES) == len(set(NAMES))
    for description in catalogue.DESCRIPTIONS:
        found = classes[description.name]
        assert description.target == f"{found.__module__}:{found.__name__}"
        assert description.summary == inspect.cleandoc(found.__doc__).splitlines()[0]
        assert not inspect.isabstract(found)


def test_all_processors_are_registered_and_resolve():
    registry = load_registry()
    for name in NAMES:
        assert registry.resolve("processor", name).plugin_name == name


def test_listing_processors_imports_neither_numpy_nor_scipy():
    code = (
        "import sys, centralslice_plugins.processors as p; list(p.centralslice_processors());"
        "print(sorted({'numpy', 'scipy', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("found", classes_of_the_package().values(), ids=lambda found: found.plugin_name)
def test_every_parameter_is_explained_and_immutable(found):
    assert dataclasses.is_dataclass(found)
    assert found.__dataclass_params__.frozen
    for info in parameters_of(found):
        assert info.doc, f"{info.name} has no explanation"


def test_most_names_are_names_of_the_peer(reference):
    theirs = set((reference / "eman2" / "processors.txt").read_text().split())
    assert set(NAMES) <= theirs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("filter.lowpass.gauss", "no cutoff"),
        ("filter.lowpass.gauss:cutoff_freq=-1", "cutoff_freq"),
        ("filter.lowpass.gauss:cutoff_freq=nan", "cutoff_freq"),
        ("filter.lowpass.gauss:cutoff_freq=abc", "cutoff_freq"),
        ("filter.lowpass.gauss:cutof=1", "unknown parameter"),
        ("filter.lowpass.gauss:cutoff_abs=0.1:apix=0", "apix"),
        ("filter.lowpass.tanh:cutoff_abs=0.1:fall_off=0", "fall_off"),
        ("filter.lowpass.butterworth:low_cutoff_frequency=0.3:high_cutoff_frequency=0.2", "high_cutoff"),
        ("filter.bandpass.tophat:low_cutoff_frequency=0.3:high_cutoff_frequency=0.2", "high_cutoff"),
        ("filter.bandpass.gauss:cutoff_abs=0.2", "center"),
        ("filter.radialtable:table=1,x", "numbers"),
        ("filter.setstrucfac", "strucfac"),
        ("filter.setstrucfac:strucfac=a:filename=b", "strucfac"),
        ("filter.ctfcorr.simple:defocus=-1", "defocus"),
        ("filter.lowpass.randomphase:cutoff_abs=0.2:seed=-1", "seed"),
        ("normalize.bymass", "mass"),
        ("mask.soft:width=0", "width"),
        ("mask.sharp:inner_radius=-1", "inner_radius"),
        ("mask.cylinder:phitrirange=10", "phitrirange"),
        ("mask.zeroedge2d:x0=-1", "x0"),
        ("mask.zeroedge2d:x0=1.5", "x0"),
        ("mask.auto3d:threshold=1", "seeds"),
        ("mask.auto3d:radius=5", "threshold"),
        ("mask.auto3d:threshold=1:sigma=1:radius=3", "threshold"),
        ("threshold.clampminmax:minval=1:maxval=0", "maxval"),
        ("threshold.clampminmax:minval=0:maxval=1:tomean=1:tozero=1", "not both"),
        ("threshold.compress:range=-1", "range"),
        ("math.linear:shift=1", "scale"),
        ("math.meanshrink:n=2.5", "n"),
        ("math.meanshrink:n=1", "n"),
        ("math.medianshrink:n=1.5", "n"),
        ("math.fft.resample:n=0", "n"),
        ("math.gridkernelfix:functor=gauss_2", "gridding_5"),
        ("tomo.tiltangleweight:angle=90", "angle"),
        ("xform:alpha=3:phi=3", "not both"),
        ("xform:transform=1,0,0", "12 numbers"),
        ("xform:transform=0,0,0,0,0,0,0,0,0,0,0,0", "invertible"),
        ("xform:scale=0", "scale"),
        ("xform.flip:axis=w", "axis"),
        ("xform.translate.int:trans=1.5,2", "trans"),
    ],
)
def test_bad_parameters_are_refused_in_one_line_that_names_them(text, words):
    with pytest.raises(ParameterError, match=words) as caught:
        shared_registry().create("processor", text)
    assert "\n" not in str(caught.value)
    assert text.partition(":")[0] in str(caught.value)


def test_values_of_the_wrong_type_are_refused_from_python_too():
    found = shared_registry().resolve("processor", "xform.flip")
    with pytest.raises(ParameterError, match="one of x, y, z"):
        found(axis="w")
    with pytest.raises(ParameterError, match="a number"):
        shared_registry().resolve("processor", "filter.lowpass.gauss")(cutoff_abs=True)


def test_an_unknown_processor_is_an_error():
    with pytest.raises(PluginError, match="did you mean"):
        shared_registry().create("processor", "filter.lowpass.gaus:cutoff_abs=1")
