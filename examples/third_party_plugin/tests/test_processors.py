"""The processor: what every processor owes, and what this one is for."""

import numpy as np

from acme_recon.processors import Clip
from centralslice.abc.processor import Processor
from centralslice.testing.processor import ProcessorContract


class TestClip(ProcessorContract):
    """All tests are inherited."""

    def make(self) -> Processor:
        """With a parameter that makes a difference on the contract's data."""
        return Clip(sigmas=1.5)


def test_a_hot_pixel_is_limited_and_the_rest_is_kept() -> None:
    image = np.random.default_rng(3).normal(size=(33, 32)).astype(np.float32)
    image[5, 7] = 1000.0
    clipped = Clip(sigmas=3.0).apply(image, 1.5)
    assert clipped[5, 7] < 200.0
    ordinary = np.ones(image.shape, bool)
    ordinary[5, 7] = False
    np.testing.assert_array_equal(clipped[ordinary], image[ordinary])
