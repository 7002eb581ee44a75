"""From a ledger to published models; everything here is a function of what the ledger holds.

It uses neither Flower nor the network: the event loop needs it, and so does `polyclinic-server
merge`, without any hospital.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from polyclinic.errors import ConfigError, LedgerError, ModelInvalid
from polyclinic.learning.state_dict import StateDict
from polyclinic.store.contribution import TensorFile, read_contribution
from polyclinic.store.ledger import Entry, Ledger, Publication
from polyclinic.store.refusals import ContributionRefused
from polyclinic.store.requirements import check_suits
from polyclinic_strategies.merging.arithmetic.configured import describe_rule
from polyclinic_strategies.merging.arithmetic.layer import Rule, is_normalization_statistic
from polyclinic_strategies.merging.intake.blame import blamed
from polyclinic_strategies.merging.intake.statistics import Layout, check_statistics
from polyclinic_strategies.merging.streaming.counted import Discounted, Moved
from polyclinic_strategies.merging.streaming.merge import merge
from polyclinic_strategies.merging.streaming.running_sum import ADDITIVE, merge_by_sum


class Publisher:
    """Merges what a ledger holds.

    Args:
        ledger: Holds the contributions, and receives the models.
        max_staleness: Contributions to this many bases before the current one still count.
        discount: Factor for each base that a contribution is behind, 0 .. 1.
        sums: Folder for running sums of the rules that allow them; None reads every contribution
            each time. The bits are the same.
        needs: Statistics that a contribution must hold to count, as an assignment names them.
            Contributions to another strategy of the same run may lie in the ledger without them.

    Attributes:
        layout: Names and shapes of what hospitals send; None: those of the current base.
    """

    def __init__(
        self,
        ledger: Ledger,
        max_staleness: int,
        discount: float,
        sums: Path | None = None,
        needs: Collection[str] = (),
    ) -> None:
        self.ledger = ledger
        self._max_staleness = max_staleness
        self._discount = discount
        self._sums = sums
        self._needs = frozenset(needs)
        self._complete: dict[str, bool] = {}  # digest -> whether it holds them
        self._roots: dict[str, str] = {}  # of the published models that contributions started from
        self.layout: Layout | None = None
        self._read = ""  # the journal's newest line, when the list below was made
        self._received: list[Entry] = []
        self._faulty: dict[str, str] = {}  # of these: why they do not count, by digest
        self._faults: dict[str, str] = {}  # by digest; contributions never change
        self._unsuited: dict[Rule, dict[str, str]] = {}  # by digest, as they were merged last

    def older_bases(self) -> dict[str, int]:
        """Return earlier bases, and how many bases each is behind the current one."""
        *earlier, current = self.ledger.bases()
        return {
            base: behind
            for behind, base in reversed(list(enumerate(reversed(earlier), start=1)))
            if base != current
        }

    def published(self) -> dict[str, int]:
        """Return published models, and how many bases their base is behind the current one."""
        ages = self._ages()
        return {digest: ages[root] for digest, root in self.ledger.roots().items()}

    def root(self, digest: str) -> str:
        """Return the base that a model goes back to: itself, or that on which it was published.

        A model that the ledger does not know is returned as it is.
        """
        if digest not in self._roots:
            known = {} if digest in self.ledger.bases() else self.ledger.roots()
            self._roots[digest] = known.get(digest, digest)
        return self._roots[digest]

    def received(self) -> list[Entry]:
        """Return the newest contribution of every site, also those set aside, sorted by site."""
        newest = self.ledger.newest()
        if newest != self._read:
            ages = self._ages()
            self._received = [
                entry
                for entry in self.ledger.active()
                if ages.get(self.root(entry.base), 2**31) <= self._max_staleness
                and self._is_complete(entry)
            ]
            faults = {entry.digest: self._fault_of(entry) for entry in self._received}
            self._faulty = {digest: fault for digest, fault in faults.items() if fault}
            self._read = newest
        return list(self._received)

    def entries(self, rule: Rule | None = None) -> list[Entry]:
        """Return the contributions that count, sorted by site.

        Args:
            rule: Leave out also those that did not suit this rule when it was used last.
        """
        received = self.received()
        aside = self._aside(received, rule)
        return [entry for entry in received if entry.digest not in aside]

    def set_aside(self, rule: Rule | None = None) -> dict[str, str]:
        """Return why contributions do not count that were accepted once, by their digest.

        Args:
            rule: Name also those that did not suit this rule when it was used last.
        """
        return self._aside(self.received(), rule)

    def _aside(self, received: Sequence[Entry], rule: Rule | None) -> dict[str, str]:
        unsuited = self._unsuited.get(rule, {}) if rule is not None else {}
        here = {entry.digest for entry in received} if unsuited else ()
        return {digest: unsuited[digest] for digest in unsuited if digest in here} | self._faulty

    def merge(self, rule: Rule, entries: Sequence[Entry] | None = None) -> StateDict:
        """Merge contributions by a rule.

        A contribution that cannot be merged is set aside, and the others are merged; where that
        would be most of them, nothing is.

        Args:
            rule: One of `rules/`.
            entries: Contributions to merge; None for all that count.

        Raises:
            LedgerError: There is no contribution.
            ConfigError: The rule needs statistics that no contribution has, or more contributions.
            ModelInvalid: No contribution can be merged.
        """
        chosen = self.entries() if entries is None else list(entries)
        if not chosen:
            raise LedgerError(
                "The ledger holds no contribution to its current base that counts: there is "
                "nothing to merge yet."
            )
        aside: dict[str, str] = {}
        while True:
            left = [entry for entry in chosen if entry.digest not in aside]
            try:
                merged = self._merge(rule, left, everybody=entries is None)
            except (ModelInvalid, ConfigError) as error:
                key = blamed(error).partition("/")[0]
                fault = next((each for each in left if key in (each.site, each.digest)), None)
                if fault is None or 2 * (len(aside) + 1) > len(chosen):
                    raise  # it is nobody's fault, or that of most
                aside[fault.digest] = str(error)
                continue
            self._unsuited[rule] = aside
            return merged

    def _merge(self, rule: Rule, chosen: Sequence[Entry], *, everybody: bool) -> StateDict:
        digest = self.ledger.bases()[-1]
        base = self.ledger.load_model(digest)
        if self._sums is not None and everybody and isinstance(rule, ADDITIVE):
            ages = self._ages()
            wanted = {f"{entry.digest}/{ages[self.root(entry.base)]}": entry for entry in chosen}
            return merge_by_sum(self._sums, {digest: base}, wanted, rule, self._open_key)
        with self._open_all(chosen) as files:
            return merge(base, files, {entry.site: entry.num_examples for entry in chosen}, rule)

    def publish(self, rule: Rule, state: StateDict) -> Publication:
        """Store a model from `merge` and how it was made.

        Storing the newest publication again changes nothing.
        """
        return self.ledger.publish(
            state, describe_rule(rule), [entry.digest for entry in self.entries(rule)]
        )

    def base(self) -> StateDict:
        """Return the current base model."""
        return self.ledger.load_model(self.ledger.bases()[-1])

    def single(self, entry: Entry) -> StateDict:
        """Return the model of one hospital alone: base plus its task vector, not discounted."""
        base = self.base()
        with self._file(entry.path, entry.base, 0) as file:
            return {name: tensor + file.task_vector(name) for name, tensor in base.items()}

    def random(self, merged: StateDict, seed: int) -> StateDict:
        """Make a control model in a random direction from the base.

        In every tensor, it is as far from the base as the merged model. Normalization statistics
        are those of the merged model: noise there would make the control too weak.
        """
        base = self.base()
        generator = torch.Generator().manual_seed(seed)
        made = {}
        for name, tensor in sorted(base.items()):
            direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            length = (merged[name].double() - tensor.double()).norm()
            length = length / direction.norm().clamp_min(1e-300)
            noisy = (tensor.double() + direction * length).float()
            made[name] = merged[name] if is_normalization_statistic(name) else noisy
        return made

    def open(self, entry: Entry) -> TensorFile:
        """Open a contribution as it counts: from the base, and discounted if that is older."""
        return self._open(entry, self._ages())

    def _is_complete(self, entry: Entry) -> bool:
        """Tell whether a contribution holds what is needed; files never change."""
        if self._needs and entry.digest not in self._complete:
            with TensorFile(entry.path) as file:
                self._complete[entry.digest] = self._needs <= file.kinds
        return self._complete.get(entry.digest, True)

    def _fault_of(self, entry: Entry) -> str:
        """Tell why a contribution cannot be merged; empty if nothing speaks against it."""
        if entry.digest not in self._faults:
            if self.layout is None:
                self.layout = {name: tuple(each.shape) for name, each in self.base().items()}
            try:
                with TensorFile(entry.path) as file:
                    check_suits(file, entry.site, self.layout)
                    check_statistics(file, entry.site, self.layout)
                self._faults[entry.digest] = ""
            except ContributionRefused as error:
                self._faults[entry.digest] = str(error)
        return self._faults[entry.digest]

    def _ages(self) -> dict[str, int]:
        """Return how many bases each base is behind the current one, which is 0."""
        return {**self.older_bases(), self.ledger.bases()[-1]: 0}

    def _open(self, entry: Entry, ages: Mapping[str, int]) -> TensorFile:
        return self._file(entry.path, entry.base, ages[self.root(entry.base)])

    def _file(self, path: Path, start: str, behind: int) -> TensorFile:
        root, factor = self.root(start), self._discount**behind
        if root != start:
            models = self.ledger.model_path(start), self.ledger.model_path(root)
            return Moved(path, *models, factor)
        return Discounted(path, factor) if behind else TensorFile(path)

    def _open_key(self, key: str) -> TensorFile:
        digest, _, behind = key.partition("/")
        path = self.ledger.contribution_path(digest)
        return self._file(path, read_contribution(path).base, int(behind))

    @contextmanager
    def _open_all(self, entries: Sequence[Entry]) -> Iterator[dict[str, TensorFile]]:
        ages = self._ages()
        with ExitStack() as stack:
            yield {entry.site: stack.enter_context(self._open(entry, ages)) for entry in entries}


def last_choice(rules: Sequence[Rule], publications: Sequence[Publication]) -> Rule:
    """Return the candidate that was published last, if it still is one; else the first."""
    recipe = publications[-1].recipe if publications else {}
    for rule in rules:
        if all(recipe.get(key) == value for key, value in describe_rule(rule).items()):
            return rule
    return rules[0]
