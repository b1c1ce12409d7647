"""Starts the web page: ``python app.py``, then open the address that it prints."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from boneage.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page until interrupted; returns the exit code."""
    parser = argparse.ArgumentParser(description="Serve the boneage web page.")
    parser.add_argument(
        "--host",
        default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
        help="address to listen on (default: $GRADIO_SERVER_NAME, else 127.0.0.1: this machine)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=os.environ.get("GRADIO_SERVER_PORT", "7860"),
        help="default: $GRADIO_SERVER_PORT, else 7860",
    )
    parser.add_argument(
        "--weights", metavar="DIR", help="weights folder for hands (default: the released)"
    )
    args = parser.parse_args(arguments)

    from boneage.predictor import Predictor
    from boneage.webui import page
    from boneage.webui.regions import Regions

    try:
        predictor = Predictor.load(args.weights)
        regions = Regions.released()
    except InputError as error:
        print(f"boneage: {error}", file=sys.stderr)
        return 2
    print(f"boneage: http://{args.host}:{args.port} (Ctrl+C ends it)", flush=True)
    try:
        page.launch(page.build(predictor, regions), args.host, args.port)
    except OSError as error:
        print(f"boneage: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
