"""What a configuration holds: frozen dataclasses whose values are checked when they are made.

How they are composed from `conf/` is in `polyclinic.config.compose`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from polyclinic.config.release import Release
from polyclinic.config.tasks import KINDS, TaskKind, TaskName

Scalar = bool | int | float | str
Setting = Scalar | list[Scalar]
Part = Mapping[str, Any]  # a node with `_target_`: something that `instantiate` makes

STRICT = ConfigDict(extra="forbid", strict=False, arbitrary_types_allowed=False)
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Chance = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Finite = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
Ratio = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=366 * 86400.0, allow_inf_nan=False)]


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """What a case is, and the grid on which the network sees it."""

    # own: every hospital has its own, and `labels` is empty until it is known
    task: TaskName | Literal["own"]
    channels: Count
    # name of each output: class 0, 1, ..., of which class 0 of a segmentation is the background;
    # regions, findings, or numbers
    labels: tuple[str, ...]
    orientation: Annotated[str, Field(pattern="^[RLAPSI]{2,3}$")]
    spacing_mm: tuple[Positive, ...] | None  # None: images are resized to the patch
    patch: tuple[Count, ...]  # voxels of one training sample; two numbers make the task 2-D
    samples_per_case: Count
    cache_gb: Annotated[float, Field(ge=0, le=4096)]
    intensity: tuple[dict[str, Any], ...]
    augment: tuple[dict[str, Any], ...]
    modality: tuple[str, ...] = ()  # name of each channel, in order; empty: any
    # before `intensity`, for each channel: z_score of the image, or ct: clipped to the federation's
    # percentiles 0.5 and 99.5 within the foreground, and scaled by its mean and deviation there;
    # empty: nothing
    normalization: tuple[Literal["z_score", "ct"], ...] = ()
    foreground: tuple[Finite, ...] = ()  # those four of each channel: low, high, mean, deviation
    foreground_share: Chance = 0.0  # of the patches, centred on the foreground
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.25  # of neighbouring windows
    mirrored_inference: bool = False  # mean over mirrored images, where images may be mirrored
    tolerance_mm: Positive = 2.0  # distance at which two surfaces count as equal in surface Dice
    # steps of a MONAI bundle, as `polyclinic.config.bundles.flat` writes them
    intensity_steps: tuple[str, ...] = ()
    nan_as_zero: bool = False
    mirroring: Literal["auto", "on", "off"] = "auto"  # flips that swap left and right
    # of regions, what is written into a label map for each, later ones over earlier ones;
    # empty: 1, 2, ...
    region_values: tuple[Annotated[int, Field(ge=1, le=255)], ...] = ()
    ranges: tuple[Finite, ...] = ()  # of a regression: lowest and highest value of each number

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return len(self.patch)

    @property
    def kind(self) -> TaskKind:
        """What is known of the task."""
        return KINDS[self.task]


@dataclass(frozen=True, config=STRICT)
class ShiftsConfig:
    """Domain shifts that are generated while training.

    Each is the chance that a sample is shifted so; `feature` says how features are shifted, and
    `feature_probability` the chance for a stage of the network.
    """

    gamma: Chance = 0.0
    inversion: Chance = 0.0
    bias_field: Chance = 0.0
    noise: Chance = 0.0
    blur: Chance = 0.0
    resolution: Chance = 0.0
    feature: Literal["none", "fedfa", "mixstyle"] = "none"
    feature_probability: Chance = 0.5


@dataclass(frozen=True, config=STRICT)
class TrainingConfig:
    """What a hospital does in one round."""

    epochs: Count
    batch_size: Count
    learning_rate: Positive
    optimizer: dict[str, Any]
    loss: dict[str, Any]
    shifts: ShiftsConfig = ShiftsConfig()
    steps: Annotated[int, Field(ge=0, le=1_000_000)] = 0  # in one round; 0: epochs
    schedule: Literal["constant", "polynomial", "cosine"] = "constant"  # over all rounds
    momentum_kept: bool = False  # whether the optimizer's moments go on from round to round
    clip: Ratio = 0.0  # largest norm of the gradients; 0: any
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    workers: Annotated[int, Field(ge=0, le=64)] = 0  # processes that load while the device computes
    # that are scored after a round, the same ones after each; 0: all. The test scores all cases
    validation_cases: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    methods: dict[str, Any] = Field(default_factory=dict)  # name of a method -> its own settings


@dataclass(frozen=True, config=STRICT)
class DeploymentConfig:
    """Where the coordinator listens, and how patient it is."""

    host: str | None  # None: everywhere with TLS, 127.0.0.1 without
    port: Annotated[int, Field(ge=0, le=65535)] | None  # None: as `init` was told, 9092 without TLS
    security: str
    insecure: bool
    min_hospitals: Count
    hospitals: Annotated[int, Field(ge=0, le=1_000_000)]
    wait_s: Seconds
    round_timeout_s: Seconds
    grace_s: Seconds
    # limits of what one hospital can do to an average; 0: none
    max_update_ratio: Ratio
    max_examples_ratio: Ratio
    runs: str
    sites: tuple[str, ...] = ()  # names of the hospitals that take part; none: all that come


SECURE_SUMS = "secure_sums"  # promise of an order: updates leave as parts of secret sums


@dataclass(frozen=True, config=STRICT)
class SumsConfig:
    """How hospitals' updates are summed so that nobody sees a single one."""

    masked: bool  # False: the same quantized vectors in the clear
    clip: Positive  # largest size of a number of an update
    bits: Annotated[int, Field(ge=2, le=31)]  # of a number, with its sign
    least_hospitals: Annotated[int, Field(ge=1, le=10_000)]  # in a sum
    batch: Annotated[int, Field(ge=0, le=10_000)] = 0  # of merging; 0: all that the run waits for
    clipping_norm: Ratio = 0.0  # Euclidean length to which updates are shortened; 0: none is
    # deviation of the noise on a sum of `least_hospitals`, in lengths of the longest; 0: none
    noise_multiplier: Ratio = 0.0


