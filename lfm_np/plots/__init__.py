"""Pictures of results. Needs the extra ``plot`` (matplotlib).

Every function draws into the axes ``ax`` or makes its own, and returns them, so that
``plots.factor_spectrum(factors).figure.savefig("spectrum.png")`` is all it takes. None opens a window or needs pyplot.
"""

from lfm_np.plots.factors import factor_spectrum, item_map
from lfm_np.plots.lists import coverage, metric_at_n, popularity_bias
from lfm_np.plots.training import training_curve

__all__ = ["coverage", "factor_spectrum", "item_map", "metric_at_n", "popularity_bias", "training_curve"]
