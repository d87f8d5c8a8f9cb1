"""What is measured against: other packages' blurs, each called as its users would."""

import sys
import types
import warnings
from importlib.util import find_spec
from typing import Any


def imagecorruptions() -> Any:
    """Import imagecorruptions' module of functions, or None where it is not installed.

    Version 1.1.2, the last, asks setuptools for `pkg_resources` and scikit-image for an argument
    that both have dropped since; without these two stand-ins it cannot be used any more.
    """
    if find_spec("imagecorruptions") is None:
        return None
    stub = types.ModuleType("pkg_resources")
    stub.resource_filename = lambda *_: ""  # type: ignore[attr-defined]
    sys.modules.setdefault("pkg_resources", stub)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from imagecorruptions import corruptions
    from skimage.filters import gaussian

    def gaussian_of_old(image: Any, sigma: float, multichannel: bool) -> Any:
        return gaussian(image, sigma=sigma, channel_axis=-1 if multichannel else None)

    corruptions.gaussian = gaussian_of_old
    return corruptions
