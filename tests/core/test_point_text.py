"""Numbers as people write them: read in the one way they can be meant, or refused."""

import pytest

from maml_core.errors import ConfigError
from maml_core.learning.own_points import link_of_points, points_of_link, read_points
from maml_core.learning.point_text import read_numbers

POINTS = [(0.5, 1.2), (-1.0, 2.0)]


@pytest.mark.parametrize(
    "text",
    [
        "0.5, 1.2\n-1, 2",
        "0.5,1.2\n-1,2",
        "0.5,1.2;-1,2",
        "0.5 1.2; -1 2",
        "0.5 1.2\n\n-1 2\n",
        "0,5 1,2\n-1 2",
        "0.5\t1.2\n-1\t2",
        "0,5\t1,2\n-1\t2",
        "0,5;1,2\n-1;2",
        "0.5;1.2\n-1;2",
        "x,y\n0.5,1.2\n-1,2",
        "\ufeffx;y\r\n0,5;1,2\r\n-1,0;2,0\r\n",
        "index,x,y\n0,0.5,1.2\n1,-1,2",
        'name,"y","x"\na,1.2,0.5\nb,2,-1',
        "5e-1,12e-1\n-1,2",
    ],
)
def test_points_are_read_as_they_are_meant(text: str) -> None:
    assert read_numbers(text, ("x", "y")) == POINTS


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0,5;1,2", "can be read in two ways"),
        ("", "there are no numbers"),
        ("x,y\n", "there are no numbers below the header"),
        ("1,2,3\n4,5,6", "line 1 = '1,2,3' has 3 numbers, where 2 must be"),
        ("1,2\n3", "line 2 = '3' has 1 number, where 2 must be"),
        ("index,a,b\n0,1,2", "the header, index, a, b, has no column x"),
        ("1,2\n3,nan", "line 2 = '3,nan': 'nan' is not finite"),
        ("1,2\n3,-inf", "'-inf' is not finite"),
        ("1,2\n3,", "line 2 = '3,': '' is not a number"),
        ("x,y\n1,2\n3,four", "line 3 = '3,four': 'four' is not a number"),
        ("0,5,1,2\n1,2,3,4", "has 4 numbers, where 2 must be"),
    ],
)
def test_what_is_unclear_is_refused_with_its_line(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        read_numbers(text, ("x", "y"))
    assert reason in str(caught.value)


@pytest.mark.parametrize("text", ["0.5\n-1", "0,5\n-1", "x\n0.5\n-1", "\ufeffx\r\n0,5\r\n-1,0", "x,y\n0.5,3\n-1,4"])
def test_a_single_column_may_have_decimal_commas(text: str) -> None:
    assert read_numbers(text, ("x",)) == [(0.5,), (-1.0,)]


def test_a_link_is_read_as_it_was_written() -> None:
    points = [(0.5, 1.0), (2.0, -1234567.891), (1e-7, 3.0)]
    link = link_of_points(points)
    assert link == "0.5,1;2,-1234567.891;1e-07,3"
    assert read_numbers(points_of_link(link), ("x", "y")) == points
    assert read_points(points_of_link("0,5;1,2")) == [(0.0, 5.0), (1.0, 2.0)]  # of an earlier version, too


def test_the_lab_says_what_to_write() -> None:
    with pytest.raises(ConfigError, match=r"points, line 2 = 'b 2': 'b' is not a number; write two numbers a line"):
        read_points("1 2\nb 2")
