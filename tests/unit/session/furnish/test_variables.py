"""Variables given with a value are kept with it, those given by name are read where they are used."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sandhold.errors import SbxError
from sandhold.session.furnish.variables import Variables, of_host, parse_variables, unset
from tests.unit.store.test_sandboxes import LAB

HOST = {"KEY": "from the host", "EMPTY": ""}
GIVEN = {
    "values, also with more signs": (["A=1", "B=x=y"], Variables((("A", "1"), ("B", "x=y")))),
    "an empty value": (["A="], Variables((("A", ""),))),
    "names alone": (["KEY", "EMPTY"], Variables(named=("KEY", "EMPTY"))),
    "the last value counts": (["A=1", "A=2"], Variables((("A", "2"),))),
    "a value after the name": (["KEY", "KEY=mine"], Variables((("KEY", "mine"),))),
    "the name after a value": (["KEY=mine", "KEY"], Variables(named=("KEY",))),
}


@pytest.mark.parametrize(("texts", "variables"), GIVEN.values(), ids=GIVEN)
def test_what_is_given(texts: list[str], variables: Variables) -> None:
    """`NAME=VALUE` is taken as it is, of `NAME` nothing but the name, and the last of one name counts."""
    assert parse_variables(texts, HOST) == variables


REFUSED = {"no name": "=x", "a name with a dash": "A-B=x", "a name with a digit first": "1A=x", "one not set": "OTHER"}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_what_is_no_variable(text: str) -> None:
    """What cannot name a variable is refused, and so is a name alone that has no value to be read."""
    with pytest.raises(SbxError) as refused:
        parse_variables([text], HOST)
    assert refused.value.status == 2


def test_what_was_given_before_stays() -> None:
    """New ones stand beside the old ones, and take the place of those of their name, whichever kind either is."""
    before = replace(LAB, environment=(("A", "1"), ("KEY", "old")), host_variables=("B", "C"))
    kept = Variables((("B", "2"),), ("KEY",)).on_top_of(before)
    assert kept == Variables((("A", "1"), ("B", "2")), ("C", "KEY"))


def test_values_are_those_of_now() -> None:
    """A name has the value of the moment, and none where it is not set."""
    given = Variables((("A", "1"),), ("KEY", "OTHER"))
    assert given.values(HOST) == (("A", "1"), ("KEY", "from the host"))
    assert given.values({"OTHER": "x"}) == (("A", "1"), ("OTHER", "x"))
    assert of_host(("EMPTY",), HOST) == (("EMPTY", ""),)
    assert unset(("EMPTY", "OTHER"), HOST) == ("OTHER",)
