"""The universal model in memory, with the real apps of both sides, fine-tuning and ledger."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Array, Message
from rich.console import Console
from safetensors.torch import load
from torch import Tensor

from polyclinic.config.compose import load_config
from polyclinic.errors import ConfigError, RunError
from polyclinic.federation.run_folder import RunFolder, read_lines
from polyclinic.imaging.datasets import SPLITS
from polyclinic.learning.model_file import load_model
from polyclinic.learning.state_dict import load_state
from polyclinic.reporting.results import read_results
from polyclinic.store.ledger import Ledger
from polyclinic_client.fleet.app import app as client_app
from polyclinic_client.site.fine_tuning import work
from polyclinic_client.site.predict import predict_files
from polyclinic_server.reports.page import write_report
from polyclinic_server.runs.app import coordinate
from polyclinic_strategies.universal import coordinator
from polyclinic_strategies.universal.report.state import read_state
from tests.fakes import FakeGrid, FakeNode, serve
from tests.task_cohort import SECRETS, write_public, write_tasks

SMALL = [
    "strategy=universal",
    "model=universal",
    "data=universal",
    "training=universal",
    "strategy.stages=2",
    "strategy.contributions.poll_s=0.01",
    "strategy.distillation.steps=6",
    "strategy.distillation.batch_size=8",
    "model.encoder.widths=[8,8,8,8]",
    "data.patch=[32,32]",
    "training.epochs=1",
    "training.batch_size=6",
    "deployment.hospitals=3",
    "deployment.min_hospitals=1",
]
Answer = Callable[[Message], Message | None]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_public(tmp_path_factory.mktemp("coordinator") / "public", 8)


def hospital(config: dict[str, Any], kept: list[Message]) -> Answer:
    """Make a hospital that fine-tunes between two messages; `kept` gets what leaves it."""
    answer = serve(client_app, config)

    def reply(message: Message) -> Message | None:
        answered = answer(message)
        if answered is not None:
            kept.append(answered)
        work(config["site"], Path(config["data"]), Path(config["state"]))
        return answered

    return reply


def prepare(folder: Path, *overrides: str, settings: Sequence[str] = SMALL) -> RunFolder:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "overrides.json").write_text(json.dumps([[*settings, *overrides]]))
    made = RunFolder(folder)
    arms = [{"name": "universal", "title": "Universal model", "kind": "universal"}]
    made.update(name="run", state="running", arms=arms, task="own", score_name="score", rounds=5)
    return made


def nodes(folder: Path, sites: list[Path], kept: list[Message]) -> list[FakeNode]:
    configs = [
        {"site": site.name, "data": str(site), "state": str(folder / "state" / site.name)}
        for site in sites
    ]
    return [
        FakeNode(number, hospital(config, kept)) for number, config in enumerate(configs, start=1)
    ]


def run(
    folder: Path,
    sites: list[Path],
    *overrides: str,
    kept: list[Message] | None = None,
    settings: Sequence[str] = SMALL,
) -> RunFolder:
    made = prepare(folder, *overrides, settings=settings)
    coordinate(FakeGrid(nodes(folder, sites, [] if kept is None else kept)), made)  # type: ignore[arg-type]
    made.close()
    return made


def bases(folder: RunFolder) -> list[str]:
    with Ledger.open(folder.path / "ledger", create=False) as ledger:
        assert ledger.verify() is None
        return ledger.bases()


@pytest.fixture(scope="module")
def kept() -> list[Message]:
    return []


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, sites: list[Path], public: Path, kept: list[Message]
) -> Iterator[RunFolder]:
    yield run(
        tmp_path_factory.mktemp("finished") / "run", sites, f"strategy.public={public}", kept=kept
    )


def test_two_stages_make_two_encoders_of_three_tasks(finished: RunFolder) -> None:
    record = finished.describe()["universal"]
    assert (record["combine"], record["planned"], record["public_images"]) == ("distillation", 2, 8)
    assert [stage["base"] for stage in record["stages"]] == bases(finished)[:2]
    assert len(bases(finished)) == 3
    for stage in record["stages"]:
        assert {
            each["site"]: each["num_examples"] for each in stage["contributions"]
        } == dict.fromkeys(SECRETS, 12)
        assert set(stage["weights"]) == set(stage["trust"]) == set(SECRETS)
        assert len(stage["losses"]) == 6 and stage["seconds"] > 0
        assert all(each["sent"] > 1000 < each["received"] for each in stage["contributions"])


def test_both_encoders_are_probed_everywhere(finished: RunFolder) -> None:
    tested = {
        (line["arm"], line["site"]): line
        for line in read_lines(finished.path / "metrics.jsonl")
        if line["phase"] == "test"
    }
    assert set(tested) == {(arm, site) for arm in ("before", "universal") for site in SECRETS}
    assert all(line["score"] is not None and "scores" not in line for line in tested.values())
    with Ledger.open(finished.path / "ledger", create=False) as ledger:
        encoders = {
            "before": ledger.load_model(ledger.bases()[0]),
            "universal": ledger.load_model(ledger.bases()[-1]),
        }
    for arm, encoder in encoders.items():
        probed, _ = load_state(
            finished.path / "state" / "discs" / "runs" / "run" / arm / "model.safetensors"
        )
        assert all(torch.equal(tensor, probed[name]) for name, tensor in encoder.items())


def everything(value: object) -> bytes:
    """Return all bytes and words of a message's content."""
    if isinstance(value, bytes | str):
        return value if isinstance(value, bytes) else value.encode()
    if isinstance(value, Array):
        return value.data
    if isinstance(value, Mapping):
        return b"\n".join(everything(key) + b"=" + everything(item) for key, item in value.items())
    return b",".join(map(everything, value)) if isinstance(value, list) else str(value).encode()


