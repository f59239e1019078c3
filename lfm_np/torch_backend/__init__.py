"""The solvers on a torch device, and the check that they are the same. Needs the extra ``torch``.

* `als`, `sgd`: the arguments and results of `lfm_np.als` and `lfm_np.sgd`, and ``device``;
* `crosscheck`: runs both sides and compares what they compute, step by step.
"""

from lfm_np.torch_backend.als import als
from lfm_np.torch_backend.crosscheck import crosscheck
from lfm_np.torch_backend.report import CrossCheck, Row
from lfm_np.torch_backend.sgd import sgd

__all__ = ["CrossCheck", "Row", "als", "crosscheck", "sgd"]
