"""Which images networks are evaluated on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Selection:
    """The images that networks are evaluated on.

    Attributes:
      split: `train`, `validation` or `test`.
      dataset: another data set than the run's own, for an external test without tuning: the class
        with the name of the run's positive class is positive, all others are the rest.
      data_dir: where data sets are kept; None is `TFDS_DATA_DIR` or `~/tensorflow_datasets`.
      allow_seen: score images or patients that a network has learned from; the report says how
        many.
      workers: processes that prepare images; 0 uses threads.
    """

    split: str = "test"
    dataset: str | None = None
    data_dir: str | None = None
    allow_seen: bool = False
    workers: int = 0
