"""The registry of the shipped plugins, and of strangers' plugins found on the path."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from centralslice.errors import FileMissingError, FormatError, ParameterError, PluginError
from centralslice.plugin.hookspecs import FAMILIES
from centralslice.plugin.registry import load_registry, shared_registry

#: Writes a module and a distribution that declares it as a plugin, onto the path.
Stranger = Callable[..., None]

HOOKS = "from centralslice.plugin.hookspecs import PluginDescription as D, hookimpl\n"

PROCESSORS = """
from dataclasses import dataclass
from centralslice.abc.parameters import parameter
from centralslice.abc.processor import Processor
from centralslice.plugin.hookspecs import PluginDescription, hookimpl

@dataclass(frozen=True)
class Shout(Processor):
    plugin_name = "acme.shout"
    gain: float = parameter(2.0, "", "factor")
    Power: int = parameter(1)

    def apply(self, data, voxel_size_angst):
        return data * self.gain ** self.Power

class NotOne:
    pass

class Unfinished(Processor):
    plugin_name = "acme.unfinished"

@hookimpl
def centralslice_processors():
    return [
        PluginDescription("acme.shout", "louder", f"{__name__}:Shout"),
        PluginDescription("acme.not_one", "no processor", f"{__name__}:NotOne"),
        PluginDescription("acme.unfinished", "abstract", f"{__name__}:Unfinished"),
        PluginDescription("acme.absent", "module that is not there", "acme_absent:Absent"),
    ]
"""


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stranger:
    """A little distribution put onto the path, without installing anything."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(source: str, name: str = "acme", module: str = "", version: str = "1.0") -> None:
        module = module or f"{name}_{abs(hash(tmp_path))}_recon"
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        info = tmp_path / f"{name}_recon-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-recon\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[centralslice]\n{name} = {module}\n")

    return make


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CENTRALSLICE_REGISTRY", raising=False)
    monkeypatch.delenv("CENTRALSLICE_DISABLE_PLUGINS", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_shipped_plugin_resolves_and_bears_its_name(family: str) -> None:
    registry = load_registry()
    assert registry.failures == ()
    for description in registry.descriptions(family):
        found = registry.resolve(family, description.name)
        assert found.plugin_name == description.name  # type: ignore[attr-defined]
        assert description.summary


def test_the_shipped_catalogue_names_nothing_that_is_not_there() -> None:
    registry = load_registry()
    assert registry.notices == ()
    assert registry.default("reconstructor") in registry.names("reconstructor")
    for family in FAMILIES:
        for alias in registry.aliases(family):
            if family != "symmetry":
                assert registry.expand(family, alias)[0] in registry.names(family)


def test_two_registries_of_one_process_have_one_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_registry()
    assert first.fingerprint() == load_registry().fingerprint()
    monkeypatch.setenv("CENTRALSLICE_DISABLE_PLUGINS", "reader:star")
    assert first.fingerprint() != load_registry().fingerprint()


def test_the_shared_registry_is_made_once() -> None:
    assert shared_registry() is shared_registry()


def test_a_registry_cannot_be_changed() -> None:
    registry = load_registry()
    with pytest.raises(AttributeError):
        registry.failures = ()  # type: ignore[misc]
    with pytest.raises(TypeError):
        registry.entries["reader"]["mine"] = None  # type: ignore[index]


def test_an_unknown_family_is_named_with_the_known_ones() -> None:
    with pytest.raises(PluginError, match=r"no plugin family 'filter' .*processor, reconstructor"):
        load_registry().names("filter")


def test_an_unknown_name_comes_with_a_guess_first_or_else_with_the_known_ones(stranger: Stranger) -> None:
    stranger(PROCESSORS)
    with pytest.raises(
        PluginError, match=r"no processor named 'acme.shuot'; did you mean 'acme.shout'\? "
    ) as near:
        load_registry().resolve("processor", "acme.shuot")
    assert len(str(near.value)) < 150
    with pytest.raises(PluginError, match=r"no processor named 'qqqqq' \(known: .*acme.shout"):
        load_registry().resolve("processor", "qqqqq")


def test_a_strangers_processor_is_listed_before_and_made_after_import(stranger: Stranger) -> None:
    stranger(PROCESSORS)
    registry = load_registry()
    assert registry.owner("processor", "acme.shout") == "acme (acme-recon 1.0)"
    made = registry.create("processor", "acme.shout:gain=3:power=2")
    np.testing.assert_array_equal(made.apply(np.ones((2, 2), np.float32), 1.0), np.full((2, 2), 9.0))


def test_an_unknown_or_wrong_parameter_is_refused(stranger: Stranger) -> None:
    stranger(PROCESSORS)
    registry = load_registry()
    with pytest.raises(ParameterError, match=r"acme.shout: unknown parameter 'loud' \(known: gain, Power\)"):
        registry.create("processor", "acme.shout:loud=3")
    with pytest.raises(ParameterError, match="parameter 'gain': expected float, got 'much'"):
        registry.create("processor", "acme.shout:gain=much")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("acme.not_one", "of acme .acme-recon 1.0.: .*NotOne is not a Processor"),
        ("acme.unfinished", "Unfinished does not define apply"),
        ("acme.absent", "cannot be imported: ModuleNotFoundError: No module named 'acme_absent'"),
    ],
)
def test_a_class_that_is_not_what_was_described_is_refused(
    stranger: Stranger, name: str, complaint: str
) -> None:
    stranger(PROCESSORS)
    with pytest.raises(PluginError, match=complaint):
        load_registry().create("processor", name)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("syntax error here", "SyntaxError"),
        (
            HOOKS + "@hookimpl\ndef centralslice_procesors(): return []",
            "unknown hook 'centralslice_procesors'",
        ),
        (
            HOOKS + "@hookimpl\ndef centralslice_readers(x): return []",
            "Argument.s. {'x'}",
        ),
        (
            HOOKS + "@hookimpl\ndef centralslice_readers(): return [3]",
            "expected PluginDescription, got int",
        ),
        (
            HOOKS + "@hookimpl\ndef centralslice_readers(): return [D('a:b', '', 'm:C')]",
            "'a:b': a name has no blank, colon",
        ),
        (
            HOOKS + "@hookimpl\ndef centralslice_readers(): return [D('a', '', 'm.C')]",
            "target: expected 'module:Class', got 'm.C'",
        ),
        (
            HOOKS + "@hookimpl\ndef centralslice_symmetries(): return [D('a', '', 'm:C')]",
            "a pattern belongs to every symmetry",
        ),
        (
            HOOKS + "@hookimpl\ndef centralslice_symmetries(): return [D('a', '', 'm:C', '(')]",
            r"pattern '\('",
        ),
    ],
)
def test_a_broken_plugin_is_reported_and_harms_no_other(
    stranger: Stranger, source: str, complaint: str
) -> None:
    stranger(source, name="broken")
    stranger(PROCESSORS, name="acme")
    registry = load_registry()
    (failure,) = registry.failures
    assert (failure.name, failure.distribution) == ("broken", "broken-recon 1.0")
    assert re.search(complaint, failure.error)
    assert "\n" not in failure.error
    assert "Traceback" in failure.traceback
    assert "acme.shout" in registry.names("processor")
    assert registry.names("reader")


