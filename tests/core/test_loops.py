"""Which loops of the generated code are run as one, and which are not."""

from maml_core.engines.native.ir import Buffer, Value
from maml_core.engines.native.loops import LOOK_BACK, Nest, Statement, fused, with_shared_arrays
from maml_core.engines.native.writer import Writer


def _twice(write: Writer, value: Value) -> Value:
    return write.pointwise(lambda x: f"(2 * {x})", value)


def _given(write: Writer, *shape: int) -> Value:
    return write.of(Buffer.at("given", shape))


def _loops(write: Writer) -> list[str]:
    return [line for line in write.body().splitlines() if "vloop" in line or "vsum" in line]


def test_what_two_operations_do_to_the_same_elements_is_one_loop() -> None:
    write = Writer()
    first = write.store(_twice(write, _given(write, 3, 64)))
    write.store(write.pointwise(lambda x, y: f"({x} * {y})", first, first))
    (loop,) = _loops(write)
    assert loop.count("st<W>(") == 2


def test_sums_over_the_same_elements_and_what_follows_them_are_one_loop() -> None:
    write = Writer()
    whole = write.store(_twice(write, _given(write, 10, 64)))
    sums = [write.reduce(value, [0], False) for value in (whole, write.pointwise("square({})".format, whole))]
    write.store_into(write.pointwise(lambda x, y: f"({x} - {y})", *sums), Buffer.at("out", (64,)))
    (loop,) = _loops(write)
    assert loop.count("+= bc<W>(") == 2
    assert loop.index("st<W>(out") > loop.rindex("+= bc<W>(")


def test_a_sum_along_vectors_is_taken_while_they_are_made() -> None:
    write = Writer()
    whole = write.store(_twice(write, _given(write, 10, 64)))
    write.reduce(whole, [1], False)
    (loop,) = _loops(write)
    assert "vsum<64>" in loop
    assert "st<W>(" in loop


def test_the_same_sum_of_a_transposed_matrix_names_its_loops_alike() -> None:
    write = Writer()
    whole = write.store(_twice(write, _given(write, 10, 64)))
    write.reduce(whole, [0], False)
    write.reduce(write.permute(whole, (1, 0)), [1], False)
    assert len(_loops(write)) == 1


def test_loops_over_other_elements_stay_apart() -> None:
    write = Writer()
    for shape in ((10, 64), (10, 32), (11, 64)):
        write.store(_twice(write, _given(write, *shape)))
    assert len(_loops(write)) == 3


def test_what_is_read_at_another_place_must_be_there_first() -> None:
    write = Writer()
    whole = write.store(_twice(write, _given(write, 64)))
    there = write.narrow(whole, 0, 1, 63)
    write.store_into(_twice(write, there), Buffer.at("out", (63,)))
    row = write.store(_twice(write, _given(write, 64, 64)))
    write.store(write.pointwise(lambda x, y: f"({x} + {y})", row, write.permute(row, (1, 0))))
    assert len(_loops(write)) == 4


def test_a_sum_that_is_read_by_its_own_elements_is_done_first() -> None:
    write = Writer()
    whole = write.store(_twice(write, _given(write, 10, 64)))
    mean = write.reduce(whole, [0], True, scale=0.1)
    write.store(write.pointwise(lambda x, m: f"({x} - {m})", whole, mean))
    assert len(_loops(write)) == 2


def test_nothing_moves_past_what_reads_it() -> None:
    made, other = (
        Nest((), 64, frozenset({name}), each=(f"st<W>({name} + j, 1); ",), stored=(f"{name} + j",))
        for name in ("b1", "b2")
    )
    reader = Statement("use(b1);", frozenset({"b3"}))
    assert len(fused([made, other])) == 1
    assert fused([made, reader, other]) == [made.text, reader.text, other.text]
    assert len(fused([made, Statement("use(b4);"), other])) == 2


def test_what_is_far_back_is_not_looked_at() -> None:
    """Else a program of hundreds of unrolled steps would be compared with itself, statement by statement."""
    first, last = (Nest((), 64, frozenset({name}), each=(f"st<W>({name} + j, 1); ",)) for name in ("b1", "b2"))
    for between, loops in ((LOOK_BACK - 1, 1), (LOOK_BACK, 2)):
        lines = fused([first, *[Statement("use(b4);")] * between, last])
        assert sum("vloop" in line for line in lines) == loops


def test_an_array_whose_last_reader_has_passed_serves_the_next() -> None:
    first, second, other = (f"alignas(64) T {name};" for name in ("b1[16]", "b2[16]", "b3[32]"))
    lines = [first, "use(b1);", second, "use(b2);", other, "use(b3);"]
    assert with_shared_arrays(lines) == [first, "use(b1);", "use(b1);", other, "use(b3);"]
