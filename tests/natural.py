"""Pictures with the spectrum of photographs."""

import numpy as np


def natural_picture(seed, shape=(384, 448)):
    """Noise, uint8 (h, w, 3), whose amplitudes fall with the frequency (Field 1987)."""
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1]))
    frequency[0, 0] = 1
    white = np.random.default_rng(seed).normal(size=shape)
    pink = np.fft.irfft2(np.fft.rfft2(white) / frequency, shape)
    grey = (128 + 50 * (pink - pink.mean()) / pink.std()).clip(0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)
