"""Spark MLlib's ALS on a local master; needs Java. It has no callback: every step fits anew with one more iteration."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from benchmarks.solvers import Entry
from benchmarks.tasks import Task

PACKAGES = ("pyspark", "pandas")


class Als:
    """The time of a step is the difference to the fit before."""

    def __init__(self, train: sp.csr_array, task: Task) -> None:
        import pandas as pd
        from pyspark.sql import SparkSession

        spark = SparkSession.builder.master(f"local[{task.threads}]").config("spark.driver.memory", "8g").getOrCreate()
        coo = sp.coo_matrix(train)
        frame = pd.DataFrame({"user": coo.row, "item": coo.col, "rating": coo.data})
        self._frame = spark.createDataFrame(frame).repartition(task.threads).cache()
        self._frame.count()
        self._task, self._shape = task, train.shape
        self._model: Any = None
        self._fit(0)  # the first fit of a Java process takes longer than those after it
        self._iterations, self._before = 0, self._fit(0)

    def _fit(self, iterations: int) -> float:
        from pyspark.ml.recommendation import ALS

        started = time.perf_counter()
        self._model = ALS(
            rank=self._task.factors,
            maxIter=iterations,
            regParam=self._task.regularization,
            alpha=self._task.alpha,
            implicitPrefs=True,
            seed=self._task.seed,
            numUserBlocks=self._task.threads,
            numItemBlocks=self._task.threads,
        ).fit(self._frame)
        self._model.itemFactors.count()
        return time.perf_counter() - started

    def step(self) -> float:
        self._iterations += 1
        total = self._fit(self._iterations)
        spent, self._before = max(total - self._before, 0.0), total
        return spent

    def factors(self) -> lfm_np.Factors:
        tables = []
        for frame, rows in ((self._model.userFactors, self._shape[0]), (self._model.itemFactors, self._shape[1])):
            table = np.zeros((rows, self._task.factors), np.float32)
            collected = frame.toPandas()
            table[collected["id"].to_numpy()] = np.stack(collected["features"].to_numpy())
            tables.append(table)
        return lfm_np.Factors(*tables)


SOLVERS = {
    "spark": Entry(
        "als", Als, "exact; scales λ by a row's cells, so its objective differs; Java's memory is not counted"
    )
}
