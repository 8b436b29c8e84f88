import pyarrow as pa
import pytest

from datamodules.questions.arrow_rows import ArrowRows

PI = 3.14159265  # no number of four bytes
SINGLE = 0.10000000149011612  # 0.1 of four bytes, as one of eight


@pytest.mark.parametrize(
    ("kind", "cell", "read"),
    [
        (pa.float64(), SINGLE, SINGLE),
        (pa.float64(), PI, PI),
        (pa.float32(), 0.1, 0.1),
        (pa.float16(), 0.1, 0.1),
        (pa.float32(), PI, 3.1415927),
        (pa.float32(), None, None),
        (pa.list_(pa.float32()), [0.1, None], [0.1, None]),
        (pa.list_(pa.float32(), 2), [0.1, 0.2], [0.1, 0.2]),
        (pa.large_list(pa.list_(pa.float16())), [[0.1]], [[0.1]]),
        (
            pa.struct({"single": pa.float32(), "double": pa.float64()}),
            {"single": 0.1, "double": SINGLE},
            {"single": 0.1, "double": SINGLE},
        ),
        (pa.map_(pa.string(), pa.float32()), [("a", 0.1)], [("a", 0.1)]),
    ],
)
def test_the_type_of_a_column_decides_which_digits_are_kept(kind, cell, read):
    array = pa.array([cell], pa.float32()).cast(kind) if kind == pa.float16() else pa.array([cell], kind)
    if kind == pa.large_list(pa.list_(pa.float16())):
        array = pa.array([cell], pa.large_list(pa.list_(pa.float32()))).cast(kind)
    table = pa.table({"a": array, "b": ["x"]})
    rows = ArrowRows(table.to_pylist(), table.schema)
    assert rows[0] == {"a": read, "b": "x"}
    assert len(rows) == 1
    assert list(rows) == rows[:] == rows[-1:] == [rows[0]]