Epsilon = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
# within these, noise and gradients are far from the ends of float32
ClippingNorm = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)]


@dataclass(frozen=True, config=STRICT)
class PatientsConfig:
    """Training with differential privacy for each patient, see `polyclinic.learning.private`."""

    epsilon: Epsilon  # most that all training for the run tells about one patient of a hospital
    clipping_norm: ClippingNorm  # Euclidean length to which one patient's gradient is shortened


class PrivacyConfig(TypedDict):
    """Protection of a hospital.

    Every other key is a setting of `_target_`, which wraps a strategy of averaging.
    """

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    _target_: str | None
    release: Release  # of statistics, asked of every hospital
    sums: NotRequired[SumsConfig]  # of updates; left out: they travel as they are
    patients: NotRequired[PatientsConfig]  # left out: training has no noise


@dataclass(frozen=True, config=STRICT)
class Config:
    """One run of a federation.

    Example:
        ```python
        config = polyclinic.load_config(["strategy=averaging/fedprox", "rounds=10"])
        config.training.learning_rate
        ```

    Attributes:
        strategy: How hospitals' work is combined: a node with `_target_`.
        model: The network: a node with `_target_`.
        data: What a case is, and the grid on which the network sees it.
        training: What a hospital does in one round.
        privacy: What protects a hospital.
        deployment: Where the coordinator listens, and how long it waits.
        rounds: Number of rounds, or of passes where there are no rounds.
        base: File of the weights that every strategy starts from; None: as the seed makes them.
        seed: Decides everything that is drawn.
        choices: Name chosen of each group of conf/.
        bundle: Folder of the MONAI bundle that model=bundle was read from.
    """

    strategy: dict[str, Any]
    model: dict[str, Any]
    data: DataConfig
    training: TrainingConfig
    privacy: PrivacyConfig
    deployment: DeploymentConfig
    rounds: Count
    # at the coordinator, the weights that every strategy starts from; None: as the seed makes them
    base: str | None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)]
    choices: dict[str, str]  # group -> name, as composed
    bundle: str | None = None  # at the coordinator, the folder of model=bundle


@dataclass(frozen=True, config=STRICT)
class JobConfig:
    """The part of a configuration that a hospital acts on."""

    model: dict[str, Any]
    data: DataConfig
    training: TrainingConfig
