"""``python -m boneage``: assess radiographs, prepare data sets."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boneage
from boneage.errors import InputError, run_command
from boneage.views import PROJECTIONS, REGIONS

if TYPE_CHECKING:
    from boneage.batch import Item, Outcome
    from boneage.predictor import Predictor

HEAT_MAP_OPACITY = 0.45  # bones stay visible below the map
EXIT_CODES = """exit codes:
  0  everything was done
  1  some files could not be assessed or were refused, each with its reason on stderr
  2  bad arguments, weights or data; nothing was done"""


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

    assess = commands.add_parser(
        "assess",
        help="assess radiographs and CT volumes",
        epilog=EXIT_CODES,
        description="Assess files, or all files of folders and zips: PNG, JPEG, TIFF, WebP, BMP, "
        "DICOM;\nwith --task adult also CT volumes: NIfTI files, and DICOM series as a folder or a "
        "zip of slices.\nPrints CSV with one row a file or volume (or JSON).",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    assess.add_argument("files", nargs="+", type=Path, metavar="FILE", help="file, folder or zip")
    assess.add_argument(
        "--sex", choices=("F", "M"), help="sex of all; where left out, the DICOM file's own"
    )
    assess.add_argument(
        "--sexes",
        type=Path,
        metavar="CSV",
        help="table of the sexes, which go before --sex: columns id or file, sex or male, and "
        "optionally the reference age, boneage (months) for hands or age (years) for adults",
    )
    assess.add_argument(
        "--task", choices=("hand", "adult"), default="hand", help="what is assessed (default: hand)"
    )
    assess.add_argument(
        "--region",
        choices=tuple(REGIONS),
        help="part of the image that the weights see (default: whole, or what --weights see)",
    )
    assess.add_argument(
        "--weights",
        metavar="DIR_OR_REPO",
        help="weights folder, or organisation/name on the Hugging Face Hub (default: the released)",
    )
    assess.add_argument("--revision", help="commit, branch or tag on the Hub")
    assess.add_argument("--json", action="store_true", help="print a JSON list in place of CSV")
    assess.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="also write assessments.csv, assessments.json and a picture for each file: the "
        "radiograph with boxes, for adults with a heat map of what raised the age. What is done "
        "stands in assessments.jsonl: the same command goes on where it was stopped, if the "
        "weights are the same, and assesses again what changed. What could not be assessed stands "
        "in failures.csv and is tried again",
    )
    assess.add_argument(
        "--batch-size",
        type=int,
        default=16,
        metavar="N",
        help="radiographs computed together (default: 16)",
    )
    assess.add_argument(
        "--report",
        action="store_true",
        help="with --out, also write a report of one page for each file as PDF",
    )
    assess.add_argument("--device", help="cpu, cuda, ... (default: the GPU if there is one)")
    assess.set_defaults(run=run_assess)

    fuse = commands.add_parser(
        "fuse",
        help="make one weights folder of several: the mean of their ages (late fusion)",
        description="Write a weights folder whose age is the mean of the given ones' ages.",
    )
    fuse.add_argument("weights", type=Path, nargs="+", metavar="WEIGHTS", help="weights folders")
    fuse.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    fuse.set_defaults(run=run_fuse)

    card = commands.add_parser(
        "card",
        help="write the model card of a weights folder",
        description="Write README.md of a weights folder from its config and an evaluation.",
    )
    card.add_argument("weights", type=Path, metavar="WEIGHTS", help="weights folder")
    card.add_argument(
        "--results", type=Path, metavar="DIR", help="folder of python -m evaluate --out"
    )
    card.set_defaults(run=run_card)

    calibrate = commands.add_parser(
        "calibrate",
        help="find a weights folder's prediction intervals and what it refuses",
        description="Write into a weights folder, once it is trained, the prediction intervals "
        "(from half of the validation images) and, for hands, what is needed to refuse images that "
        "show none.",
    )
    calibrate.add_argument("weights", type=Path, metavar="WEIGHTS", help="weights folder")
    calibrate.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="labelled folder that the weights were trained on",
    )
    calibrate.set_defaults(run=run_calibrate)

    push = commands.add_parser(
        "push",
        help="upload a weights folder to the Hugging Face Hub",
        description="Upload a weights folder to the Hugging Face Hub in one commit, with a model "
        "card made from its config and an evaluation. Repository and branch are made where there "
        "are none. It needs a token with the right to write: hf auth login, or HF_TOKEN.",
    )
    push.add_argument("weights", type=Path, metavar="WEIGHTS", help="weights folder")
    push.add_argument("--repo", required=True, metavar="ORG/NAME", help="repository on the Hub")
    push.add_argument(
        "--private", action="store_true", help="make it private; one that is there must be so"
    )
    push.add_argument("--revision", metavar="BRANCH", help="branch (default: main)")
    push.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="folder of python -m evaluate --out (default: the bundled results)",
    )
    push.set_defaults(run=run_push)

    space = commands.add_parser(
        "push-space",
        help="make a Space of the page on the Hugging Face Hub",
        description="Assemble a Gradio Space of the page from this checkout, for Spaces without a "
        "GPU, and upload it in one commit. It serves the given weights at the commit that their "
        "revision is now; the released weights go along as their fallback.",
    )
    where = space.add_mutually_exclusive_group(required=True)
    where.add_argument("--repo", metavar="ORG/SPACE", help="Space on the Hub")
    where.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="upload nothing, write the Space into this folder; `python app.py` in it starts it",
    )
    space.add_argument(
        "--weights", metavar="ORG/NAME", help="weights for hands on the Hub (default: the released)"
    )
    space.add_argument("--revision", metavar="REV", help="commit, branch or tag of the weights")
    space.add_argument(
        "--private", action="store_true", help="make it private; one that is there must be so"
    )
    space.set_defaults(run=run_push_space)

    prepare = commands.add_parser(
        "prepare", help="make a labelled folder from a published data set or from CT volumes"
    )
    sources = prepare.add_subparsers(required=True, metavar="DATASET")
    rsna = sources.add_parser(
        "rsna",
        help="RSNA Pediatric Bone Age Challenge 2017",
        description="Make a labelled folder from the official download as it comes: the label "
        "files and the folders or zips of images. A split that is missing is named and skipped.",
    )
    rsna.add_argument("source", type=Path, metavar="SOURCE", help="folder of the download")
    rsna.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    rsna.add_argument(
        "--size", type=int, default=512, help="side of the squashed square images, px (default 512)"
    )
    rsna.set_defaults(run=run_prepare_rsna)

    nih = sources.add_parser(
        "nih",
        help="NIH ChestX-ray14",
        description="Make a labelled folder from the official download as it comes: "
        "Data_Entry_2017*.csv, test_list.txt, and the images in folders, zips or tar files. The "
        "official test patients are the test split, and with them those of the bundled test set; a "
        "tenth of the others is validation.",
    )
    nih.add_argument("source", type=Path, metavar="SOURCE", help="folder of the download")
    nih.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    nih.add_argument(
        "--size", type=int, default=256, help="side of the squashed square images, px (default 256)"
    )
    nih.set_defaults(run=run_prepare_nih)

    ct = sources.add_parser(
        "ct",
        help="CT volumes, projected from front to back",
        description="Make a labelled folder of frontal projections from a folder of CT volumes: "
        "NIfTI files, zips and folders of DICOM files. Age and sex come from the table, else from "
        "DICOM tags; volumes without an age are named and left out. Of the patient (the "
        "table's, else the PatientID) a salted hash is kept, whose salt is not. Names of files "
        "and folders are kept as ids and names of the images: a name that tells of the patient has "
        "to be changed before.",
    )
    ct.add_argument("source", type=Path, metavar="VOLUMES", help="folder of the volumes")
    ct.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    ct.add_argument(
        "--labels",
        type=Path,
        metavar="CSV",
        help="table with the columns id (a volume's name without ending), age (years), sex and "
        "optionally patient",
    )
    ct.add_argument(
        "--projection",
        choices=tuple(PROJECTIONS),
        default="bone",
        help="the skeleton alone; what a radiograph of the whole would look like; or one of the "
        "thorax (default: bone)",
    )
    ct.set_defaults(run=run_prepare_ct)
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
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

    print(json.dumps(calibrate(args.weights, args.data), indent=2))
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

    for line in prepare_rsna(args.source, args.out, args.size):
        print(line)
    return 0


def run_prepare_nih(args: argparse.Namespace) -> int:
    """``boneage prepare nih``."""
    from boneage.prepare import prepare_nih

    for line in prepare_nih(args.source, args.out, args.size):
        print(line)
    return 0


def run_prepare_ct(args: argparse.Namespace) -> int:
    """``boneage prepare ct``."""
    from boneage.prepare import prepare_ct

    for line in prepare_ct(args.source, args.out, args.labels, args.projection):
        print(line)
    return 0


def run_assess(args: argparse.Namespace) -> int:
    """``boneage assess``: one result or one reason for every file."""
    from boneage import batch, case_table, volumes
    from boneage.memory import keep_freed_memory
    from boneage.predictor import Predictor

    keep_freed_memory()
    is_adult = args.task == "adult"
    sources = batch.sources(
        list_files(args.files, volumes=is_adult, out=args.out),
        whole=volumes.is_volume if is_adult else lambda _: False,
        most=None,
    )
    table = case_table.CaseTable()
    if args.sexes:
        table = case_table.read(args.sexes.read_bytes(), args.sexes.name, args.task)
    items = table.items(sources, args.sex)
    for note in table.report(sources):
        print(f"boneage: {note}", file=sys.stderr)
    predictor = Predictor.load(
        args.weights,
        task=args.task,
        region=args.region or "whole",
        revision=args.revision,
        device=args.device,
    )
    seen = predictor.preprocess.region
    if args.region not in (None, seen):
        raise InputError(f"The weights {predictor.id} see the region {seen}, not {args.region}.")
    if args.report and not args.out:
        raise InputError("--report writes into a folder: give one with --out.")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        return assess_items(predictor, items, args.out, args)
    with tempfile.TemporaryDirectory() as folder:
        return assess_items(predictor, items, Path(folder), args)


def assess_items(
    predictor: Predictor, items: Sequence[Item], folder: Path, args: argparse.Namespace
) -> int:
    """Assess what the ledger in ``folder`` does not hold yet, and print all; the exit code."""
    from concurrent.futures import ThreadPoolExecutor

    from tqdm import tqdm

    from boneage import batch
    from boneage.ledger import Failures, Ledger, write_csv, write_json
    from boneage.measured import measured_error, read_metrics

    failed = 0

    def tell(item: Item, reason: str) -> None:
        nonlocal failed
        failed += 1
        print(f"boneage: {item.source.file}: {reason}", file=sys.stderr)

    wanted = ((".png", ".pdf") if args.report else (".png",)) if args.out else ()
    error = measured_error(predictor, read_metrics()) if args.report else ""
    with Ledger(folder, predictor.id, predictor.revision, wanted) as ledger:
        failures = Failures(folder)
        pending = [item for item in items if not ledger.holds(item)]
        if len(pending) < len(items):
            done = f"{len(items) - len(pending)} of {len(items)}"
            print(f"boneage: {done} were assessed before.", file=sys.stderr)
            for item, line in ledger.lines(items):
                if reason := line["assessment"]["refused"]:
                    tell(item, reason)
        bar = tqdm(
            total=len(pending),
            desc="assessing",
            disable=len(pending) < 2 or not sys.stderr.isatty(),
        )
        heat_map = args.report or (bool(args.out) and predictor.config["task"] == "adult")
        batches = batch.assess(predictor, pending, batch_size=args.batch_size, heat_map=heat_map)
        with bar, closing(batches), ThreadPoolExecutor(batch.THREADS) as pool:
            for outcomes in batches:
                assessed = [outcome for outcome in outcomes if outcome.assessment is not None]
                pictures: list[str | None] = [None] * len(assessed)
                if args.out:
                    pictures = [ledger.picture(outcome.item.source) for outcome in assessed]
                    paths = [folder / f"{picture}.png" for picture in pictures]
                    list(pool.map(draw, assessed, paths))
                left = iter(pictures)
                for outcome in outcomes:
                    reason = outcome.failure
                    if outcome.assessment is not None:
                        reason = outcome.assessment.refused
                        picture = next(left)
                        if args.report:
                            write_report(outcome, error, folder / f"{picture}.pdf")
                        ledger.add(outcome, picture)
                    else:
                        failures.add(outcome)
                    if reason:
                        bar.clear()
                        tell(outcome.item, reason)
                bar.update(len(outcomes))
        has_reference = any(item.reference is not None for item in items)

        def table(file: Any) -> None:
            write_csv(
                ledger.lines(items),
                ledger.components,
                file,
                has_picture=bool(args.out),
                has_reference=has_reference,
            )

        if args.json:
            write_json(ledger.lines(items), sys.stdout)
        else:
            table(sys.stdout)
        if args.out:
            with (folder / "assessments.json").open("w", encoding="utf-8") as file:
                write_json(ledger.lines(items), file)
            with (folder / "assessments.csv").open("w", newline="", encoding="utf-8") as file:
                table(file)
    return 1 if failed else 0


def draw(outcome: Outcome, path: Path) -> None:
    """Write the radiograph that was assessed as a picture.

    Boxes are drawn where there are any; an adult's has the heat map laid over it.
    """
    from boneage import explain

    radiograph, assessment = outcome.radiograph, outcome.assessment
    assert radiograph is not None
    assert assessment is not None
    film = explain.display_image(radiograph.pixels)
    if assessment.task == "adult" and assessment.heat_map is not None:
        film = explain.overlay_heat_map(film, assessment.heat_map, HEAT_MAP_OPACITY)
    size = (radiograph.width, radiograph.height)
    # A third of the usual level's time for a quarter more bytes.
    explain.draw_boxes(film, assessment, size).save(path, compress_level=1)


def write_report(outcome: Outcome, error: str, path: Path) -> None:
    """Write the report of one assessment; ``error`` says how far the weights err."""
    from boneage.report import to_pdf

    assert outcome.radiograph is not None
    assert outcome.assessment is not None
    path.write_bytes(to_pdf(outcome.assessment, outcome.radiograph, error=error))


def list_files(
    paths: Sequence[Path], volumes: bool = False, out: Path | None = None
) -> Iterator[Path]:
    """The files themselves and, sorted, those of folders and their folders.

    Args:
        paths: files and folders.
        volumes: a folder among whose own files are CT slices is a volume, and stands for them; each
            folder below is judged by itself.
        out: folder of results, which is left out wherever it lies in the others.

    Raises:
        InputError: for a path that does not exist, a folder without files, or ``out`` itself.
    """
    left_out = out.resolve() if out else None
    for path in paths:
        if path.is_dir():
            if path.resolve() == left_out:
                raise InputError(
                    "--out is the folder that is assessed: give another, which may lie inside it."
                )
            inside = list(_inside(path, volumes, left_out))
            if not inside:
                raise InputError(f"The folder {path.name} holds no files.")
            yield from inside
        elif path.exists():
            yield path
        else:
            raise InputError(f"There is no file or folder {path.name}.")


def _inside(folder: Path, volumes: bool, left_out: Path | None) -> Iterator[Path]:
    is_one = False
    if volumes:
        from boneage.ct_series import holds_slices

        is_one = holds_slices(folder)
    if is_one:
        yield folder
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():  # a link may lead back up
            if path.resolve() != left_out:
                yield from _inside(path, volumes, left_out)
        elif path.is_file() and not is_one:
            yield path


if __name__ == "__main__":
    sys.exit(main())
