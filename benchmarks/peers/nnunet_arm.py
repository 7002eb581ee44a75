"""nnU-Net v2, trained and tested on one split: an arm of `benchmarks/nnunet.py`.

    .nnunet/bin/python benchmarks/peers/nnunet_arm.py WORK SPLIT.json --steps 500 --batch 2

Runs in an environment of its own, which has nnunetv2 and not polyclinic. SPLIT.json names data
folder, cases of training, validation and test. Label maps of the test cases go to WORK/predicted.
Everything but the number of steps, the batch and the device is nnU-Net's own: fingerprint, plan,
preprocessing, augmentation, network, loss, schedule, mirrored inference.
"""

import argparse
import json
import os
import shutil
import time
from pathlib import Path

NAME, CONFIGURATION = "Dataset001_Compared", "3d_fullres"
PARTS = 20  # nnU-Net lowers its rate once in so many steps' share


def main() -> None:
    """Plan, preprocess, train and predict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("split", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    split = json.loads(asked.split.read_text())
    for kind in ("raw", "preprocessed", "results"):
        (asked.work / kind).mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{kind}"] = str(asked.work / kind)
    os.environ |= {"nnUNet_compile": "f", "nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1"}
    _write_raw(asked.work / "raw" / NAME, split)

    import torch
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess,
    )

    torch.set_num_threads(asked.threads)
    extract_fingerprints([1], num_processes=1, show_progress_bar=False)
    plan_experiments([1])
    folder = asked.work / "preprocessed" / NAME
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    own_batch = plans["configurations"][CONFIGURATION]["batch_size"]
    plans["configurations"][CONFIGURATION]["batch_size"] = asked.batch
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    preprocess([1], configurations=[CONFIGURATION], num_processes=[1])
    fold = [{"train": split["training"], "val": split["validation"]}]
    (folder / "splits_final.json").write_text(json.dumps(fold))
    seconds = _train(folder, plans, asked.steps)
    _predict(asked.work, split)
    print(
        json.dumps(
            {
                "patch": plans["configurations"][CONFIGURATION]["patch_size"],
                "own_batch": own_batch,
                "batch": asked.batch,
                "training_s": seconds,
            }
        )
    )


def _write_raw(raw: Path, split: dict) -> None:
    """Write the data as nnU-Net wants them: links to the images."""
    data = Path(split["data"])
    listed = json.loads((data / "dataset.json").read_text())
    images = {
        Path(entry["image"]).name.removesuffix(".nii.gz"): entry for entry in listed["training"]
    }
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    for kind in ("training", "validation", "test"):
        for name in split[kind]:
            image = (data / images[name]["image"]).resolve()
            target = raw / ("imagesTs" if kind == "test" else "imagesTr")
            shutil.copyfile(image, target / f"{name}_0000.nii.gz")
            if kind != "test":
                label = (data / images[name]["label"]).resolve()
                shutil.copyfile(label, raw / "labelsTr" / f"{name}.nii.gz")
    described = {
        "channel_names": {"0": "MRI"},
        "labels": {name: int(number) for number, name in listed["labels"].items()},
        "numTraining": len(split["training"]) + len(split["validation"]),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(described))


def _train(folder: Path, plans: dict, steps: int) -> float:
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    described = json.loads((folder / "dataset.json").read_text())
    plans = {**plans, "continue_training": False}
    os.environ |= {"nnUNet_n_proc_DA": "0"}  # the planner needs one, training does without
    trainer = nnUNetTrainer(plans, CONFIGURATION, 0, described, torch.device("cpu"))
    trainer.num_epochs, trainer.num_iterations_per_epoch = PARTS, steps // PARTS
    trainer.num_val_iterations_per_epoch = 1
    started = time.monotonic()
    trainer.run_training()
    return time.monotonic() - started


def _predict(work: Path, split: dict) -> None:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    trained = work / "results" / NAME / f"nnUNetTrainer__nnUNetPlans__{CONFIGURATION}"
    predictor.initialize_from_trained_model_folder(str(trained), (0,), "checkpoint_final.pth")
    images = work / "raw" / NAME / "imagesTs"
    (work / "predicted").mkdir(exist_ok=True)
    predictor.predict_from_files_sequential(
        [[str(images / f"{name}_0000.nii.gz")] for name in split["test"]],
        [str(work / "predicted" / name) for name in split["test"]],
    )


if __name__ == "__main__":
    main()
