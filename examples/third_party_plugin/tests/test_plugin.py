"""The registration: what the hooks describe is there, and bears the name it was described with."""

import importlib

import numpy as np
import pytest

import acme_recon
from acme_recon.reconstructors import Hann

DESCRIPTIONS = [*acme_recon.centralslice_processors(), *acme_recon.centralslice_reconstructors()]


@pytest.mark.parametrize("description", DESCRIPTIONS, ids=lambda description: description.name)
def test_what_is_described_is_there(description: acme_recon.PluginDescription) -> None:
    module, _, name = description.target.partition(":")
    assert getattr(importlib.import_module(module), name).plugin_name == description.name


@pytest.mark.parametrize("width", [2, 3, 4, 6])
def test_the_window_is_fitted_closely_and_transforms_to_one_at_the_centre(width: int) -> None:
    window = Hann(width=width).window()
    assert window.fit_error < 1e-7
    np.testing.assert_allclose(window.transform(np.zeros(1), 64), 1.0, rtol=1e-12)
