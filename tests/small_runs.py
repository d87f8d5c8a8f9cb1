"""Words of small runs of each task, on data in which nothing divides by two or by three."""

from pathlib import Path

from small_voc import write_voc

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
TASKS = ("Classification", "Segmentation", "Deblurring")
TRAINED, TESTED = 43, 17


def small_run(task, folder, *, normalised=False, drop_rate=0.0, batch=6):
    """Words after the verb: a network of two convolutions, five epochs of seven steps.

    Args:
        task: One of `TASKS`.
        folder: Where its data may lie.
        normalised: Whether the network has batch normalisation.
        drop_rate: Of its dropout.
        batch: Images in a batch.
    """
    words = [
        *("--config", EXPERIMENTS / "base.yaml", "--seed_everything", 1),
        *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
        *("--trainer.enable_model_summary", "false", "--trainer.log_every_n_steps", 1),
        *("--trainer.max_epochs", 5, "--trainer.check_val_every_n_epoch", 2),
        *("--model", f"blur_lightning.tasks.{task}Task", "--model.conditions", "[sharp, D2]"),
        *("--model.net", "nets.Blocks", "--model.net.outputs"),
        {"Classification": 10, "Segmentation": 21, "Deblurring": 3}[task],
        *("--model.net.normalised", str(normalised).lower()),
        *("--model.net.drop_rate", drop_rate),
        *("--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", 0.05),
        *("--model.optimizer.momentum", 0.9, "--model.lr_interval", "step"),
        *("--model.lr_scheduler", "torch.optim.lr_scheduler.OneCycleLR"),
        *("--model.lr_scheduler.max_lr", 0.05, "--model.lr_scheduler.total_steps", 35),
    ]
    if task == "Segmentation":
        words += [
            *("--model.multiple", 1, "--data", "blur_lightning.data.VOCDataModule"),
            *("--data.root", _voc(folder / "voc"), "--data.capture.measure", "geometric_mean"),
            *("--data.capture.canonical", 30, "--data.capture.scale", 30),
            *("--data.capture.crop", 24),
        ]
    else:
        words += [
            *("--data", "blur_lightning.data.ScenesDataModule", "--data.train_count", TRAINED),
            *("--data.test_count", TESTED, "--data.capture.canonical", 32),
            *("--data.capture.scale", 32, "--data.capture.crop", 32),
        ]
    words += ["--model.net.pooled", "true"] if task == "Classification" else []
    words += ["--data.blur", "sharp+D2", "--data.batch_size", batch, "--data.num_workers", 0]
    return [str(word) for word in words]


def _voc(root):
    if not root.exists():
        counts = {"train": TRAINED, "val": TESTED}
        splits = [
            (split, [f"{split}_{number:06}" for number in range(count)])
            for split, count in counts.items()
        ]
        write_voc(root, splits)
    return root
