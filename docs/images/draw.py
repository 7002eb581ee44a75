"""The drawings of the architecture: run this file and it writes the SVG files beside it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

FONT = 'font-family="system-ui, -apple-system, Segoe UI, Roboto, sans-serif"'
INK, PALE, LINE = "#1f2933", "#5b6770", "#8a97a0"
BLUE, GREEN, SAND, WHITE = "#dcebf7", "#dff1e4", "#f6edd8", "#ffffff"


@dataclass
class Drawing:
    """An SVG that grows element by element; all lengths are pixels."""

    width: int
    height: int
    title: str
    parts: list[str] = field(default_factory=list)

    def box(
        self, x: int, y: int, width: int, height: int, fill: str, *, dashed: bool = False
    ) -> None:
        """Draw a box."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}" '
            f'stroke="{LINE}"{dash}/>'
        )

    def text(
        self, x: int, y: int, text: str, *, size: int = 13, bold: bool = False, middle: bool = False
    ) -> None:
        """Write one line; `y` is its baseline."""
        weight = ' font-weight="600"' if bold else ""
        anchor = ' text-anchor="middle"' if middle else ""
        colour = INK if bold or size > 12 else PALE
        self.parts.append(
            f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}"{weight}{anchor}>'
            f"{escape(text)}</text>"
        )

    def arrow(self, x1: int, y1: int, x2: int, y2: int) -> None:
        """Draw an arrow."""
        self.parts.append(
            f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{INK}" stroke-width="1.4" '
            'marker-end="url(#head)"/>'
        )

    def svg(self) -> str:
        """Write everything."""
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
                f'width="{self.width}" height="{self.height}" role="img" {FONT}>',
                f"<title>{escape(self.title)}</title>",
                '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
                f'markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" fill="{INK}"/></marker>'
                "</defs>",
                f'<rect width="{self.width}" height="{self.height}" rx="8" fill="{WHITE}"/>',
                *self.parts,
                "</svg>",
                "",
            ]
        )


@dataclass(frozen=True)
class Step:
    """One step of a life: where it happens, and what; or, with `to`, what travels where."""

    lane: int
    title: str
    detail: str = ""
    to: int | None = None


def layers() -> Drawing:
    """Draw the five packages, and a package of somebody else's."""
    drawing = Drawing(880, 500, "The five packages and who imports whom")
    left, full = 24, 600
    drawing.box(left, 24, full, 56, SAND)
    drawing.text(left + 16, 48, "polyclinic_demos", bold=True)
    drawing.text(
        left + 16, 67, "simulated hospitals, demo commands; in no hospital's image", size=12
    )
    drawing.box(left, 112, 290, 76, BLUE)
    drawing.text(left + 16, 136, "polyclinic_server", bold=True)
    drawing.text(left + 16, 155, "command line, runs, fleet, enrolment,", size=12)
    drawing.text(left + 16, 172, "reports, segmentation service", size=12)
    drawing.box(left + 310, 112, 290, 76, BLUE)
    drawing.text(left + 326, 136, "polyclinic_client", bold=True)
    drawing.text(left + 326, 155, "command line, fleet, site,", size=12)
    drawing.text(left + 326, 172, "segmentation client", size=12)
    drawing.box(left, 220, full, 76, GREEN)
    drawing.text(left + 16, 244, "polyclinic_strategies", bold=True)
    drawing.text(left + 16, 263, "averaging · merging · refinement · universal · proxy", size=12)
    drawing.text(
        left + 16, 280, "each with its mathematics, both sides, events and report", size=12
    )
    drawing.box(left, 328, full, 148, WHITE)
    drawing.text(left + 16, 352, "polyclinic", bold=True)
    rows = (
        "simulation: a federation in one process",
        "federation: methods, jobs, messages, events · reporting: charts and pages",
        "store: ledger · security: keys and kits · describing: statistics of images",
        "learning: training, networks, model files · imaging: volumes, data sets",
        "config: settings · system: atomic writes, processes · errors",
    )
    for number, row in enumerate(rows):
        drawing.text(left + 16, 374 + 22 * number, row, size=12)
    for x, top, bottom in (
        (left + 145, 80, 112),
        (left + 455, 80, 112),
        (left + 145, 188, 220),
        (left + 455, 188, 220),
        (left + 300, 296, 328),
    ):
        drawing.arrow(x, top, x, bottom - 1)
    drawing.box(672, 220, 184, 256, WHITE, dashed=True)
    drawing.text(688, 244, "your package", bold=True)
    offers = ("entry points:", "polyclinic.methods", "polyclinic.statistics", "polyclinic.conf",
              "polyclinic.commands")  # fmt: skip
    for number, row in enumerate(offers):
        drawing.text(688, 268 + 22 * number, row, size=12)
    drawing.text(688, 402, "found when installed,", size=12)
    drawing.text(688, 420, "on both sides", size=12)
    drawing.arrow(672, 258, 625, 258)
    drawing.arrow(672, 440, 625, 440)
    drawing.text(672, 66, "arrows: imports", size=12)
    return drawing


