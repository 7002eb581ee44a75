"""The deformation proxy's part at a hospital: training on scans in the canonical frame.

The scans stay here; the networks are averaged.
"""

from dataclasses import replace

from torch import nn

from polyclinic.config.schemas import JobConfig
from polyclinic.errors import ConfigError
from polyclinic.federation.hospital import CommonTask
from polyclinic.federation.records import Order
from polyclinic.federation.site import Site, check_labels, tell_training
from polyclinic.imaging.datasets import Case, evaluation_cases
from polyclinic.learning.metrics import Evaluation, summarize
from polyclinic.learning.training import FitResult
from polyclinic_strategies.proxy.cases import CanonicalCase, check_people, prepare_cases
from polyclinic_strategies.proxy.measurements import scores_through
from polyclinic_strategies.proxy.parts import write_parts
from polyclinic_strategies.proxy.settings import proxy_settings
from polyclinic_strategies.proxy.system import ProxySystem
from polyclinic_strategies.proxy.training import Trainer

CASES = "canonical cases"  # key of what is kept between two messages


class ProxyHospital(CommonTask):
    """Hospital that trains generator, segmenter and adversary together."""

    def prepare(self, site: Site, order: Order) -> str:
        """Bring the training scans into the canonical frame; refuse a cohort without visits."""
        check_labels(site.job(order), site.dataset)
        self._cases(site, order, _system(site.build_network(order)))
        return ""

    def fit(self, site: Site, order: Order, network: nn.Module) -> FitResult:
        """Train for one round: as many steps as there are scans, `training.epochs` times."""
        system, job = _system(network), site.job(order)
        cases = self._cases(site, order, system)
        settings = replace(
            proxy_settings(job.training),
            steps=job.training.epochs * len(cases),
            more_segmentation=0,
        )
        trainer = Trainer(system, cases, settings, job.training.learning_rate, site.seed(order))
        tell = tell_training(site, order)
        losses = trainer.train(
            lambda step, steps, running: tell(step, steps, running["segmentation"])
        )
        return FitResult(losses["segmentation"], settings.steps, len(cases))

    def score(self, site: Site, order: Order, network: nn.Module) -> Evaluation:
        """Score the validation scans as proxies."""
        cases = evaluation_cases(site.dataset, "validation")
        return score_through(_system(network), cases, site.job(order))

    def score_finally(self, site: Site, order: Order, network: nn.Module) -> Evaluation:
        """Score the test scans as proxies; keep generator and segmenter."""
        system, job = _system(network), site.job(order)
        write_parts(system, job.data.labels, order.settings, site.folder(order))
        return score_through(system, evaluation_cases(site.dataset), job)

    def _cases(self, site: Site, order: Order, system: ProxySystem) -> list[CanonicalCase]:
        """Return the training scans in the canonical frame; made once, and kept on disk too."""
        kept = f"{CASES} {system.spacing_mm}"  # runs may differ in it
        if kept not in site.kept:
            dataset = site.dataset
            check_people(dataset.training, dataset.folder / "dataset.json", "training")
            site.kept[kept] = prepare_cases(
                dataset.training,
                system.frame,
                site.state / "canonical",
                len(site.job(order).data.labels),
                train=True,
                on_progress=lambda done, total, _name: site.say(
                    order, "preparing", step=done, steps=total
                ),
            )
        found: list[CanonicalCase] = site.kept[kept]
        return found


def score_through(system: ProxySystem, cases: tuple[Case, ...], job: JobConfig) -> Evaluation:
    """Compute the Dice of scans that are segmented as proxies, on their own grids."""
    rows = list(scores_through(system, system.protection(job.data.labels), cases, job.data))
    return summarize(rows, job.data.labels[1:], None, len(rows))


def _system(network: nn.Module) -> ProxySystem:
    """Refuse another network than the deformation proxy's."""
    if not isinstance(network, ProxySystem):
        raise ConfigError(
            "The deformation proxy's networks are trained: model=proxy data=proxy_brain "
            "training=proxy."
        )
    return network


HOSPITAL = ProxyHospital()