HELLO = {
    "site", "version", "modality", "refusal", "mode", "task",
    *(f"count.{split}" for split in SPLITS),
}  # fmt: skip


def test_nothing_leaves_a_hospital_but_encoders_statistics_and_figures(
    finished: RunFolder, kept: list[Message], sites: list[Path]
) -> None:  # fmt: skip
    secrets = [name for names in SECRETS.values() for name in names if name != "background"]
    pictures = [path.read_bytes()[40:140] for site in sites for path in sorted(site.glob("*.png"))]
    files, kinds = [], set()
    for message in kept:
        assert message.has_content()
        sent = everything(message.content)
        assert not [secret for secret in secrets if secret.encode() in sent]
        assert not [picture for picture in pictures if picture in sent]
        content = message.content
        records = [*content.config_records.values(), *content.metric_records.values()]
        flat = dict(records[0])
        kinds.add(message.metadata.message_type)
        if message.metadata.message_type == "query.hello":
            assert set(flat) == HELLO
        elif message.metadata.message_type == "query.collect":
            assert set(flat) <= {"needs-base", "doing", "digest", "file"}
            assert not content.array_records
            files += [bytes(flat["file"])] if "file" in flat else []  # type: ignore[arg-type]
        elif message.metadata.message_type == "evaluate.test":
            assert set(flat) <= {"num-examples", "score", "seconds", "loss"}
            assert not content.array_records
        else:
            assert message.metadata.message_type == "query.base" and set(flat) == {"understood"}
    assert kinds == {"query.hello", "query.collect", "query.base", "evaluate.test"}
    with Ledger.open(finished.path / "ledger", create=False) as ledger:
        encoder = ledger.load_model(ledger.bases()[0])
    assert len(files) == 6
    for content in files:
        check_contribution(content, encoder)


def check_contribution(content: bytes, encoder: dict[str, Tensor]) -> None:
    """Check for the tensors of the encoder, two statistics and the declared task, and no more."""
    numbers = 32  # of an embedding: four maps of eight channels
    shapes = {f"task_vector/{name}": tuple(tensor.shape) for name, tensor in encoder.items()}
    shapes |= {
        "statistics/embedding.mean": (numbers,),
        "statistics/embedding.covariance": (numbers, numbers),
    }
    assert {name: tuple(tensor.shape) for name, tensor in load(content).items()} == shapes
    assert all(
        name.startswith(("task_vector/encoder.", "statistics/embedding.")) for name in shapes
    )
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert set(header["__metadata__"]) == {"polyclinic"}
    said = json.loads(header["__metadata__"]["polyclinic"])
    assert set(said) == {"site", "base", "task", "num_examples", "metrics", "created", "version"}
    assert said["task"] == "universal encoder"
    assert set(said["metrics"]) == {
        "loss",
        "score",
        "classes",
        "channels",
        "dimensions",
        "segmentation",
    }


