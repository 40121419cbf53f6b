"""The command ``ebm-fast``: demo, doctor, version."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns 0, 2 after an error that is told in one line, or 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
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

    doctor = commands.add_parser("doctor", help="what this machine has, and what runs on what")
    doctor.set_defaults(run=_doctor)
    doctor.add_argument("--json", action="store_true", help="print JSON instead of tables")

    commands.add_parser("version", help="print the version").set_defaults(run=_version)
    return parser


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
