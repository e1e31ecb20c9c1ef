"""What plans say, in plain words: plans as the servers gave them, shortened."""

from __future__ import annotations

from typing import Any

import pytest

from actors.sql.plans import Advice, advise

POSTGRESQL = [
    {
        "Plan": {
            "Node Type": "Sort",
            "Plan Rows": 50_000,
            "Sort Key": ["t.name"],
            "Plans": [
                {
                    "Node Type": "Nested Loop",
                    "Plan Rows": 50_000,
                    "Join Filter": "(t.composer = u.composer)",
                    "Plans": [
                        {
                            "Node Type": "Seq Scan",
                            "Relation Name": "track",
                            "Total Cost": 9000.0,
                            "Plan Rows": 12,
                            "Filter": "((name = 'x'::text) AND (length(composer) > 3))",
                        },
                        {"Node Type": "Seq Scan", "Relation Name": "genre", "Plan Rows": 5, "Total Cost": 1.05},
                    ],
                }
            ],
        }
    }
]
MYSQL = {
    "query_block": {
        "select_id": 1,
        "filesort": {
            "sort_key": "a.name",
            "temporary_table": {
                "nested_loop": [
                    {
                        "table": {
                            "table_name": "a",
                            "access_type": "ALL",
                            "rows": 400_000,
                            "attached_condition": "a.`name` = 'x = y' and a.composer is not null",
                        }
                    },
                    {"table": {"table_name": "b", "access_type": "ALL", "rows": 400}},
                    {"table": {"table_name": "c", "access_type": "eq_ref", "key": "PRIMARY", "rows": 1}},
                ]
            },
        },
    }
}
MYSQL_8 = {"query_block": {"table": {"table_name": "t", "access_type": "ALL", "rows_examined_per_scan": 10}}}


def steps(*details: str) -> list[dict[str, Any]]:
    return [{"id": at, "parent": 0, "notused": 0, "detail": detail} for at, detail in enumerate(details)]


@pytest.mark.parametrize(
    ("kind", "plan", "says"),
    [
        (
            "postgresql",
            POSTGRESQL,
            [
                ("warning", "All of track is read, about 90,000 rows. An index on track (name"),
                ("warning", "All of genre is read once for every row of what comes before it"),
                ("note", "50,000 rows are sorted by t.name"),
            ],
        ),
        (
            "mysql",
            MYSQL,
            [
                ("warning", "All of a is read, about 400,000 rows. An index on a (name)"),
                ("warning", "All of b is read once for every row"),
                ("note", "Rows are sorted"),
                ("note", "An intermediate table"),
            ],
        ),
        ("mysql", MYSQL_8, [("note", "All of t is read, about 10 rows. It is small.")]),
        (
            "sqlite",
            steps(
                "SCAN track",
                "SEARCH album USING AUTOMATIC COVERING INDEX (artist_id=?)",
                "SCAN genre",
                "SCAN name USING COVERING INDEX by_name",
                "USE TEMP B-TREE FOR ORDER BY",
                "SCAN CONSTANT ROW",
            ),
            [
                ("warning", "All of track is read, about 5,000 rows."),
                ("warning", "A lasting one on (artist_id) would save it."),
                ("warning", "All of genre is read once for every row"),
                ("note", "All of an index of name is read"),
                ("note", "sorted for ORDER BY"),
            ],
        ),
        ("sqlite", steps("SEARCH t USING INTEGER PRIMARY KEY (rowid=?)"), [("note", "reached by an index")]),
        ("sqlite", steps("SCAN unknown"), [("warning", "All of unknown is read.")]),
    ],
)
def test_what_a_plan_says(kind: str, plan: Any, says: list[tuple[str, str]]) -> None:
    found = advise(kind, plan, {"track": 5000, "genre": 5})
    for level, text in says:
        assert any(each.level == level and text in each.text for each in found), (text, found)
    assert len(found) == len(says)
    assert [each.level for each in found] == sorted((each.level for each in found), reverse=True)


def test_the_same_is_said_once() -> None:
    plan = steps("USE TEMP B-TREE FOR ORDER BY", "USE TEMP B-TREE FOR ORDER BY")
    assert advise("sqlite", plan) == [
        Advice("note", "", "Rows are sorted for ORDER BY; an index in that order would save it.")
    ]