def test_the_coordinator_keeps_the_encoder_alone(finished: RunFolder) -> None:
    network, job = load_model(finished.path / "arms" / "universal" / "model.safetensors")
    assert job.data.task == "own"
    with Ledger.open(finished.path / "ledger", create=False) as ledger:
        newest = ledger.load_model(ledger.bases()[-1])
    state = network.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in newest.items())
    assert all(name.startswith("encoder.") for name in state)


def test_every_hospital_keeps_a_model_with_its_own_head(finished: RunFolder) -> None:
    for site, names in SECRETS.items():
        network, job = load_model(
            finished.path / "state" / site / "runs" / "run" / "universal" / "model.safetensors"
        )
        assert job.data.labels == tuple(names)
        assert any(name.startswith("head.") for name in network.state_dict())


def test_predict_uses_a_hospitals_model_and_refuses_the_encoder_alone(
    finished: RunFolder, sites: list[Path], tmp_path: Path
) -> None:
    kept = finished.path / "state" / "blobs" / "runs" / "run" / "universal" / "model.safetensors"
    predict_files(kept, [sites[2] / "test-0.png"], tmp_path, Console(quiet=True))
    assert (tmp_path / "test-0.nii.gz").exists()
    with pytest.raises(ConfigError, match="without a head"):
        predict_files(
            finished.path / "arms" / "universal" / "model.safetensors",
            [sites[2] / "test-0.png"],
            tmp_path,
            Console(),
        )


def test_the_report_tells_of_both_stages(finished: RunFolder) -> None:
    state = read_state(read_results(finished.path))
    assert state is not None and [stage.stage for stage in state.stages] == [1, 2]
    page = write_report(finished.path).read_text()
    assert "Universal model" in page and "classification, 3 classes, 3 channels, 2-D" in page
    assert not [
        name
        for names in SECRETS.values()
        for name in names
        if name != "background" and name in page
    ]


