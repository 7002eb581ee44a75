"""One self-contained HTML page about a run, for physicians and a hospital's board.

The page loads nothing. Charts and pictures are inside it, and its own policy forbids scripts and
every address. Templates escape what came from hospitals. Methods contribute sections, each with a
template of its own; this module knows none of the methods.
"""

from pathlib import Path

from polyclinic.config.tasks import KINDS, MEANINGS
from polyclinic.reporting.chart import Chart
from polyclinic.reporting.curves import curves, draw_curves, styles
from polyclinic.reporting.formats import plural, show_date, show_duration
from polyclinic.reporting.measured.standing import find_standings
from polyclinic.reporting.measured.tables import measure_tables
from polyclinic.reporting.narrative import summarize
from polyclinic.reporting.page import make_environment, write_page
from polyclinic.reporting.pictures import read_legend, read_pictures
from polyclinic.reporting.results import POOLED, Arm, Results, read_results
from polyclinic.reporting.scores import by_label, headline
from polyclinic.reporting.section import Section, make_sections
from polyclinic_server.reports.best_rounds import find_best_rounds
from polyclinic_server.reports.missing import find_missing
from polyclinic_server.reports.participation import find_absences, find_participation
from polyclinic_server.reports.patients import find_told

TEMPLATES = Path(__file__).parent / "templates"
LOSS_TITLE = "Training loss, lower is better"
PHASES = {"train": "training", "validate": "validation", "test": "test"}
PACES = {"rounds": "federated", "arrivals": "on arrival", "stages": "in stages"}


def write_report(run_folder: Path) -> Path:
    """Write report.html into a run's folder, all of it or nothing, and return its path.

    Raises:
        RunError: The folder has no readable run.json, or cannot be written to.
    """
    return write_page(run_folder, render(read_results(run_folder)))


def render(results: Results) -> str:
    """Make the page.

    Raises:
        RunError: What a method keeps in run.json is damaged.
    """
    sections = make_sections(results)
    title = f"{results.run.score_name} on validation images, higher is better"
    scores = draw_curves(title, curves(results, "validate", "score"), results.arms)
    gallery = read_pictures(results)
    named = {name: word for section in sections for name, word in section.kinds.items()}
    return (
        make_environment(TEMPLATES)
        .get_template("report.html.j2")
        .render(
            results=results,
            run=results.run,
            sections=[(section, render_section(section, results)) for section in sections],
            css=[section.css.read_text(encoding="utf-8") for section in sections if section.css],
            leading=any(section.leads for section in sections),
            trains=all(section.trains for section in sections),
            summary=summarize(results, sections),
            own_summary=any(section.summary for section in sections),
            table=headline(results),
            labels=by_label(results),
            later_labels=by_label(results, results.later),
            score_meaning=MEANINGS.get(results.run.score_name, ""),
            plots=[(title, scores), (LOSS_TITLE, _draw_losses(results))],
            styles=styles(results.arms),
            kinds={arm.name: named.get(arm.name, _name_kind(arm)) for arm in results.arms},
            standings=find_standings(results),
            measures=measure_tables(results),
            noted=[arm for arm in results.arms if arm.note],
            facts=_list_facts(results),
            phases=PHASES,
            gallery=gallery,
            colours=read_legend(results) if gallery else {},
            participation=find_participation(results),
            absences=find_absences(results),
            told=find_told(results),
            missing=find_missing(results),
            best_rounds=find_best_rounds(results),
            in_rounds=has_rounds(results),
            without_rounds=[arm for arm in results.arms if not arm.has_rounds],
            pooled=next((arm for arm in results.arms if arm.name == POOLED), None),
        )
    )


def render_section(section: Section, results: Results) -> str:
    """Make a method's part of the page, with the templates in the method's own folder."""
    environment = make_environment(section.template.parent)
    template = environment.get_template(section.template.name)
    return template.render(results=results, **section.values)


def has_rounds(results: Results) -> bool:
    """Tell whether anything was, or will be, trained in rounds.

    A run may have arms without rounds and their references alone.
    """
    if all(arm.has_rounds for arm in results.arms):
        return True
    federated = any(arm.federated and arm.has_rounds for arm in results.arms)
    return federated or any(metric.phase == "train" for metric in results.metrics)


def _draw_losses(results: Results) -> Chart | None:
    return draw_curves(LOSS_TITLE, curves(results, "train", "loss"), results.arms)


def _name_kind(arm: Arm) -> str:
    """Say in a word how an arm's model is made."""
    return "reference" if arm.reference else PACES.get(arm.pace or "", "without rounds")


def _list_facts(results: Results) -> list[str]:
    """List what stands under the title."""
    run = results.run
    tested = sum(hospital.test or 0 for hospital in results.hospitals if not hospital.describes)
    duration = show_duration(run.started, run.finished)
    facts = (
        KINDS[run.task].title.capitalize() if run.task in KINDS else run.task.capitalize(),
        plural(len(results.hospitals), "hospital"),
        plural(results.rounds, "round") if has_rounds(results) else "",
        plural(tested, "test image") if tested else "",
        f"started {show_date(run.started)}" if run.started else "",
        f"took {duration}" if duration else "",
    )
    return [fact for fact in facts if fact]
