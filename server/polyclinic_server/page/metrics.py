"""The page's figures in Prometheus's text format, version 0.0.4."""

from collections.abc import Iterable, Mapping

from polyclinic_server.page.watching import View

Sample = tuple[Mapping[str, str], float]
STATES = ("waiting", "running", "finished", "interrupted", "failed", "died", "unreadable")
CONDITIONS = ("ready", "busy", "troubled", "gone", "refused")


def expose(view: View) -> str:
    """Write all figures of a view."""
    active = [run for run in view.runs if run.active]
    rows = [(run, row) for run in active for row in run.following.rows.values()]
    parts = [
        _family(
            "polyclinic_runs",
            "Number of runs by state.",
            [({"state": one}, sum(run.state == one for run in view.runs)) for one in STATES],
        ),
        _family(
            "polyclinic_hospitals",
            "Number of hospitals by condition.",
            [
                ({"condition": one}, sum(each.condition == one for each in view.hospitals))
                for one in CONDITIONS
            ],
        ),
        _family(
            "polyclinic_hospital_online",
            "Whether a hospital's line is up.",
            [
                ({"hospital": each.site}, float(each.line.online))
                for each in view.hospitals
                if each.line is not None
            ],
        ),
        _family(
            "polyclinic_hospital_heard_timestamp_seconds",
            "When a hospital last gave a sign of life.",
            [
                ({"hospital": each.site}, each.line.heard)
                for each in view.hospitals
                if each.line is not None
            ],
        ),
        _family(
            "polyclinic_run_progress_ratio",
            "Share of a run's work that is done.",
            [({"run": run.name}, run.share) for run in active],
        ),
        _family(
            "polyclinic_run_round",
            "Number of a run's present round.",
            [({"run": run.name}, run.following.live.round) for run in active if run.following.live],
        ),
        *(
            _family(
                f"polyclinic_{quantity}",
                f"Last {quantity} of a hospital in a run.",
                [
                    ({"run": run.name, "hospital": row.site}, value)
                    for run, row in rows
                    if (value := getattr(row, quantity)) is not None
                ],
            )
            for quantity in ("loss", "score")
        ),
    ]
    return "".join(parts)


def _family(name: str, meaning: str, samples: Iterable[Sample]) -> str:
    lines = [f"# HELP {name} {meaning}", f"# TYPE {name} gauge"]
    for labels, value in samples:
        named = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
        lines.append(f"{name}{{{named}}} {float(value)!r}")
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