def test_distillation_without_public_images_is_refused_before_any_hospital_is_asked(
    tmp_path: Path, sites: list[Path]
) -> None:
    made, asked = prepare(tmp_path / "run"), []
    grid = FakeGrid(nodes(tmp_path / "run", sites, asked))
    with pytest.raises(ConfigError, match=r"strategy\.public=FOLDER"):
        coordinate(grid, made)  # type: ignore[arg-type]
    assert not grid.pushed


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("strategy.combine=telepathy", "one of distillation, "),
        ("strategy.combine=fisher", "only hospitals of one task can send"),
        ("strategy.stages=0", "at least 1"),
        ("strategy.contributions.max_staleness=1", "no contribution to an older encoder"),
        ("strategy.contributions.start=in_turn", "no contribution to an older encoder"),
        ("strategy.public=/nowhere/at/all", "no image there"),
    ],
)
def test_settings_that_cannot_be_are_refused(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        coordinator.check_universal(load_config([*SMALL, override]))


def test_other_strategies_are_refused_for_tasks_of_their_own(tmp_path: Path) -> None:
    made = prepare(tmp_path / "run", "strategy=averaging/fedavg")
    text = [each for each in SMALL if not each.startswith("strategy")]
    (made.path / "overrides.json").write_text(json.dumps([[*text, "strategy=averaging/fedavg"]]))
    with pytest.raises(ConfigError, match="strategy=universal"):
        coordinate(FakeGrid([]), made)  # type: ignore[arg-type]


def test_a_hospital_that_comes_later_and_a_stage_with_one_contribution(
    tmp_path: Path, sites: list[Path], public: Path
) -> None:
    folder, kept = tmp_path / "run", []
    made = prepare(folder, f"strategy.public={public}", "strategy.contributions.end.sites=[blobs]")
    discs, _, blobs = nodes(folder, sites, kept)
    grid = FakeGrid([blobs])

    def join(event: dict[str, Any]) -> None:
        if event["kind"] == "stage" and event["number"] == 2:
            grid.nodes[discs.node_id] = discs

    made.listeners.append(lambda event: join(event.to_line()))
    coordinate(grid, made)  # type: ignore[arg-type]
    made.close()
    first, second = made.describe()["universal"]["stages"]
    assert [each["site"] for each in first["contributions"]] == ["blobs"]
    assert {each["site"] for each in second["contributions"]} <= {"blobs", "discs"}
    assert len(bases(made)) == 3
    tested = {
        (line["arm"], line["site"])
        for line in read_lines(folder / "metrics.jsonl")
        if line["phase"] == "test"
    }
    assert tested == {(arm, site) for arm in ("before", "universal") for site in ("blobs", "discs")}


def test_encoders_that_learned_from_images_alone_are_averaged_without_public_ones(
    tmp_path: Path, sites: list[Path]
) -> None:
    made = run(
        tmp_path / "run",
        sites,
        "training.universal.learn=mim",
        "strategy.combine=mean",
        "strategy.stages=1",
    )
    (stage,) = made.describe()["universal"]["stages"]
    assert stage["rule"]["rule"] == "Mean" and "weights" not in stage
    with Ledger.open(made.path / "ledger", create=False) as ledger:
        first, last = (ledger.load_model(base) for base in ledger.bases())
        mean = {name: torch.zeros_like(tensor) for name, tensor in first.items()}
        for entry in ledger.active():
            state, _ = load_state(entry.path)
            # there are no statistics, which this rule does not need
            assert all(name.startswith("task_vector/encoder.") for name in state)
            assert "score" not in entry.metrics
            mean = {
                name: tensor + state[f"task_vector/{name}"] / 3 for name, tensor in mean.items()
            }
    assert all(torch.allclose(last[name], first[name] + mean[name], atol=1e-6) for name in first)


def test_a_coordinator_that_dies_in_the_middle_of_a_stage_asks_nobody_again_who_has_contributed(
    tmp_path: Path, sites: list[Path], public: Path, finished: RunFolder
) -> None:  # fmt: skip
    folder = tmp_path / "run"
    made, everybody = prepare(folder, f"strategy.public={public}"), nodes(folder, sites, [])

    came: list[str] = []

    def die(event: dict[str, Any]) -> None:
        came.extend([event["site"]] if event["kind"] == "contribution" else [])
        if len(came) == 5:  # the second of the second stage
            raise KeyboardInterrupt

    made.listeners.append(lambda event: die(event.to_line()))
    with pytest.raises(KeyboardInterrupt):
        coordinate(FakeGrid(everybody), made)  # type: ignore[arg-type]
    again = RunFolder(folder)
    coordinate(FakeGrid(everybody), again)  # type: ignore[arg-type]
    assert bases(again) == bases(finished)
    events = list(read_lines(folder / "events.jsonl"))
    assert [event["number"] for event in events if event["kind"] == "stage"] == [1, 2, 2]
    assert [event["site"] for event in events if event["kind"] == "contribution"].count(
        "discs"
    ) == 2
    made.close()
    again.close()


def test_a_stage_to_which_nobody_contributes_leaves_the_encoder_as_it_is(
    tmp_path: Path, sites: list[Path], public: Path
) -> None:
    ends = ("strategy.contributions.end.contributions=0", "strategy.contributions.end.seconds=0.2")
    made = prepare(tmp_path / "run", f"strategy.public={public}", *ends)
    coordinate(FakeGrid([]), made)  # type: ignore[arg-type]
    assert len(bases(made)) == 1
    assert [stage["contributions"] for stage in made.describe()["universal"]["stages"]] == [[], []]
    (tmp_path / "one").mkdir()
    single = prepare(tmp_path / "one", f"strategy.public={public}", "strategy.stages=1", *ends)
    with pytest.raises(RunError, match=r"events\.jsonl"):
        coordinate(FakeGrid([]), single)  # type: ignore[arg-type]


def test_a_coordinator_that_dies_while_it_distils_goes_on_in_that_stage(
    tmp_path: Path,
    sites: list[Path],
    public: Path,
    finished: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    distil, calls = coordinator.distil, []

    def dying(*arguments: Any, **options: Any) -> Any:
        calls.append(options["checkpoint"])
        if len(calls) == 2:
            raise KeyboardInterrupt  # a power cut in the second stage
        return distil(*arguments, **options)

    monkeypatch.setattr(coordinator, "distil", dying)
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(folder, sites, f"strategy.public={public}")
    assert len(bases(RunFolder(folder))) == 2
    asked: list[Message] = []
    made = RunFolder(folder)
    coordinate(FakeGrid(nodes(folder, sites, asked)), made)  # type: ignore[arg-type]
    made.close()
    assert calls[2] == calls[1] and len(calls) == 3
    kinds = [message.metadata.message_type for message in asked]
    assert "query.collect" not in kinds  # nobody trains again
    assert bases(made) == bases(finished)
    assert not list((folder / "arms" / "universal" / "checkpoints").glob("*"))
