"""Merging of eight task vectors of a vision transformer: seconds and memory of every rule.

    python benchmarks/merging.py [--parameters 86000000] [--rules mean ties] [--sites 8]
                                 [--folder build/merging]

Where mergekit has the rule, it is measured, too. Both sides merge the same float32 tensors from
files in the page cache to a file, each rule in a process of its own; imports are not timed. Memory
is anonymous memory (RssAnon), polled: pages of mapped input files, which the kernel can take back
at any time, do not count. Threads wait passively on both sides, so that other work on the machine
distorts less. Rows of rules that a run leaves out stay as they are. mergekit runs in the
environment that `make mergekit` makes, or with the python named by POLYCLINIC_MERGEKIT; without one
it is left out.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("results")
PEER = Path(os.environ.get("POLYCLINIC_MERGEKIT", ROOT / ".mergekit" / "bin" / "python"))
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
WIDTH, HIDDEN, TOKENS, CLASSES = 768, 3072, 197, 1000
RULES = {  # our name -> class, mergekit's method and its parameters; None if it has no such rule
    "sum": ("sum.Sum", "task_arithmetic", {"weight": 1.0, "lambda": 0.3}),
    "mean": ("mean.Mean", "linear", {"weight": 1.0}),
    "weighted_mean": ("weighted_mean.WeightedMean", "linear", {"weight": 1.0}),
    "ties": ("ties.Ties", "ties", {"weight": 1.0, "density": 0.2}),
    "dare": ("dare.Dare", "dare_linear", {"weight": 1.0, "density": 0.1, "lambda": 0.3}),
    "dare_ties": ("dare_ties.DareTies", "dare_ties", {"weight": 1.0, "density": 0.1}),
    "trimmed_mean": ("trimmed_mean.TrimmedMean", None, {}),
    "krum": ("krum.Krum", None, {}),
    "multi_krum": ("multi_krum.MultiKrum", None, {}),
    "fisher": ("fisher.Fisher", None, {}),
    "regmean": ("regmean.RegMean", None, {}),
    "iso_c": ("iso_c.IsoC", None, {}),
    "tsv_m": ("tsv_m.TsvM", None, {}),
    "wudi": ("wudi.Wudi", None, {}),
}
STATISTICS = {"fisher": "fisher", "regmean": "gram"}


def layout(layers: int) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of a ViT-B/16 with this many layers, as transformers calls them."""
    shapes: dict[str, tuple[int, ...]] = {
        "vit.embeddings.cls_token": (1, 1, WIDTH),
        "vit.embeddings.position_embeddings": (1, TOKENS, WIDTH),
        "vit.embeddings.patch_embeddings.projection.weight": (WIDTH, 3, 16, 16),
        "vit.embeddings.patch_embeddings.projection.bias": (WIDTH,),
        "vit.layernorm.weight": (WIDTH,),
        "vit.layernorm.bias": (WIDTH,),
        "classifier.weight": (CLASSES, WIDTH),
        "classifier.bias": (CLASSES,),
    }
    linear = {f"attention.{part}_proj": (WIDTH, WIDTH) for part in "qkvo"} | {
        "mlp.fc1": (HIDDEN, WIDTH),
        "mlp.fc2": (WIDTH, HIDDEN),
    }
    for number in range(layers):
        for name, shape in linear.items():
            shapes |= {
                f"vit.layers.{number}.{name}.weight": shape,
                f"vit.layers.{number}.{name}.bias": shape[:1],
            }
        for name in ("layernorm_before", "layernorm_after"):
            shapes |= {
                f"vit.layers.{number}.{name}.{part}": (WIDTH,) for part in ("weight", "bias")
            }
    return shapes


