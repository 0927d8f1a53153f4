"""The contract kit: test classes that every plugin, ours or a stranger's, can inherit.

Import the modules, not this package: ``from centralslice.testing.processor import ProcessorContract``.
"""

from __future__ import annotations

import pkgutil
import sys

if "pytest" in sys.modules:  # phantoms are also used outside tests, where pytest need not be installed
    import pytest

    # before any of them is imported, or their assertions would fail without saying what was compared
    pytest.register_assert_rewrite(
        *(
            name
            for name in (f"{__name__}.{found.name}" for found in pkgutil.iter_modules(__path__))
            if name not in sys.modules
        )
    )
