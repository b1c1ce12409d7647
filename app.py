"""Starts the web page: ``python app.py``, then open the address that it prints."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from boneage.errors import InputError, tell
from boneage.memory import ARENA_MAX, set_allocator

if TYPE_CHECKING:
    from boneage.predictor import Predictor

QUEUE = "64"


def parser() -> argparse.ArgumentParser:
    """The command line, its defaults from the environment."""
    # A Space is reached from outside its container; anywhere else nothing is, unless asked for.
    host = "0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1"
    p = argparse.ArgumentParser(
        description="Serve the boneage web page. In a Space of the Hugging Face Hub (SPACE_ID is "
        "set) it listens on all addresses; elsewhere on this machine's own, unless asked."
    )
    p.add_argument(
        "--host",
        default=os.environ.get("GRADIO_SERVER_NAME", host),
        help="address to listen on (default: $GRADIO_SERVER_NAME, else 127.0.0.1: this machine)",
    )
    p.add_argument(
        "--port",
        type=int,
        default=os.environ.get("GRADIO_SERVER_PORT", "7860"),
        help="default: $GRADIO_SERVER_PORT, else 7860",
    )
    p.add_argument(
        "--weights",
        metavar="DIR_OR_REPO",
        default=os.environ.get("BONEAGE_WEIGHTS"),
        help="weights for hands: a folder, or organisation/name on the Hugging Face Hub (default: "
        "$BONEAGE_WEIGHTS, else those that space.json beside this file pins, with the released "
        "weights as their fallback, else the released weights)",
    )
    p.add_argument(
        "--revision",
        default=os.environ.get("BONEAGE_REVISION"),
        help="commit, branch or tag of --weights on the Hub (default: $BONEAGE_REVISION)",
    )
    p.add_argument(
        "--queue",
        type=int,
        metavar="N",
        default=os.environ.get("BONEAGE_QUEUE", QUEUE),
        help=f"visitors who may wait their turn (default: $BONEAGE_QUEUE, else {QUEUE})",
    )
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page until interrupted; returns the exit code."""
    args = parser().parse_args(arguments)
    # By default each thread has a heap of its own, of which little goes back to the system: with
    # twenty visitors for two minutes the page took some 180 MB more.
    set_allocator({ARENA_MAX: 2})

    from boneage import space
    from boneage.predictor import Predictor
    from boneage.webui import page
    from boneage.webui.regions import Regions

    try:
        if args.queue < 1:
            raise InputError(f"The queue holds {args.queue} visitors; it must hold at least 1.")
        if args.revision and not args.weights:
            raise InputError("--revision is one of --weights on the Hub: give both.")
        if args.weights:
            predictor = Predictor.load(args.weights, revision=args.revision, wait=False)
        else:
            predictor = space.load_pinned(Path(__file__).parent, wait=False)
        regions = Regions.released()
    except InputError as error:
        tell("boneage", str(error))
        return 2
    # Ended like by Ctrl+C, so that the files that visitors gave go with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"boneage: http://{args.host}:{args.port} (Ctrl+C ends it)", flush=True)
    built = page.build(predictor, regions, queue=args.queue)
    # The page is there before torch is: whoever asks for an age meanwhile waits for the network.
    Thread(target=prepare, args=[predictor], name="boneage-prepare").start()
    try:
        page.launch(built, args.host, args.port)
    except OSError as error:
        tell("boneage", str(error))
        return 2
    return 0


def prepare(predictor: Predictor) -> None:
    """Build the network; if it cannot be, say so here as the page says it to visitors."""
    try:
        predictor.prepare()
    except InputError as error:
        tell("boneage", str(error))


if __name__ == "__main__":
    sys.exit(main())