def test_two_plugins_of_one_name_are_an_error_that_names_both_owners(stranger: Stranger) -> None:
    stranger(PROCESSORS, name="acme")
    stranger(PROCESSORS, name="brand", version="2.1")
    with pytest.raises(
        PluginError, match=r"'acme.shout' comes from both acme \(acme-.* and brand \(brand-recon 2.1"
    ):
        load_registry()


@pytest.mark.parametrize("entry", ["brand", "acme", "brand:processor:acme.shout"])
def test_of_two_plugins_of_one_name_one_can_be_disabled(
    stranger: Stranger, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    one = PROCESSORS[: PROCESSORS.index("@hookimpl")] + (
        "@hookimpl\ndef centralslice_processors():\n"
        "    return [PluginDescription('acme.shout', 'louder', f'{__name__}:Shout')]\n"
    )
    stranger(one, name="acme")
    stranger(one, name="brand")
    monkeypatch.setenv("CENTRALSLICE_DISABLE_PLUGINS", f" {entry} ,")
    registry = load_registry()
    assert registry.owner("processor", "acme.shout").startswith("brand" if entry == "acme" else "acme")
    assert registry.notices == ()


def test_a_disabled_broken_plugin_is_not_even_imported(
    stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger("raise RuntimeError('imported')", name="broken")
    monkeypatch.setenv("CENTRALSLICE_DISABLE_PLUGINS", "broken,elsewhere")
    registry = load_registry()
    assert registry.failures == ()
    assert registry.notices == ("disable: nothing is named 'elsewhere'",)


SYMMETRIES = """
from centralslice.abc.symmetry import Symmetry
from centralslice.plugin.hookspecs import PluginDescription, hookimpl
import numpy as np

class Odd(Symmetry):
    plugin_name = "odd"
    def __init__(self, name): self.name = name
    @classmethod
    def from_name(cls, name): return cls(name)
    def rotations(self): return np.eye(3)[None]

@hookimpl
def centralslice_symmetries():
    return [PluginDescription("odd", "odd ones", f"{__name__}:Odd", r"odd\\d+|c4711")]
"""


def test_a_symmetry_is_found_by_its_pattern_whatever_the_case(stranger: Stranger) -> None:
    stranger(SYMMETRIES)
    registry = load_registry()
    assert registry.symmetry("ODD12").name == "ODD12"  # type: ignore[attr-defined]
    with pytest.raises(PluginError, match=r"no symmetry named 'odd' \(known: .*odd \(odd ones\)"):
        registry.symmetry("odd")


def test_a_symmetry_name_that_two_plugins_take_is_an_error_naming_both(stranger: Stranger) -> None:
    stranger(SYMMETRIES)
    with pytest.raises(PluginError, match=r"'c4711' is taken by both 'cyclic' of .* and 'odd' of acme"):
        load_registry().symmetry("c4711")


OBSERVERS = """
from centralslice.plugin.hookspecs import hookimpl
seen = []

@hookimpl
def centralslice_map_written(label, path):
    seen.append((label, path))
    if {angry}:
        raise ValueError("no room")
"""


def test_an_observer_that_raises_is_reported_and_stops_no_other(stranger: Stranger) -> None:
    stranger(OBSERVERS.format(angry=True), name="angry", module="observer_angry")
    stranger(OBSERVERS.format(angry=False), name="calm", module="observer_calm")
    registry = load_registry()
    (failed,) = registry.notify("centralslice_map_written", label="merged", path=Path("m.mrc"))
    assert failed.error == "ValueError: no room"
    assert failed.name == "angry (angry-recon 1.0): centralslice_map_written"
    plugins: dict[str, Any] = dict(registry.manager.list_name_plugin())
    assert plugins["calm (calm-recon 1.0)"].seen == [("merged", Path("m.mrc"))]
    assert plugins["angry (angry-recon 1.0)"].seen == [("merged", Path("m.mrc"))]
    with pytest.raises(ValueError, match="no room"):
        registry.hooks.centralslice_map_written(label="merged", path=Path("m.mrc"))


FORMATS = """
from centralslice.abc.reader import Reader
from centralslice.abc.writer import Writer
from centralslice.plugin.hookspecs import PluginDescription, hookimpl

class Plain(Reader):
    plugin_name = "plain"
    capabilities = frozenset({"particles"})
    def recognises(self, path): return path.read_bytes().startswith(b"plain")

class PlainWriter(Writer):
    plugin_name = "plain"
    suffixes = (".pln", ".plain.gz")
    capabilities = frozenset({"table"})

@hookimpl
def centralslice_readers():
    return [
        PluginDescription("absent", "", "acme_absent:Absent"),
        PluginDescription("plain", "plain text", f"{__name__}:Plain"),
    ]

@hookimpl
def centralslice_writers():
    return [PluginDescription("plain", "plain text", f"{__name__}:PlainWriter")]
"""


def test_a_reader_is_chosen_by_content_and_capability(stranger: Stranger, tmp_path: Path) -> None:
    stranger(FORMATS)
    registry = load_registry()
    path = tmp_path / "a.unheard_of"
    path.write_bytes(b"plain and simple")
    assert registry.reader_for(path, "particles").plugin_name == "plain"
    with pytest.raises(
        FormatError, match=r"not a known format with volume \(known: .*mrc.*\); reader 'absent' of"
    ):
        registry.reader_for(path, "volume")


def test_a_file_that_is_not_there_or_no_file_is_said_to_be_so(tmp_path: Path) -> None:
    registry = load_registry()
    with pytest.raises(FileMissingError, match=r"absent\.star: does not exist"):
        registry.reader_for(tmp_path / "absent.star", "particles")
    with pytest.raises(FormatError, match="got a folder"):
        registry.reader_for(tmp_path, "particles")


def test_a_writer_is_chosen_by_suffix_whatever_its_case(stranger: Stranger) -> None:
    stranger(FORMATS)
    registry = load_registry()
    assert registry.writer_for(Path("x.PLN"), "table").plugin_name == "plain"
    assert registry.writer_for(Path("x.plain.gz"), "table").plugin_name == "plain"
    assert registry.writer_for(Path("x.mrc"), "volume").plugin_name == "mrc"


def test_an_unknown_suffix_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(
        ParameterError, match=r"x\.png: expected a suffix for volume \(.*\.mrc.*\), got '\.png'"
    ):
        load_registry().writer_for(Path("x.png"), "volume")
    with pytest.raises(ParameterError, match="got no suffix"):
        load_registry().writer_for(Path("x"), "volume")
