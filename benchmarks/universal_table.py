"""Summary and tables of `universal.py`: means, paired tests over tasks, intervals over people."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from measuring import machine
from scipy.stats import wilcoxon
from teaching import Outcome, score
from torch import Tensor

FEW = 48  # number of labels of a hospital that has few
WAYS = ("probe", "few", "tune")
IN_WORDS = {"probe": "linear probe", "few": f"linear probe, {FEW} labels", "tune": "fine-tuned"}
RESAMPLES = 2000
RIVALS = ("mim longer", "averaged")  # what a universal encoder has to beat
POOLED = "pooled"
Found = Sequence[Mapping[str, Any]]


def task_score(rows: Sequence[Sequence[Any]]) -> float:
    """Return the score of kept outcomes."""
    return score([Outcome(truth, guess, tuple(dice)) for truth, guess, dice in rows])


def summarize(seeds: Found, arms: Sequence[str]) -> dict[str, Any]:
    """Return mean and spread of every arm, and tests of what is claimed.

    Args:
        seeds: What was measured, one for each seed.
        arms: Names of all arms, in the order of the table.
    """
    first = seeds[0]
    tasks, held_out, real = first["tasks"], first["held_out"], set(first["real"])
    groups = {
        "all": tasks,
        "real": [task for task in tasks if task in real],
        "held out": held_out,
        "held out, real": [task for task in held_out if task in real],
    }
    groups = {name: members for name, members in groups.items() if members}
    keys = [
        f"{way}/{arm}"
        for way in WAYS
        for arm in arms
        if all(f"{way}/{arm}" in found for found in seeds)
    ]
    scores = {
        key: {
            task: [task_score(found[key][task]) for found in seeds] for task in (*tasks, *held_out)
        }
        for key in keys
    }
    return {
        "machine": machine(),
        "seeds": [found["seed"] for found in seeds],
        "groups": groups,
        "means": {
            key: {
                name: _spread(_means(each, members, len(seeds))) for name, members in groups.items()
            }
            for key, each in scores.items()
        },
        "tasks": {
            key: {task: _spread(values) for task, values in each.items()}
            for key, each in scores.items()
        },
        "claims": _claims(seeds, scores, groups),
        "share of pooled": {
            key: {
                name: _average(_means(scores[key], members, len(seeds)))
                / _average(_means(scores[f"{key.partition('/')[0]}/{POOLED}"], members, len(seeds)))
                for name, members in groups.items()
            }
            for key in keys
            if f"{key.partition('/')[0]}/{POOLED}" in scores
        },
        "validation": {
            key: _average(
                _average(found[f"validation/{key}"][task] for task in tasks) for found in seeds
            )
            for key in keys
            if f"validation/{key}" in first
        },
        "chosen": {
            key.removeprefix("chosen/"): [found.get(key) for found in seeds]
            for key in first
            if key.startswith("chosen/")
        },
        "gates": {
            key.removeprefix("gates/"): [found.get(key) for found in seeds]
            for key in first
            if key.startswith("gates/")
        },
    }


def _claims(
    seeds: Found, scores: Mapping[str, Mapping[str, list[float]]], groups: Mapping[str, Any]
) -> dict[str, Any]:
    """Compare every arm with each rival, for each way and group of tasks."""
    claims: dict[str, Any] = {}
    for key in scores:
        way, _, arm = key.partition("/")
        for rival in RIVALS if arm not in (*RIVALS, "mim") else ():
            other = f"{way}/{rival}"
            if other in scores:
                claims[f"{key} - {rival}"] = {
                    name: _compare(seeds, scores, key, other, members)
                    for name, members in groups.items()
                }
    return claims


def _compare(
    seeds: Found,
    scores: Mapping[str, Mapping[str, list[float]]],
    ours: str,
    other: str,
    tasks: Sequence[str],
) -> dict[str, Any]:
    """Compare two arms, paired over tasks, means over seeds first.

    The interval is of the mean over these tasks, over new draws of the test people.
    """
    differences = [_average(scores[ours][task]) - _average(scores[other][task]) for task in tasks]
    drawn = torch.stack([_drawn(seeds, task, ours, other) for task in tasks]).mean(0)
    low, high = drawn.quantile(torch.tensor([0.025, 0.975])).tolist()
    return {
        "mean difference": _average(differences),
        "low": low,
        "high": high,
        "p": float(wilcoxon(differences).pvalue) if any(differences) else 1.0,
        "tasks": len(tasks),
        "better": sum(value > 0 for value in differences),
    }


def _drawn(seeds: Found, task: str, ours: str, other: str) -> Tensor:
    """Return differences of a task, (draws,), over draws of its people, all seeds together."""
    generator, drawn = torch.Generator().manual_seed(0), torch.zeros(RESAMPLES)
    for found in seeds:
        subjects = found["subjects"][task]
        people = {name: number for number, name in enumerate(dict.fromkeys(subjects))}
        whose = torch.tensor([people[name] for name in subjects])
        chosen = torch.randint(len(people), (RESAMPLES, len(people)), generator=generator)
        times = torch.zeros(RESAMPLES, len(people)).scatter_add_(
            1, chosen, torch.ones(RESAMPLES, len(people))
        )
        counts = times[:, whose]  # how often each case was drawn
        drawn += (
            _resampled(found[ours][task], counts) - _resampled(found[other][task], counts)
        ) / len(seeds)
    return drawn


def _resampled(rows: Sequence[Sequence[Any]], counts: Tensor) -> Tensor:
    """Return `task_score` of the drawn cases, (draws,).

    Args:
        rows: Outcomes.
        counts: How often each case counts, (draws, cases).
    """
    if rows[0][0] is None:
        table = torch.tensor([dice for _, _, dice in rows])  # (cases, classes)
        known = ~table.isnan()
        total, number = counts @ table.nan_to_num(), counts @ known.float()
        return (total / number).nanmean(1)
    truths = torch.tensor([truth for truth, _, _ in rows])
    right = torch.tensor([float(truth == guess) for truth, guess, _ in rows])
    recalls = [
        (counts * (truths == value) * right).sum(1) / (counts * (truths == value)).sum(1)
        for value in truths.unique()
    ]
    return torch.stack(recalls).nanmean(0)


def _means(scores: Mapping[str, Sequence[float]], tasks: Sequence[str], seeds: int) -> list[float]:
    return [_average(scores[task][number] for task in tasks) for number in range(seeds)]


def _average(values: Any) -> float:
    values = list(values)
    return float(sum(values) / len(values))


def _spread(values: Sequence[float]) -> list[float]:
    """Return mean and standard deviation."""
    return [_average(values), float(torch.tensor(values).std()) if len(values) > 1 else 0.0]


def show(summary: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """Print the tables as Markdown."""
    return "\n".join(
        [
            *_table_of_means(summary, titles),
            "",
            *_table_of_claims(summary, titles),
            "",
            *_table_of_tasks(summary, titles),
        ]
    )


def _table_of_means(summary: Mapping[str, Any], titles: Mapping[str, str]) -> list[str]:
    groups = summary["groups"]
    lines = [
        "| encoder | "
        + " | ".join(f"{name} ({len(groups[name])})" for name in groups)
        + " | of pooled, all |",
        "|---|" + "---|" * (len(groups) + 1),
    ]
    for key, means in summary["means"].items():
        way, _, arm = key.partition("/")
        cells = [f"{mean:.3f} ± {spread:.3f}" for mean, spread in means.values()]
        share = summary["share of pooled"].get(key)
        cells.append(f"{share['all']:.0%}" if share else "")
        lines.append(f"| {titles[arm]}, {IN_WORDS[way]} | {' | '.join(cells)} |")
    return lines


def _table_of_claims(summary: Mapping[str, Any], titles: Mapping[str, str]) -> list[str]:
    groups = summary["groups"]
    lines = [
        "| difference | " + " | ".join(groups) + " |",
        "|---|" + "---|" * len(groups),
    ]
    for name, claim in summary["claims"].items():
        key, _, rival = name.partition(" - ")
        way, _, arm = key.partition("/")
        cells = [_in_words(each) for each in claim.values()]
        lines.append(
            f"| {titles[arm]}, against {titles[rival]}, {IN_WORDS[way]} | {' | '.join(cells)} |"
        )
    return lines


def _table_of_tasks(summary: Mapping[str, Any], titles: Mapping[str, str]) -> list[str]:
    arms = [key for key in summary["tasks"] if key.startswith("probe/")]
    names = list(summary["tasks"][arms[0]])
    real = {*summary["groups"].get("real", ()), *summary["groups"].get("held out, real", ())}
    held_out = set(summary["groups"].get("held out", ()))
    lines = [
        "| task, linear probe | " + " | ".join(titles[key[6:]] for key in arms) + " |",
        "|---|" + "---|" * len(arms),
    ]
    for task in names:
        notes = [word for word, among in (("real", real), ("held out", held_out)) if task in among]
        title = f"{task} ({', '.join(notes)})" if notes else task
        cells = [f"{summary['tasks'][key][task][0]:.3f}" for key in arms]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def _in_words(claim: Mapping[str, Any]) -> str:
    interval = f"({claim['low']:+.3f} to {claim['high']:+.3f})"
    return (
        f"{claim['mean difference']:+.3f} {interval}, {claim['better']} of {claim['tasks']}, "
        f"p = {claim['p']:.3f}"
    )
