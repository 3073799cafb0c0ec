from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

class _Result:
    # a pandas series and an array, of which only this is used
    params: Mapping[str, float]
    conditional_volatility: NDArray[np.float64]

class _Model:
    def fit(self, *, disp: str, show_warning: bool) -> _Result: ...

def arch_model(
    y: NDArray[np.float64],
    *,
    mean: str,
    vol: str,
    p: int,
    o: int,
    q: int,
    dist: str,
    rescale: bool,
) -> _Model: ...