def write_models(folder: Path, layers: int, sites: int) -> None:
    """Write the base and the sites' models for mergekit.

    The same task vectors are written as contributions.
    """
    import torch

    from polyclinic.learning.state_dict import save_state
    from polyclinic.store.contribution import Contribution, write_contribution

    generator = torch.Generator().manual_seed(0)
    base = {
        name: torch.randn(shape, generator=generator) * 0.02
        for name, shape in layout(layers).items()
    }
    config = {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "num_hidden_layers": layers,
        "hidden_size": WIDTH,
    }
    config |= {"intermediate_size": HIDDEN, "num_labels": CLASSES, "torch_dtype": "float32"}

    def write(name: str, state: dict[str, torch.Tensor]) -> None:
        save_state(state, folder / name / "model.safetensors", {"format": "pt"})
        (folder / name / "config.json").write_text(json.dumps(config))

    write("base", base)
    for number in range(sites):
        vectors = {
            name: torch.randn(tensor.shape, generator=generator) * 1e-3
            for name, tensor in base.items()
        }
        write(f"model{number}", {name: tensor + vectors[name] for name, tensor in base.items()})
        write_contribution(
            folder / "plain",
            Contribution(f"site{number}", "base", "benchmark", 100, {}, 0.0, "0"),
            vectors,
            {},
        )


def write_statistics(folder: Path, kind: str) -> None:
    """Write the contributions again, with statistics."""
    import torch

    from polyclinic.store.contribution import TensorFile, write_contribution

    generator = torch.Generator().manual_seed(1)
    for path in sorted((folder / "plain").iterdir()):
        with TensorFile(path) as file:
            vectors = {name: file.task_vector(name) for name in file.names}
            statistics = {}
            for name, vector in vectors.items():
                if kind == "fisher":
                    statistics[f"fisher/{name}"] = torch.rand(vector.shape, generator=generator)
                elif vector.dim() in (2, 4):
                    rows = torch.randn(
                        2 * vector[0].numel(), vector[0].numel(), generator=generator
                    )
                    statistics[f"gram/{name}"] = rows.T @ rows / len(rows)
            write_contribution(folder / kind, file.contribution, vectors, statistics)


def merge_ours(folder: Path, rule: str) -> Callable[[], None]:
    """Return a function that merges once, from files to a file."""
    from importlib import import_module

    from polyclinic_strategies.merging.streaming.merge import merge_to_file

    module, _, name = RULES[rule][0].partition(".")
    made = getattr(import_module(f"polyclinic_strategies.merging.rules.{module}"), name)()
    paths = sorted((folder / STATISTICS.get(rule, "plain")).iterdir())
    return lambda: merge_to_file(
        folder / "base" / "model.safetensors", paths, made, folder / "out" / "ours.safetensors"
    )


def merge_theirs(folder: Path, rule: str) -> Callable[[], None]:
    """Do the same by mergekit's own functions, as `mergekit-yaml` calls them."""
    from mergekit.config import MergeConfiguration  # type: ignore[import-not-found]
    from mergekit.merge import run_merge  # type: ignore[import-not-found]
    from mergekit.options import MergeOptions  # type: ignore[import-not-found]

    _, method, parameters = RULES[rule]
    own = {key: value for key, value in parameters.items() if key in ("weight", "density")}
    models = [{"model": str(path), "parameters": own} for path in sorted(folder.glob("model*"))]
    shared = {key: value for key, value in parameters.items() if key not in own}
    config = {"merge_method": method, "models": models, "parameters": shared, "dtype": "float32"}
    if method != "linear":
        config["base_model"] = str(folder / "base")
    parsed = MergeConfiguration.model_validate(config)
    options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True, device="cpu")
    return lambda: run_merge(parsed, str(folder / "out" / "theirs"), options)


def anonymous_mb() -> float:
    """Return the anonymous memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def child(side: str, folder: Path, rule: str) -> None:
    """Merge once, in a process of its own, and print what it took."""
    work = merge_ours(folder, rule) if side == "ours" else merge_theirs(folder, rule)
    before, peak, done = anonymous_mb(), [0.0], threading.Event()

    def poll() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], anonymous_mb())

    watcher = threading.Thread(target=poll)
    watcher.start()
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    print("\n" + json.dumps({"seconds": seconds, "peak_mb": peak[0], "of_which_before_mb": before}))


def measure(side: str, folder: Path, rule: str, repeats: int) -> dict[str, float]:
    """Return the fastest of some runs, with the peak memory of all of them."""
    python = sys.executable if side == "ours" else str(PEER)
    rows = []
    for _ in range(repeats):
        shutil.rmtree(folder / "out", ignore_errors=True)
        (folder / "out").mkdir()
        command = [python, str(Path(__file__).resolve()), "--child", side, str(folder), rule]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=ROOT, env=ENVIRONMENT
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    fastest = min(row["seconds"] for row in rows)
    return {
        "seconds": fastest,
        **{key: max(row[key] for row in rows) for key in ("peak_mb", "of_which_before_mb")},
    }


def compare(folder: Path, rule: str, repeats: int, parameters: int) -> dict[str, object]:
    """Return one rule's row."""
    from measuring import machine

    on = machine()
    kind = STATISTICS.get(rule)
    if kind:
        write_statistics(folder, kind)
    size = sum(path.stat().st_size for path in (folder / (kind or "plain")).iterdir())
    ours = measure("ours", folder, rule, repeats)
    row: dict[str, object] = {
        "rule": rule,
        "machine": on,
        "parameters": parameters,
        "input_gb": size / 1e9,
    }
    row |= {"ours": {**ours, "gb_per_s": size / 1e9 / ours["seconds"]}}
    if RULES[rule][1] and PEER.exists():
        theirs = measure("theirs", folder, rule, repeats)
        row |= {
            "mergekit": theirs,
            "times_faster": theirs["seconds"] / ours["seconds"],
            "memory_share": ours["peak_mb"] / theirs["peak_mb"],
        }
    if kind:
        shutil.rmtree(folder / kind)
    return row


