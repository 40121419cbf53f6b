"""The command ``ebm-fast``: demo, train, compare, doctor, version."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns 0, 2 after an error that is told in one line, or 130 after Ctrl-C."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command != "train":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.rest = rest
    try:
        return arguments.run(arguments)
    except (OSError, ValueError, ArithmeticError, ImportError) as error:
        print(f"ebm-fast {arguments.command}: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"ebm-fast {arguments.command}: interrupted", file=sys.stderr)
        return 130


def _demo(arguments: argparse.Namespace) -> int:
    from ebm_fast import demo

    demo.run(
        data=arguments.data,
        root=arguments.root,
        out=arguments.out,
        minutes=arguments.minutes,
        seed=arguments.seed,
        resume=arguments.resume,
        threads=arguments.threads,
        iterations=arguments.iterations,
    )
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from ebm_fast import recipes

    config, out, resume = recipes.parse(arguments.rest)
    if recipes.run(config, out, resume=resume) is not None:
        print(f"{config.iterations:,} iterations of {config.objective} on {config.data}: {out}", flush=True)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from ebm_fast import compare

    compare.run(
        data=arguments.data,
        toys=arguments.toys,
        objectives=arguments.objectives,
        seconds=arguments.seconds,
        out=arguments.out,
        seed=arguments.seed,
        quick=arguments.quick,
        threads=arguments.threads,
    )
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from ebm_fast import doctor

    return doctor.main(json=arguments.json)


def _version(arguments: argparse.Namespace) -> int:
    from ebm_fast import __version__

    print(f"ebm_fast {__version__}")
    return 0


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ebm-fast", description="Fast sampling and training of energy-based models.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    demo = commands.add_parser(
        "demo",
        help="train an energy-based model on real digits, with pictures and a report",
        description="Train an energy-based model on real images, sample from it, judge the samples and time "
        "the sampler; leaves pictures, a checkpoint and a report in the output folder.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.set_defaults(run=_demo)
    demo.add_argument(
        "--data",
        choices=["digits", "mnist", "fashion_mnist"],
        default="digits",
        help="digits: the 1797 8x8 digits bundled with scikit-learn; the others need --root",
    )
    demo.add_argument("--root", type=Path, metavar="DIR", help="folder with the four IDX files, plain or .gz")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="output folder")
    demo.add_argument(
        "--minutes",
        type=float,
        default=3.0,
        metavar="M",
        help="length of the training, as minutes on two CPU cores; turned into a fixed number of iterations",
    )
    demo.add_argument("--seed", type=int, default=0, metavar="S", help="governs everything random")
    demo.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint in the output folder"
    )
    demo.add_argument("--threads", type=int, metavar="N", help="CPU threads; by default torch's own choice")
    demo.add_argument("--iterations", type=int, help=argparse.SUPPRESS)

    train = commands.add_parser(
        "train", add_help=False, help="train one objective on one data set from typed settings; --help lists them all"
    )
    train.set_defaults(run=_train)

    compare = commands.add_parser(
        "compare",
        help="train one network with every objective on densities that are known, and measure KL",
        description="Train networks of one size with every objective, for the same time each, on densities of the plane, and "
        "write one page: learned densities beside the truth, samples, KL to the truth by quadrature. About ten minutes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    compare.set_defaults(run=_compare)
    compare.add_argument("--data", choices=["2d"], default="2d", help="2d: toys on the plane")
    compare.add_argument(
        "--toys",
        type=_names,
        metavar="A,B",
        help="some of 8gaussians,moons,spirals,checkerboard,pinwheel,rings; by default all",
    )
    compare.add_argument(
        "--objectives", type=_names, metavar="A,B", help="such as pcd,dsm,nce,adance; by default all"
    )
    compare.add_argument(
        "--seconds", type=float, default=4.0, metavar="S", help="of CPU time to train for, each objective on each toy"
    )
    compare.add_argument("--out", type=Path, default=Path("runs/compare"), metavar="DIR", help="output folder")
    compare.add_argument("--seed", type=int, default=0, metavar="S", help="governs everything random")
    compare.add_argument(
        "--quick", action="store_true", help="a small part of the time, to see that all works; the numbers mean nothing"
    )
    compare.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads")

    doctor = commands.add_parser("doctor", help="what this machine has, and what runs on what")
    doctor.set_defaults(run=_doctor)
    doctor.add_argument("--json", action="store_true", help="print JSON instead of tables")

    commands.add_parser("version", help="print the version").set_defaults(run=_version)
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