def life(title: str, lanes: Sequence[str], steps: Sequence[Step]) -> Drawing:
    """Draw what happens in several places, from top to bottom.

    Args:
        title: Of the drawing.
        lanes: Names of the places, from left to right.
        steps: What happens, in this order.
    """
    lane_width, gap = 300, 110
    middles = [24 + lane_width // 2 + (lane_width + gap) * lane for lane in range(len(lanes))]
    drawing = Drawing(middles[-1] + lane_width // 2 + 24, 72 + 66 * len(steps), title)
    for middle, name in zip(middles, lanes, strict=True):
        drawing.text(middle, 34, name, size=15, bold=True, middle=True)
    y = 52
    for step in steps:
        if step.to is None:
            x = middles[step.lane] - lane_width // 2
            drawing.box(x, y, lane_width, 52, (GREEN, BLUE, SAND)[step.lane])
            drawing.text(x + 14, y + 22, step.title, bold=True)
            drawing.text(x + 14, y + 41, step.detail, size=12)
        else:
            away = lane_width // 2 if step.to > step.lane else -lane_width // 2
            start, end = middles[step.lane] + away // 2, middles[step.to] - away // 2
            drawing.text((start + end) // 2, y + 20, step.title, bold=True, middle=True)
            drawing.arrow(start, y + 28, end, y + 28)
            drawing.text((start + end) // 2, y + 46, step.detail, size=12, middle=True)
        y += 66
    return drawing


def contribution() -> Drawing:
    """Draw the life of a contribution."""
    return life(
        "The life of a contribution",
        ("hospital", "coordinator"),
        (
            Step(1, "asks whether there is news", "names of the job, digest of the base"),
            Step(1, "base model", "weights", to=0),
            Step(0, "fine-tunes the base", "a process of its own; resumes after a kill"),
            Step(0, "writes the contribution", "tuned weights minus base, cases, scores"),
            Step(0, "keeps it in the outbox", "until it is acknowledged"),
            Step(0, "contribution", "over the hospital's one connection", to=1),
            Step(1, "checks it", "base, tensors, finite values, length, task"),
            Step(1, "commits it to the ledger", "file first, then the row and the journal's line"),
            Step(1, "merges the active contributions", "in the order of the sites' names"),
            Step(1, "publishes a model", "named by its digest, with what it was made of"),
            Step(1, "acknowledgement", "once; the same file again changes nothing", to=0),
            Step(1, "supersedes or withdraws it", "by a newer one, or by `ledger withdraw`"),
        ),
    )


def description() -> Drawing:
    """Draw the life of a description."""
    return life(
        "The life of a description",
        ("new hospital", "coordinator"),
        (
            Step(1, "has chosen a recipe", "statistic, rule, sharpness; by leaving out"),
            Step(1, "question", "one statistic, and the base if it needs features", to=0),
            Step(0, "measures every subject", "one vector each, at most 1 long"),
            Step(0, "checks what may leave", "enough subjects? how much noise?"),
            Step(0, "description", "one mean vector", to=1),
            Step(1, "keeps it beside the ledger", "it contributes to nobody's model"),
            Step(1, "measures distances", "to the descriptions of the contributors"),
            Step(1, "weighs task vectors", "the nearer, the more"),
            Step(1, "refined model", "base plus weighted task vectors", to=0),
            Step(0, "predicts", "without labels, without training"),
        ),
    )


def proxy() -> Drawing:
    """Draw the life of a proxy."""
    return life(
        "The life of a proxy",
        ("hospital", "segmentation service"),
        (
            Step(0, "reads the scan", "T1, without skull"),
            Step(0, "lays it into the standard frame", "affine registration, matched histogram"),
            Step(0, "makes a key", "of the scan and a secret"),
            Step(0, "warps", "refused if it folds, or hides too little"),
            Step(0, "proxy", "one array: no header, no name, no key", to=1),
            Step(1, "waits for its turn", "bounded queue, fair between hospitals"),
            Step(1, "segments the proxy", "nothing is written to the disk"),
            Step(1, "labels or probabilities", "of the proxy", to=0),
            Step(0, "unwarps the answer", "the inverse field, onto the scan's own grid"),
            Step(0, "forgets the key", "the same scan makes the same again"),
        ),
    )


DRAWINGS = {
    "layers.svg": layers,
    "life-of-a-contribution.svg": contribution,
    "life-of-a-description.svg": description,
    "life-of-a-proxy.svg": proxy,
}


def main() -> None:
    """Write all drawings."""
    for name, draw in DRAWINGS.items():
        Path(__file__).with_name(name).write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