def copy_bandwidth() -> float:
    """Return the GB/s at which this machine copies 512 MiB of float32."""
    import torch

    source, target = torch.rand(2, 2**27).unbind()
    fastest = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        target.copy_(source)
        fastest = min(fastest, time.perf_counter() - start)
    return source.numel() * 4 / fastest / 1e9


def measure_accumulator(folder: Path, sites: int = 1000) -> dict[str, object]:
    """Measure the seconds to add a site to a running mean of a million parameters.

    Returns:
        Seconds for the second site and the last one, and the bytes of the sum.
    """
    import torch

    from polyclinic.store.contribution import Contribution, TensorFile, write_contribution
    from polyclinic_strategies.merging.rules.mean import Mean
    from polyclinic_strategies.merging.streaming.accumulator import Accumulator

    base = {f"layer{number}.weight": torch.zeros(250, 1000) for number in range(4)}
    vectors = {name: torch.randn(tensor.shape) * 1e-3 for name, tensor in base.items()}
    path = write_contribution(
        folder / "accumulator",
        Contribution("site", "base", "benchmark", 100, {}, 0.0, "0"),
        vectors,
        {},
    )
    running, seconds = Accumulator.create(folder / "sum.safetensors", base, Mean()), []
    with TensorFile(path) as file:
        for number in range(sites):
            start = time.perf_counter()
            running = running.add(file, f"{number:064x}", 100)
            seconds.append(time.perf_counter() - start)

    def middle(values: list[float]) -> float:
        return sorted(values)[len(values) // 2]

    return {
        "parameters": 1_000_000,
        "sites": sites,
        "early_s": middle(seconds[1:21]),
        "late_s": middle(seconds[-20:]),
    }


def measure_all(
    options: argparse.Namespace, folder: Path, earlier: list[dict[str, object]]
) -> Iterator[tuple[str, object]]:
    """Yield every figure as it is measured."""
    fixed = sum(torch_size(shape) for shape in layout(0).values())
    each = sum(torch_size(shape) for shape in layout(1).values()) - fixed
    layers = max(1, round((options.parameters - fixed) / each))
    yield "sites", options.sites
    yield "copy_gb_per_s", copy_bandwidth()
    write_models(folder, layers, options.sites)
    rows = {row["rule"]: row for row in earlier}
    for rule in options.rules:
        rows[rule] = compare(folder, rule, options.repeats, fixed + layers * each)
        print(json.dumps(rows[rule]), flush=True)
        yield "rules", [rows[name] for name in RULES if name in rows]
    yield "accumulator", measure_accumulator(folder)


def torch_size(shape: tuple[int, ...]) -> int:
    """Return the number of entries of a tensor of this shape."""
    size = 1
    for length in shape:
        size *= length
    return size


def main() -> None:
    """Measure and write results/merging.json."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), sys.argv[4])
        return
    from measuring import machine

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=float, default=86e6)
    parser.add_argument("--sites", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path, default=RESULTS / "merging.json")
    options = parser.parse_args()
    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    found |= {"machine": machine()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="merging-", dir=options.folder) as folder:
        for name, value in measure_all(options, Path(folder), found.get("rules", [])):
            found[name] = value
            options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
