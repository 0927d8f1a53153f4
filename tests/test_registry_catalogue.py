"""The catalogue file and the user's overlay."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from centralslice.errors import FileMissingError, FormatError, ParameterError, PluginError
from centralslice.plugin.catalogue import Catalogue, read_catalogue, shipped_catalogue
from centralslice.plugin.registry import Registry, load_registry

MODULE = """
from dataclasses import dataclass
from centralslice.abc.processor import Processor
from centralslice.plugin.hookspecs import PluginDescription, hookimpl

@dataclass(frozen=True)
class Scale(Processor):
    plugin_name = "mine.scale"
    gain: float = 1.0
    offset: float = 0.0

    def apply(self, data, voxel_size_angst):
        return data * self.gain + self.offset

@hookimpl
def centralslice_processors():
    return [PluginDescription("mine.scale", "scales", f"{__name__}:Scale")]
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of an importable module with one processor."""
    monkeypatch.delenv("CENTRALSLICE_REGISTRY", raising=False)
    monkeypatch.delenv("CENTRALSLICE_DISABLE_PLUGINS", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "overlay_module.py").write_text(MODULE)
    monkeypatch.delitem(sys.modules, "overlay_module", raising=False)
    return "overlay_module"


def overlaid(tmp_path: Path, module: str, text: str = "", plugins: str = "") -> Registry:
    path = tmp_path / "overlay.toml"
    path.write_text(f'schema = 1\n[plugins]\nmodules = ["{module}"]\n{plugins}\n{text}')
    return load_registry(path)


def test_extra_modules_bring_plugins(tmp_path: Path, module: str) -> None:
    registry = overlaid(tmp_path, module)
    assert registry.owner("processor", "mine.scale") == "overlay_module"
    assert registry.create("processor", "mine.scale").gain == 1.0


def test_parameters_replace_the_defaults_of_a_class_but_not_what_the_user_gives(
    tmp_path: Path, module: str
) -> None:
    registry = overlaid(tmp_path, module, '[parameters.processor."mine.scale"]\ngain = 4\noffset = 1e-5')
    made = registry.create("processor", "mine.scale")
    assert (made.gain, made.offset) == (4.0, 1e-5)
    assert isinstance(made.gain, float)
    assert registry.create("processor", "mine.scale:GAIN=7").gain == 7.0


def test_an_alias_may_bring_parameters_and_stand_for_an_alias(tmp_path: Path, module: str) -> None:
    aliases = '[aliases.processor]\nx4 = "mine.scale:gain=4"\nx4up = "x4:offset=2"'
    registry = overlaid(tmp_path, module, aliases)
    made = registry.create("processor", "x4up")
    assert (made.gain, made.offset) == (4.0, 2.0)
    made = registry.create("processor", "x4up:gain=5")
    assert (made.gain, made.offset) == (5.0, 2.0)
    assert "x4" not in registry.names("processor")


def test_an_alias_of_a_symmetry_works_whatever_its_case(tmp_path: Path, module: str) -> None:
    registry = overlaid(tmp_path, module, '[aliases.symmetry]\nApoferritin = "O"')
    assert registry.symmetry("apoferritin").order == 24


def test_aliases_that_go_round_or_hide_a_plugin_are_errors(tmp_path: Path, module: str) -> None:
    registry = overlaid(tmp_path, module, '[aliases.processor]\na = "b"\nb = "a"')
    with pytest.raises(PluginError, match="alias 'a' of family processor goes round: a -> b -> a"):
        registry.create("processor", "a")
    with pytest.raises(
        PluginError, match=r"alias 'mine.scale' hides the processor 'mine.scale' of overlay_module"
    ):
        overlaid(tmp_path, module, '[aliases.processor]\n"mine.scale" = "mine.scale:gain=2"')


def test_a_plugin_or_a_module_can_be_disabled(tmp_path: Path, module: str) -> None:
    assert "mine.scale" not in overlaid(tmp_path, module, plugins=f'disable = ["{module}"]').names(
        "processor"
    )
    registry = overlaid(tmp_path, module, plugins='disable = ["processor:mine.scale", "reader:star"]')
    assert "mine.scale" not in registry.names("processor")
    assert "star" not in registry.names("reader")
    assert registry.notices == ()


def test_enable_takes_back_what_an_earlier_file_disabled() -> None:
    below = Catalogue(disable=("acme", "reader:star"))
    assert below.overlaid(Catalogue(enable=("acme",))).disable == ("reader:star",)


def test_the_overlay_changes_the_default(tmp_path: Path, module: str) -> None:
    assert (
        overlaid(tmp_path, module, '[default]\nreconstructor = "trilinear"').default("reconstructor")
        == "trilinear"
    )
    with pytest.raises(PluginError, match="no default reader"):
        overlaid(tmp_path, module).default("reader")


def test_entries_that_name_nothing_are_noticed(tmp_path: Path, module: str) -> None:
    text = '[parameters.processor."mine.scael"]\ngain = 2'
    registry = overlaid(tmp_path, module, text, 'disable = ["processor:nothing"]')
    assert registry.notices == (
        "disable: nothing is named 'processor:nothing'",
        "parameters: no processor is named 'mine.scael'",
    )


def test_the_file_beside_the_data_is_found_and_the_variable_wins(
    tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "centralslice.toml").write_text('[default]\nreader = "star"')
    assert load_registry().default("reader") == "star"
    (tmp_path / "other.toml").write_text('[default]\nreader = "mrc"')
    monkeypatch.setenv("CENTRALSLICE_REGISTRY", str(tmp_path / "other.toml"))
    assert load_registry().default("reader") == "mrc"
    monkeypatch.setenv("CENTRALSLICE_REGISTRY", str(tmp_path / "absent.toml"))
    with pytest.raises(FileMissingError, match=r"CENTRALSLICE_REGISTRY: .*absent\.toml does not exist"):
        load_registry()


def test_a_module_that_cannot_be_imported_is_reported_by_name(tmp_path: Path, module: str) -> None:
    (failure,) = overlaid(tmp_path, "no_such_module_at_all").failures
    assert (failure.owner, failure.error) == (
        "no_such_module_at_all",
        "ModuleNotFoundError: No module named 'no_such_module_at_all'",
    )


@pytest.mark.parametrize(
    ("text", "kind", "complaint"),
    [
        ("[plugin]", ParameterError, r"unknown key 'plugin' \(known: schema, plugins"),
        ("[plugins]\nmodule = []", ParameterError, "unknown key 'plugins.module'"),
        ("[plugins]\nmodules = 'a'", ParameterError, "plugins.modules: expected a list of names, got 'a'"),
        ("[plugins]\nmodules = [3]", ParameterError, "plugins.modules: expected a list of names"),
        ("plugins = 3", ParameterError, "plugins: expected a table, got 3"),
        (
            "[plugins]\nenable=['a']\ndisable=['a']",
            ParameterError,
            "'a' is in plugins.enable and in plugins.disable",
        ),
        ("[default]\nfilter = 'a'", ParameterError, "unknown key 'default.filter'"),
        ("[default]\nreader = 3", ParameterError, "default.reader: expected text, got 3"),
        ("[aliases.procesor]", ParameterError, "unknown key 'aliases.procesor'"),
        ("[aliases.processor]\na = 3", ParameterError, "aliases.processor.a: expected text, got 3"),
        ("[parameters.processor]\na = 3", ParameterError, "parameters.processor.a: expected a table, got 3"),
        ("[parameters.processor.a]\nb = [1]", ParameterError, r"parameters.processor.a.b: expected a number"),
        ("schema = 2", FormatError, "schema: expected 1, got 2"),
        ("schema", FormatError, "not TOML"),
        (b"\xff\xfe", FormatError, "not TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_file_and_key(
    tmp_path: Path, text: str | bytes, kind: type[Exception], complaint: str
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(kind, match=complaint) as caught:
        read_catalogue(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_an_overlay_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(FileMissingError, match=r"absent\.toml: does not exist"):
        load_registry(tmp_path / "absent.toml")


def test_the_shipped_catalogue_is_found_and_whole() -> None:
    catalogue = read_catalogue(shipped_catalogue())
    assert "centralslice_plugins.reconstructors" in catalogue.modules
    assert catalogue.default["reconstructor"]
