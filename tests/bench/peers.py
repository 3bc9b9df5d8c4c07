"""Other programs that score isolation forests, on arrays that they have at hand: nothing is fetched or written back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest

Rows = NDArray[np.float64]
CHUNK = 64
TREES = 100
SAMPLES = 256


def scorers(forest: IsolationForest, sample: Rows) -> dict[str, Callable[[Rows], object]]:
    """Return what scores rows, by the name of each peer: with scikit-learn's forest, or its own of that size."""
    return {
        "scikit-learn's batch": forest.score_samples,
        "isotree's batch": _isotree(sample),
        f"ONNX Runtime in chunks of {CHUNK}": _onnx(forest, sample.shape[1]),
    }


def _isotree(sample: Rows) -> Callable[[Rows], object]:
    import isotree

    # Axis-parallel splits at random, as Liu, Ting, Zhou have them.
    forest = isotree.IsolationForest(ntrees=TREES, sample_size=SAMPLES, ndim=1, missing_action="fail", nthreads=1)
    forest.fit(sample)
    return forest.predict  # type: ignore[no-any-return]


def _onnx(forest: IsolationForest, width: int) -> Callable[[Rows], object]:
    import onnxruntime
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType

    model = skl2onnx.to_onnx(
        forest, initial_types=[("rows", FloatTensorType([None, width]))], target_opset={"": 15, "ai.onnx.ml": 3}
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def score(rows: Rows) -> None:
        numbers = rows.astype(np.float32)
        for start in range(0, len(numbers), CHUNK):
            session.run(["scores"], {"rows": numbers[start : start + CHUNK]})

    return score
