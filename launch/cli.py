"""The ``reelkin`` command: one verb a stage, each loaded only when it is called."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from ..core.config import launched_rank
from ..core.ending import note_exit_code
from ..core.errors import ExitCode
from .run_ranks import leave_exit_code

VERBS: dict[str, tuple[str, str]] = {
    "build": ("reelkin.shards.build", "raw videos -> shards: checks every file, cuts long ones, writes manifests"),
    "verify": ("reelkin.shards.verify", "shards -> everything in them that is not as it was written"),
    "remove": ("reelkin.shards.remove", "takes videos out of shards"),
    "extract": ("reelkin.extract.run", "shards -> frame features"),
    "fit-pca": ("reelkin.extract.fit_pca", "feature store -> PCA file"),
    "reduce": ("reelkin.extract.reduce", "feature store + PCA file -> feature store"),
    "import-features": ("reelkin.extract.import_features", "HDF5, .npy or .npz features of others -> feature store"),
    "export-features": ("reelkin.extract.export_features", "feature store -> HDF5, .npy or .npz"),
    "merge-features": ("reelkin.extract.merge", "several feature stores -> one"),
    "remove-features": ("reelkin.extract.remove", "takes videos out of a feature store"),
    "verify-features": ("reelkin.extract.verify", "feature store -> everything in it that is not as it was written"),
    "compare-decoders": ("reelkin.extract.compare_decoders", "which decoder takes your videos, and whether they agree"),
    "pseudo-labels": ("reelkin.train.pseudo_labels", "features -> groups of similar videos, to train with"),
    "train": ("reelkin.train.run", "features -> trained model"),
    "import-checkpoint": ("reelkin.train.import_checkpoint", "weights of TCA's published code -> trained model"),
    "search": ("reelkin.search.run", "model + features -> index; query -> matches"),
    "evaluate": ("reelkin.evaluate.run", "ground truth or a published benchmark -> figures and report.html"),
    "compare": ("reelkin.evaluate.compare", "two results of one benchmark -> which is better, and how surely"),
    "edits": ("reelkin.shards.edits", "edited copies of videos, with a table of what is whose copy"),
    "scenes": ("reelkin.shards.scenes", "procedural test videos"),
    "demo": ("reelkin.launch.demo", "the whole pipeline, from raw videos to a report"),
    "run": ("reelkin.launch.run_ranks", "a stage on several ranks: reelkin run -np 2 train ..."),
    "doctor": ("reelkin.launch.doctor", "what is installed, what is missing, and how to get it"),
}


def usage() -> str:
    """The text of ``reelkin --help``."""
    lines = ["Reelkin finds every video that shows what a given video shows.", "", "reelkin VERB ...", ""]
    lines += [f"  {verb:<17}{summary}" for verb, (_, summary) in VERBS.items()]
    lines += ["", "reelkin VERB --help shows a verb's flags.", "Example: reelkin demo --small --output demo-run"]
    return "\n".join(lines)


def dispatch(argv: Sequence[str]) -> int:
    """Run the verb ``argv[0]`` with the rest; returns its exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage(), file=sys.stdout if argv else sys.stderr, flush=True)
        return int(ExitCode.OK if argv else ExitCode.USAGE)
    verb = argv[0].replace("_", "-")
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"verbs are {', '.join(VERBS)}"
        print(f"reelkin: there is no verb {argv[0]!r}; {hint}", file=sys.stderr, flush=True)
        return int(ExitCode.USAGE)
    try:
        return int(importlib.import_module(VERBS[verb][0]).main(list(argv[1:])) or 0)
    except SystemExit as stop:  # argparse and usage messages
        return stop.code if isinstance(stop.code, int) else int(ExitCode.FAILED if stop.code else ExitCode.OK)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; the exit code is also left for ``reelkin run`` when that started this process."""
    code = dispatch(sys.argv[1:] if argv is None else argv)
    leave_exit_code(code, launched_rank())
    return note_exit_code(code) if argv is None else code


if __name__ == "__main__":
    sys.exit(main())
