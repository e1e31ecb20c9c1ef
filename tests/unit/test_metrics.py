"""Metrics in the form that Prometheus reads."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.metrics import Register, render


def test_the_text_is_what_prometheus_reads() -> None:
    register = Register()
    asked = register.counter("asked_total", "Questions.", "outcome")
    asked.add("whole")
    asked.add('odd "name"\n', by=2)
    register.gauge("inside", "Now.").of(read=lambda: 1.5)
    seconds = register.histogram("seconds", "Time.", bounds=(0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        seconds.observe(value)
    assert render({"api": register.families()}) == (
        "# HELP asked_total Questions.\n"
        "# TYPE asked_total counter\n"
        'asked_total{replica="api",outcome="whole"} 1\n'
        'asked_total{replica="api",outcome="odd \\"name\\"\\n"} 2\n'
        "# HELP inside Now.\n"
        "# TYPE inside gauge\n"
        'inside{replica="api"} 1.5\n'
        "# HELP seconds Time.\n"
        "# TYPE seconds histogram\n"
        'seconds_bucket{replica="api",le="0.1"} 2\n'
        'seconds_bucket{replica="api",le="1"} 3\n'
        'seconds_bucket{replica="api",le="+Inf"} 4\n'
        'seconds_sum{replica="api"} 7.65\n'
        'seconds_count{replica="api"} 4\n'
    )


def test_processes_stand_beside_one_another_under_one_head() -> None:
    one, other = Register(), Register()
    for register, count in ((one, 3), (other, 4)):
        register.counter("asked_total", "Questions.").add(by=count)
    text = render({"a": one.families(), "b": other.families()})
    assert text.count("# TYPE asked_total") == 1
    assert 'asked_total{replica="a"} 3\nasked_total{replica="b"} 4\n' in text


def test_a_name_is_given_once() -> None:
    register = Register()
    register.counter("a", "A.")
    with pytest.raises(ValueError, match="'a' already"):
        register.gauge("a", "A.")


@given(st.lists(st.floats(0, 10)))
def test_a_histogram_counts_everything_once(values: list[float]) -> None:
    histogram = Register().histogram("h", "H.", bounds=(1.0, 2.0, 5.0))
    for value in values:
        histogram.observe(value)
    found = {(end, labels.get("le")): value for end, labels, value in histogram.samples()}
    for bound in (1.0, 2.0, 5.0):
        assert found.get(("_bucket", f"{bound:g}"), 0) == sum(value <= bound for value in values)
    assert found.get(("_bucket", "+Inf"), 0) == found.get(("_count", None), 0) == len(values)
    assert math.isclose(found.get(("_sum", None), 0.0), sum(values), abs_tol=1e-9)
