"""The trainings and evaluations behind the paper's tables; `launch/paper_tables.sh` runs them.

    python launch/paper_plan.py trainings ROOT --level=0    # options of jaxcovid.train, one a line
    python launch/paper_plan.py evaluations ROOT            # options of jaxcovid.evaluate

What is finished is not printed. `--quick` takes small images and few epochs, `--seeds=3` trains
everything three times, `--tables=V,VI` is for some of III, IV, V, VI and ablation. Further options,
as `--config.epochs=5`, go to all trainings.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from launch.paper_methods import DATA, TABLES, Method, Training, methods

QUICK = ("--config.preprocessing.size=128", "--config.epochs=5")
_SIZE = "--config.preprocessing.size="


def trainings(root: Path, tables: Sequence[str] = TABLES) -> list[Training]:
    """All trainings of tables that can be had, each once, those that others need before them."""
    wanted = {
        training.name: training
        for method in methods(root, tables)
        if not method.missing
        for last in method.trainings
        for training in last.with_earlier()
    }
    return list(wanted.values())


def train_options(
    training: Training, root: Path, seed: int, *, quick: bool, more: Sequence[str] = ()
) -> list[str]:
    """The options of jaxcovid.train for a training.

    Of `more` those count that the method does not set itself; a quick one keeps its small images.
    """
    own = [each.format(ROOT=root, SEED=seed) for each in training.options]
    if quick:
        own = [each for each in own if not each.startswith(_SIZE)]
    return [
        f"--config={training.config}",
        f"--config.dataset={training.dataset}",
        f"--config.seed={seed}",
        *(QUICK if quick else ()),
        *more,
        *own,
        f"--data_dir={root / DATA}",
        f"--workdir={training.workdir(root, seed)}",
    ]


def evaluate_options(method: Method, root: Path, seed: int) -> list[str]:
    """The options of jaxcovid.evaluate for a method."""
    return [
        f"--workdir={','.join(map(str, method.workdirs(root, seed)))}",
        f"--data_dir={root / DATA}",
        *([f"--dataset={method.tested_on}"] if method.tested_on else []),
        *([f"--classifier={method.classifier}"] if method.classifier else []),
    ]


def _is_finished(training: Training, root: Path, seed: int) -> bool:
    """True if it has been evaluated, or one that began with it has."""
    users = [
        method
        for method in methods(root)
        if training.name in {x.name for each in method.trainings for x in each.with_earlier()}
    ]
    return bool(users) and all(method.result(root, seed) for method in users)


def parse_options(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[str]]:
    """Parses what the plan and the page have in common, and the options of all trainings.

    Ends the process if ROOT was begun with other ones.
    """
    parser.add_argument("root", type=Path, metavar="ROOT")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tables", type=_tables, default=TABLES)
    arguments, rest = parser.parse_known_args()
    try:
        _keep_options(arguments.root, [*(["--quick"] if arguments.quick else []), *rest])
    except ValueError as error:
        sys.exit(f"error: {error}")
    return arguments, rest


def _tables(names: str) -> list[str]:
    if unknown := set(names.split(",")) - set(TABLES):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: use {', '.join(TABLES)}")
    return names.split(",")


def _keep_options(root: Path, words: Sequence[str]) -> None:
    """Keeps the options of all trainings in ROOT, as what is finished is not trained anew.

    Raises:
      ValueError: it was begun with others.
    """
    file = root / "options.txt"
    if not file.exists():
        root.mkdir(parents=True, exist_ok=True)
        file.write_text(shlex.join(words))
    if (begun := shlex.split(file.read_text())) != list(words):
        raise ValueError(
            f"{root} was begun with the options {shlex.join(begun) or '(none)'}, not "
            f"{shlex.join(words) or '(none)'}; give the same, or another ROOT"
        )


def main() -> None:
    """Parses the command line and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("trainings", "evaluations"))
    parser.add_argument("--level", type=int, default=0)
    arguments, rest = parse_options(parser)
    root, tables = arguments.root, arguments.tables
    lines = []
    for seed in range(arguments.seeds):
        if arguments.what == "trainings":
            lines += [
                shlex.join(train_options(each, root, seed, quick=arguments.quick, more=rest))
                for each in trainings(root, tables)
                if each.level == arguments.level and not _is_finished(each, root, seed)
            ]
        else:
            lines += [
                shlex.join(evaluate_options(method, root, seed))
                for method in methods(root, tables)
                if not method.missing and method.result(root, seed) is None
            ]
    print("\n".join(dict.fromkeys(lines)))


if __name__ == "__main__":
    main()
