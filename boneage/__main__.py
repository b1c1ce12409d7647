"""``python -m boneage``: assess radiographs, prepare data sets."""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import boneage
from boneage.arguments import path, positive
from boneage.errors import InputError, printable, run_command, tell
from boneage.precision import PRECISIONS
from boneage.views import PROJECTIONS, REGIONS

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

EXIT_CODES = """exit codes:
  0  everything was done
  1  some files could not be assessed or were refused, each with its reason on stderr
  2  bad arguments, weights or data, or results that cannot be written: the run ended there, and
     what it had done by then is kept"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="boneage",
        description="Bone age from hand radiographs, and age from adults' chest radiographs and "
        "CT volumes,\nwith the evidence shown. For research, not for diagnosis.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--version", action="version", version=f"boneage {boneage.__version__}")
    commands = p.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _add_assess,
        _add_fuse,
        _add_card,
        _add_calibrate,
        _add_push,
        _add_push_space,
        _add_prepare,
    ):
        add(commands)
    return p


def _add_assess(commands: Commands) -> None:
    p = commands.add_parser(
        "assess",
        help="assess radiographs and CT volumes",
        epilog=EXIT_CODES,
        description="Assess files, or all files of folders and zips: PNG, JPEG, TIFF, WebP, BMP, "
        "DICOM;\nwith --task adult also CT volumes: NIfTI files, and DICOM series as a folder or a "
        "zip of slices.\nPrints CSV with one row per file or volume (or JSON).",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("files", nargs="+", type=path, metavar="FILE", help="file, folder or zip")
    p.add_argument(
        "--sex", choices=("F", "M"), help="sex of all patients; if left out, the DICOM file's"
    )
    p.add_argument(
        "--sexes",
        type=path,
        metavar="CSV",
        help="table of the sexes, which take precedence over --sex: columns id or file (with "
        "folders where names repeat), sex or male, and optionally the reference age, boneage "
        "(months) for hands or age (years) for adults",
    )
    p.add_argument(
        "--task", choices=("hand", "adult"), default="hand", help="what is assessed (default: hand)"
    )
    p.add_argument(
        "--region",
        choices=tuple(REGIONS),
        help="part of the image that the weights see (default: whole, or what --weights see)",
    )
    p.add_argument(
        "--weights",
        metavar="DIR_OR_REPO",
        help="weights folder, or organisation/name on the Hugging Face Hub (default: the released "
        "weights)",
    )
    p.add_argument("--revision", help="commit, branch or tag on the Hub")
    p.add_argument("--json", action="store_true", help="print a JSON list in place of CSV")
    p.add_argument(
        "--out",
        type=path,
        metavar="DIR",
        help="also write assessments.csv, assessments.json and a picture for each file: the "
        "radiograph with boxes, for adults with a heat map of what raised the age; no other "
        "picture there is overwritten. What is done is recorded in assessments.jsonl: the same "
        "command continues where it was stopped, if the weights and their settings are the same, "
        "and assesses again what changed. What could not be assessed is listed in failures.csv and "
        "tried again. Names that a spreadsheet would take for formulas begin with an apostrophe in "
        "the CSV files, not in the JSON",
    )
    p.add_argument(
        "--batch-size",
        type=positive,
        default=16,
        metavar="N",
        help="radiographs computed together (default: 16)",
    )
    p.add_argument(
        "--report",
        action="store_true",
        help="with --out, also write a report of one page for each file as PDF",
    )
    p.add_argument("--device", help="cpu, cuda, ... (default: the GPU if there is one)")
    p.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="arithmetic; auto takes bf16 where the processor is fast at it (default)",
    )
    p.set_defaults(run=run_assess)


def _add_fuse(commands: Commands) -> None:
    p = commands.add_parser(
        "fuse",
        help="make one weights folder of several: the mean of their ages (late fusion)",
        description="Write a weights folder whose age is the mean of the given ones' ages.",
    )
    p.add_argument("weights", type=path, nargs="+", metavar="WEIGHTS", help="weights folders")
    p.add_argument("--out", type=path, required=True, metavar="DIR", help="folder to make")
    p.set_defaults(run=run_fuse)


def _add_card(commands: Commands) -> None:
    p = commands.add_parser(
        "card",
        help="write the model card of a weights folder",
        description="Write README.md of a weights folder from its config and an evaluation.",
    )
    p.add_argument("weights", type=path, metavar="WEIGHTS", help="weights folder")
    p.add_argument("--results", type=path, metavar="DIR", help="folder of python -m evaluate --out")
    p.set_defaults(run=run_card)


def _add_calibrate(commands: Commands) -> None:
    p = commands.add_parser(
        "calibrate",
        help="find a weights folder's prediction intervals and what it refuses",
        description="Write into a weights folder, once it is trained, the prediction intervals "
        "(from half of the validation images) and what is needed to refuse images of other kinds. "
        "That takes at least 99 validation images: of fewer, hands are not calibrated at all, and "
        "adults get intervals alone, as fusions and BoNet do.",
    )
    p.add_argument("weights", type=path, metavar="WEIGHTS", help="weights folder")
    p.add_argument(
        "--data",
        type=path,
        required=True,
        metavar="DIR",
        help="labelled folder that the weights were trained on",
    )
    p.set_defaults(run=run_calibrate)


def _add_push(commands: Commands) -> None:
    p = commands.add_parser(
        "push",
        help="upload a weights folder to the Hugging Face Hub",
        description="Upload a weights folder to the Hugging Face Hub in one commit, with a model "
        "card made from its config and an evaluation. Repository and branch are made where there "
        "are none. It needs a token with the right to write: hf auth login, or HF_TOKEN.",
    )
    p.add_argument("weights", type=path, metavar="WEIGHTS", help="weights folder")
    p.add_argument("--repo", required=True, metavar="ORG/NAME", help="repository on the Hub")
    p.add_argument(
        "--private",
        action="store_true",
        help="make it private; an existing one must already be so",
    )
    p.add_argument("--revision", metavar="BRANCH", help="branch (default: main)")
    p.add_argument(
        "--results",
        type=path,
        metavar="DIR",
        help="folder of python -m evaluate --out (default: the bundled results)",
    )
    p.set_defaults(run=run_push)


def _add_push_space(commands: Commands) -> None:
    p = commands.add_parser(
        "push-space",
        help="make a Space of the page on the Hugging Face Hub",
        description="Assemble a Gradio Space of the page from this checkout, for Spaces without a "
        "GPU, and upload it in one commit. It serves the given weights at the commit that their "
        "revision is now; the released weights go along as their fallback.",
    )
    where = p.add_mutually_exclusive_group(required=True)
    where.add_argument("--repo", metavar="ORG/SPACE", help="Space on the Hub")
    where.add_argument(
        "--out",
        type=path,
        metavar="DIR",
        help="upload nothing, write the Space into this folder; `python app.py` in it starts it",
    )
    p.add_argument(
        "--weights",
        metavar="ORG/NAME",
        help="weights for hands on the Hub (default: the released weights)",
    )
    p.add_argument("--revision", metavar="REV", help="commit, branch or tag of the weights")
    p.add_argument(
        "--private",
        action="store_true",
        help="make it private; an existing one must already be so",
    )
    p.set_defaults(run=run_push_space)


def _add_prepare(commands: Commands) -> None:
    p = commands.add_parser(
        "prepare", help="make a labelled folder from a published data set or from CT volumes"
    )
    sources = p.add_subparsers(required=True, metavar="DATASET")
    for add in (_add_rsna, _add_nih, _add_ct):
        add(sources)


def _add_rsna(sources: Commands) -> None:
    p = sources.add_parser(
        "rsna",
        help="RSNA Pediatric Bone Age Challenge 2017",
        description="Make a labelled folder from the official download as it comes: the label "
        "files and the folders or zips of images. A split that is missing is named and skipped.",
    )
    p.add_argument("source", type=path, metavar="SOURCE", help="folder of the download")
    p.add_argument("--out", type=path, required=True, metavar="DIR", help="folder to make")
    p.add_argument(
        "--size", type=int, default=512, help="side of the squashed square images, px (default 512)"
    )
    p.add_argument(
        "--splits",
        type=path,
        metavar="CSV",
        help="columns id and split, in place of the official splits; images that it does not name "
        "are left out (data/rsna-splits.csv is that of the bundled weights)",
    )
    p.set_defaults(run=run_prepare_rsna)


def _add_nih(sources: Commands) -> None:
    p = sources.add_parser(
        "nih",
        help="NIH ChestX-ray14",
        description="Make a labelled folder from the official download as it comes: "
        "Data_Entry_2017*.csv, test_list.txt, and the images in folders, zips or tar files. The "
        "official test patients are the test split, and with them those of the bundled test set; a "
        "tenth of the others is validation.",
    )
    p.add_argument("source", type=path, metavar="SOURCE", help="folder of the download")
    p.add_argument("--out", type=path, required=True, metavar="DIR", help="folder to make")
    p.add_argument(
        "--size", type=int, default=256, help="side of the squashed square images, px (default 256)"
    )
    p.set_defaults(run=run_prepare_nih)


def _add_ct(sources: Commands) -> None:
    p = sources.add_parser(
        "ct",
        help="CT volumes, projected from front to back",
        description="Make a labelled folder of frontal projections from a folder of CT volumes: "
        "NIfTI files, zips and folders of DICOM files. Age and sex come from the table, else from "
        "DICOM tags; volumes without an age are named and left out. Of the patient (the "
        "table's, else the PatientID) only a salted hash is kept; the salt is discarded. Names of "
        "files and folders are kept as ids and names of the images: before running this, "
        "change any name that identifies the patient.",
    )
    p.add_argument("source", type=path, metavar="VOLUMES", help="folder of the volumes")
    p.add_argument("--out", type=path, required=True, metavar="DIR", help="folder to make")
    p.add_argument(
        "--labels",
        type=path,
        metavar="CSV",
        help="table with the columns id (a volume's name without ending), age (years), sex and "
        "optionally patient",
    )
    p.add_argument(
        "--projection",
        choices=tuple(PROJECTIONS),
        default="bone",
        help="the skeleton alone; what a radiograph of the whole would look like; or one of the "
        "thorax (default: bone)",
    )
    p.set_defaults(run=run_prepare_ct)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files need not be text; stderr copes with them as it is.
        sys.stdout.reconfigure(errors="backslashreplace")
    args = parser().parse_args(arguments)
    return run_command("boneage", lambda: args.run(args))


def run_card(args: argparse.Namespace) -> int:
    """``boneage card``."""
    from boneage import hub
    from boneage.card import model_card
    from boneage.measured import read_metrics
    from boneage.predictor import name_of

    config = hub.load_config(args.weights)
    metrics = read_metrics(args.results) if args.results else []
    text = model_card(name_of(args.weights), config, metrics)
    (args.weights / hub.CARD).write_text(text, encoding="utf-8")
    return 0


def run_calibrate(args: argparse.Namespace) -> int:
    """``boneage calibrate``."""
    import json

    from boneage.calibration import calibrate

    entries = calibrate(args.weights, args.data)
    print(json.dumps(entries, indent=2))
    if entries["refusal"] is None:
        print("These weights have intervals and refuse nothing.", file=sys.stderr)
    return 0


def run_fuse(args: argparse.Namespace) -> int:
    """``boneage fuse``."""
    from boneage.fuse import fuse

    fuse(args.weights, args.out)
    return 0


def run_push(args: argparse.Namespace) -> int:
    """``boneage push``."""
    from boneage import hub
    from boneage.card import model_card
    from boneage.measured import read_metrics
    from boneage.predictor import name_of

    config, metrics = hub.load_config(args.weights), read_metrics(args.results)
    card = model_card(name_of(args.weights), config, metrics, args.repo)
    commit = hub.push(args.weights, args.repo, card, private=args.private, branch=args.revision)
    print(f"{commit.url}\nrevision {commit.revision}")
    return 0


def run_push_space(args: argparse.Namespace) -> int:
    """``boneage push-space``."""
    from boneage import space

    files = space.assemble(args.weights, args.revision)
    if args.out:
        space.write(files, args.out)
        return 0
    commit = space.push(files, args.repo, private=args.private)
    print(f"{commit.url}\nrevision {commit.revision}")
    return 0


def run_prepare_rsna(args: argparse.Namespace) -> int:
    """``boneage prepare rsna``."""
    from boneage.prepare import prepare_rsna

    for line in prepare_rsna(args.source, args.out, args.size, args.splits):
        print(printable(line))
    return 0


def run_prepare_nih(args: argparse.Namespace) -> int:
    """``boneage prepare nih``."""
    from boneage.prepare import prepare_nih

    for line in prepare_nih(args.source, args.out, args.size):
        print(printable(line))
    return 0


def run_prepare_ct(args: argparse.Namespace) -> int:
    """``boneage prepare ct``."""
    from boneage.prepare import prepare_ct

    for line in prepare_ct(args.source, args.out, args.labels, args.projection):
        print(printable(line))
    return 0


def run_assess(args: argparse.Namespace) -> int:
    """``boneage assess``: one result or one reason for every file."""
    from boneage import batch, case_table, ct_series
    from boneage.assess_files import assess_items
    from boneage.ledger import settings_of
    from boneage.listing import CLOSED, list_files
    from boneage.memory import keep_freed_memory
    from boneage.predictor import Predictor

    keep_freed_memory()
    if args.report and not args.out:
        raise InputError("--report writes into a folder: give one with --out.")
    is_adult = args.task == "adult"
    files = list_files(args.files, volumes=is_adult, out=args.out, table=args.sexes)
    sources = batch.sources(
        files.paths, whole=ct_series.holds_slices if is_adult else lambda _: False, most=None
    )
    sources += [batch.Source(path, path.name, problem=CLOSED) for path in files.closed]
    table = case_table.CaseTable()
    if args.sexes:
        table = case_table.load(args.sexes, args.task)
    for note in (*files.notes(), *table.report(sources)):
        tell("boneage", note)
    predictor = Predictor.load(
        args.weights,
        task=args.task,
        region=args.region or "whole",
        revision=args.revision,
        device=args.device,
        precision=args.precision,
        wait=False,
    )
    if args.out:
        predictor.resume(settings_of(args.out))
    predictor.prepare()
    seen = predictor.preprocess.region
    if args.region not in (None, seen):
        raise InputError(f"The weights {predictor.id} see the region {seen}, not {args.region}.")
    items = table.items(sources, args.sex, needs_sex=bool(predictor.sexes))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        return assess_items(predictor, items, args.out, args)
    with tempfile.TemporaryDirectory() as folder:
        return assess_items(predictor, items, Path(folder), args)


if __name__ == "__main__":
    sys.exit(main())
