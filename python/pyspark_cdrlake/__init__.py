"""The data source ``cdrlake`` of Apache Spark, which finds it by the name of this package.

``spark.read.format("cdrlake")`` and ``spark.readStream.format("cdrlake")`` fetch calls from the API
with the executors. `docs/spark.md` describes the options.
"""

import sys
from typing import TYPE_CHECKING

try:
    from pyspark.sql.datasource import DataSource, DataSourceReader
except ImportError as error:
    raise ImportError("the data source cdrlake needs pyspark 4 or newer, and pyarrow") from error
from pyspark.sql.types import StructType

from pyspark_cdrlake._options import Options
from pyspark_cdrlake._reader import PruningReader, Reader
from pyspark_cdrlake._rows import SCHEMA

if TYPE_CHECKING:
    from pyspark.sql.datasource import DataSourceStreamReader

#: The process of Spark that asks a reader which filters it takes. A reader that defines this is an
#: error elsewhere, while ``spark.sql.python.filterPushdown.enabled`` is off.
_PUSHDOWN_WORKER = "pyspark.sql.worker.data_source_pushdown_filters"


class DefaultSource(DataSource):
    """The calls of a Wavix account. A partition is a group of slices, one after the other."""

    @classmethod
    def name(cls) -> str:
        """The name of the format."""
        return "cdrlake"

    def schema(self) -> StructType:
        """The columns of the table, and ``fetch_day``. Refuses wrong options before any work."""
        Options.of(self.options)
        return SCHEMA

    def reader(self, schema: StructType) -> DataSourceReader:
        """The reader of a batch."""
        options = Options.of(self.options)
        main = getattr(sys.modules["__main__"], "__spec__", None)
        is_asked_for_filters = _PUSHDOWN_WORKER in sys.modules or (
            main is not None and main.name == _PUSHDOWN_WORKER
        )
        return PruningReader(options) if is_asked_for_filters else Reader(options)

    def streamReader(self, schema: StructType) -> "DataSourceStreamReader":
        """The reader of a stream."""
        from pyspark_cdrlake._stream import StreamReader

        return StreamReader(Options.of(self.options))
