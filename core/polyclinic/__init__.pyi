"""What the public names are, for type checkers and editors; `__init__.py` imports them on use."""

from polyclinic.config.compose import load_config as load_config
from polyclinic.config.schemas import Config as Config
from polyclinic.describing.folders import describe as describe
from polyclinic.describing.statistics import Statistic as Statistic
from polyclinic.errors import ConfigError as ConfigError
from polyclinic.errors import DataError as DataError
from polyclinic.errors import ModelInvalid as ModelInvalid
from polyclinic.errors import PolyclinicError as PolyclinicError
from polyclinic.errors import RunError as RunError
from polyclinic.federation.events import Event as Event
from polyclinic.federation.hospital import CommonTask as CommonTask
from polyclinic.federation.method import Method as Method
from polyclinic.imaging.datasets import SiteDataset as SiteDataset
from polyclinic.imaging.datasets import read_dataset as read_dataset
from polyclinic.learning.model_file import load_model as load_model
from polyclinic.learning.prediction import evaluate as evaluate
from polyclinic.learning.prediction import predict as predict
from polyclinic.reporting.section import Section as Section
from polyclinic.simulation.changes import Change as Change
from polyclinic.simulation.result import SimulationResult as SimulationResult
from polyclinic.simulation.run import simulate as simulate
from polyclinic.store.contribution import Contribution as Contribution
from polyclinic.store.ledger import Ledger as Ledger
from polyclinic_strategies.merging.arithmetic.layer import Rule as Rule
from polyclinic_strategies.merging.in_memory import merge as merge
from polyclinic_strategies.proxy.warping import warp as warp
