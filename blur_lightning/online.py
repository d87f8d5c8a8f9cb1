"""What tracking and reports share of W&B: a run's id, and whether the server lets us in."""

import os

from blur_lightning.parsing import one_line

RUN_ID = "wandb_run.txt"  # in a run's folder: its id on W&B
# Chosen here; a variable that is set already stays.
DEFAULTS = {
    "WANDB_SILENT": "true",  # the lines printed here say what matters
    "WANDB_HTTP_TIMEOUT": "5",  # s that the server has to answer
    "WANDB_INIT_TIMEOUT": "30",  # s; W&B's own 90 are long for a server that has just answered
    "WANDB_FINISH_TIMEOUT": "60",  # s that uploads may take at the end; W&B's own have no limit
    "WANDB_ERROR_REPORTING": "false",  # nothing goes to third parties
}


def mode() -> tuple[str, str]:
    """W&B's mode, and why it is not online: what was set, else whether the server lets us in.

    Nobody is asked for a key, and a server that does not answer is given up after seconds. Sets
    `DEFAULTS` in the environment.
    """
    import wandb

    os.environ.update({name: DEFAULTS[name] for name in DEFAULTS.keys() - os.environ.keys()})
    try:
        wandb.finish()  # the run of an earlier trainer in this process; there may be none
        mode = wandb.setup().settings.mode
        if mode not in ("online", "run"):
            return {"dryrun": "offline"}.get(mode, mode), f"WANDB_MODE is {mode}"
        known = wandb.login(prompt=False, verify=True)
    except Exception as error:  # refused, or no answer
        return "offline", f"no login: {one_line(error)}"
    return ("online", "") if known else ("offline", "no key, see wandb login")
