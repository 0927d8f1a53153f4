"""The processor: what it is for, and what every processor owes."""

import numpy as np

from acme_recon.processors import Clip


def test_a_hot_pixel_is_limited_and_the_rest_is_kept() -> None:
    image = np.random.default_rng(3).normal(size=(33, 32)).astype(np.float32)
    image[5, 7] = 1000.0
    clipped = Clip(sigmas=3.0).apply(image, 1.5)
    assert clipped[5, 7] < 200.0
    ordinary = np.ones(image.shape, bool)
    ordinary[5, 7] = False
    np.testing.assert_array_equal(clipped[ordinary], image[ordinary])
